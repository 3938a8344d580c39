//! Control groups, v1 and v2: one pair of groups, `bulkhead/<sandbox>/{sentry,job}`, for every sandbox.
//!
//! The parent group carries what holds for both (cpu quota, freezer, the sum of the memory); the `job` group the tenant's
//! memory limit and process count; the `sentry` group the process count of the sentry, so that a fork bomb can't take away
//! the threads that serve it. Processes join by writing `0` to descriptors that the launcher opened and passed on.

mod files;
mod groups;
mod mounts;
mod usage;
mod v1;
mod v2;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use groups::{GroupLimits, SandboxGroups};
pub use mounts::{Controller, ControllerState, Survey};
pub use usage::{Meter, Usage};

/// Name of the directory below which the service keeps its groups.
pub const DEFAULT_NAME: &str = "bulkhead";

/// Which interface of the kernel the groups live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        })
    }
}

/// Why control groups can't be used, or why one operation on them failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The host's mounts can't be read.
    #[error("can't read {path}")]
    Survey {
        /// The file under /proc.
        path: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A controller without which limits can't be enforced.
    #[error("the {controller} control group controller is missing: {fix}")]
    Missing {
        /// The first missing controller.
        controller: Controller,
        /// What the operator can do.
        fix: String,
    },
    /// A limit, or the group that carries it, can't be set; the sandbox must not start.
    #[error("can't {action} {path}", path = path.display())]
    File {
        /// Verb: create, set, open, read, remove.
        action: &'static str,
        /// The group or its file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A file of a group does not hold what the kernel documents.
    #[error("{path} holds no number", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// A group still has processes.
    #[error("{path} still has processes after {waited_ms} ms", path = path.display())]
    Busy {
        /// The group.
        path: PathBuf,
        /// How long removal was tried, in milliseconds.
        waited_ms: u128,
    },
    /// A name that can't be a directory of its own.
    #[error("{name:?} can't name a control group: use 1 to 64 letters, digits and dashes")]
    Name {
        /// The refused name.
        name: String,
    },
}

/// The place of all our groups on this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    inner: Arc<Layout>,
}

#[derive(Debug)]
enum Layout {
    V1(v1::Root),
    V2(v2::Root),
}

impl Hierarchy {
    /// Finds the controllers and makes the top directory `bulkhead` where it works: below the mount's root, else below this
    /// process's own group.
    ///
    /// # Errors
    /// [`CgroupError::Missing`] names the first missing controller and the fix; [`CgroupError::File`] a directory that
    /// can't be made.
    pub fn detect() -> Result<Self, CgroupError> {
        Self::detect_named(DEFAULT_NAME)
    }

    /// [`Hierarchy::detect`] with another top directory, so that tests don't share the service's.
    ///
    /// # Errors
    /// As [`Hierarchy::detect`]; [`CgroupError::Name`] for a name that is no plain word.
    pub fn detect_named(name: &str) -> Result<Self, CgroupError> {
        check_name(name)?;
        let survey = Survey::read()?;
        let layout = match survey.chosen()? {
            Version::V2 => Layout::V2(v2::Root::prepare(&survey, name)?),
            Version::V1 => Layout::V1(v1::Root::prepare(&survey, name)?),
        };
        Ok(Hierarchy { inner: Arc::new(layout) })
    }

    /// Which interface is used.
    pub fn version(&self) -> Version {
        match &*self.inner {
            Layout::V1(_) => Version::V1,
            Layout::V2(_) => Version::V2,
        }
    }

    /// The directories that hold our groups, one per v1 controller, or the one of v2.
    pub fn roots(&self) -> Vec<&Path> {
        match &*self.inner {
            Layout::V1(root) => root.directories(),
            Layout::V2(root) => vec![root.directory()],
        }
    }

    /// Names of all sandboxes that have a group in any controller, sorted.
    pub fn sandboxes(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.roots().into_iter().flat_map(files::subdirectories).collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Removes the top directories, if no sandbox has a group. For tests and for `doctor --leftovers --clean`.
    pub fn remove_if_empty(&self) {
        for root in self.roots() {
            // A directory that still has groups stays: its removal fails with EBUSY, and its groups are reported by name.
            let _ = std::fs::remove_dir(root);
        }
    }

    fn layout(&self) -> &Layout {
        &self.inner
    }
}

fn check_name(name: &str) -> Result<(), CgroupError> {
    /// Bytes; a host's limit is 255, ids are 36.
    const LONGEST: usize = 64;
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if name.is_empty() || name.len() > LONGEST || !plain {
        return Err(CgroupError::Name { name: name.chars().take(LONGEST).collect() });
    }
    Ok(())
}
