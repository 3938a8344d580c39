//! The node agent: registers with a server, runs leases in sandboxes, reports, drains, and cleans up what an earlier
//! life left.
//!
//! ```text
//! server <══ Attach (one ordered stream) ══> attach::Session ──> Attempt (state) <── run (a thread per sandbox)
//!        <── FetchImage, FetchBlob ─────────  cache                │    ▲
//!        <── StoreBlob ─────────────────────  attach::ship <── spool (disk)
//! ```
//! An attempt's life here: a lease comes; its image and blobs are brought into the cache; a thread makes the sandbox
//! and runs the job; its output goes through pipes into the spool on disk, and from there to the server, which
//! confirms what is durable; the outcome is spooled too and is forgotten only when the server has confirmed it. A
//! lost connection changes nothing for a running attempt, until its lease ends without a word from the server. A
//! failure of the node itself (no sandbox, no room, no contact) ends an attempt as LOST, with the reason: then the
//! job's policy may try again elsewhere; what the job itself did wrong ends it as FAILED.
//!
//! The daemon never opens a path that a tenant named: names travel to the sandbox inside framed messages, and files
//! come out of it as streams that are stored under their digests.

mod attach;
mod attempt;
mod backends;
mod cache;
mod capacity;
mod config;
mod name;
mod run;
mod spool;
mod worker;

pub use backends::Backends;
pub use capacity::{measure, memory_is_short};
pub use config::{DaemonError, WorkerConfig};
pub use name::BadName;
pub use worker::Worker;
