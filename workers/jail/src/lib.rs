//! The host side of a sandbox's walls: control groups (v1 and v2), namespaces, privilege drop, seccomp, host uids, and the
//! spawn of a sandbox's first process.
//!
//! The launcher (root) uses [`cgroup`], [`uid`] and [`spawn`]; the process that it starts calls [`enter`], and, when all
//! that needs more rights is done, [`seccomp::install`]. Nothing here runs a job without its limits: a step that can't be
//! done is an error that names the step, and the job does not start.
//!
//! ```text
//! launcher thread (root)                          first process (PID 1 of the sandbox)
//!   uid::Range::claim   one host uid
//!   SandboxGroups::create  {sentry,job} groups
//!   spawn::spawn  --- clone(NEWPID), exec --->      enter(): join group, namespaces, empty root,
//!   config frame  ---------------------------->       host uid, user namespace, no capabilities, rlimits
//!                                                   seccomp::install(Role::Sentry)
//! ```

pub mod cgroup;
pub mod enter;
pub mod probe;
pub mod rlimit;
pub mod seccomp;
pub mod signals;
pub mod spawn;
pub mod uid;

pub use enter::{JailConfig, JailError, Step, enter};
