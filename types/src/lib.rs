//! The vocabulary of the service: ids, limits, job states, sizes. No I/O.
//!
//! Everything that crosses a process boundary inside Bulkhead is made of these types; the public API has its
//! own messages (crate `bulkhead-proto`), which are converted to these once, at the edge, and validated there.

mod attempt;
mod digest;
pub mod glob;
mod id;
mod job;
mod limits;
mod node;
mod outcome;
mod state;
mod user;

pub use attempt::{AttemptKey, OutputStream, Timestamp};
pub use digest::{Digest, ParseDigestError};
pub use id::{IdError, ImageName, JobId, JobName, MAX_NAME_LENGTH, NodeId, SandboxId, TenantId};
pub use job::{
    Backend, Content, EnvVar, ImageRef, InputArchive, InputFile, JobSpec, OutputSpec, Priority, RetryPolicy,
    SpecError, UserSpec, bounds,
};
pub use limits::{Limit, LimitError, Limits};
pub use node::{BackendOffer, NodeCapacity, SandboxOverhead};
pub use outcome::{AttemptOutcome, OutputFile, StreamTotals, SyscallCount, Termination, Usage};
pub use state::{AttemptState, JobState, Transition, TransitionError, next};
pub use user::{MAX_ACCOUNTS_BYTES, ResolvedUser, UserError};
