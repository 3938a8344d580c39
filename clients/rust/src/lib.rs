//! The Rust client of the service: a typed, thin layer over its gRPC API; the command line is built on it.
//!
//! Messages are the API's own ([`v1`]). What this adds: one connection with the caller's token, errors with their
//! reason and details ([`ClientError`]), mutations that are repeated under one `request_id` while the service is
//! away, and streams that take up where they broke off ([`Watch`], uploads and downloads of any size).
//!
//! ```no_run
//! # async fn example() -> Result<(), bulkhead_client::ClientError> {
//! use bulkhead_client::{Client, Connection, v1};
//! let connection = Connection { token: Some("eyJ...".into()), ..Connection::to("http://127.0.0.1:7070") };
//! let client = Client::new(&connection)?;
//! let spec = v1::JobSpec {
//!     image: Some(v1::job_spec::Image::ImageName("demo".into())),
//!     argv: vec!["python3".into(), "-c".into(), "print('hello')".into()],
//!     ..Default::default()
//! };
//! let job = client.create_job("tenants/acme", spec).await?;
//! let ended = client.wait_job(&job.name).await?;
//! println!("{}: {}", ended.state().as_str_name(), ended.reason);
//! # Ok(())
//! # }
//! ```

mod connection;
mod content;
mod error;
mod images;
mod jobs;
mod operators;
mod retry;
mod watch;

pub use bulkhead_proto::v1;
pub use connection::{Client, Connection};
pub use error::{ClientError, FieldViolation};
pub use jobs::is_terminal;
pub use tonic::Code;
pub use watch::{Event, Watch};
