//! How the agent is started.

use std::path::PathBuf;

use bulkhead_wire::{Failed, FailureStage};

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where mounts are prepared: the initramfs' root, or a directory of the tests.
    pub(crate) base: PathBuf,
    /// In the order of [`Disks`]; none are the machine's own.
    disks: Vec<PathBuf>,
    /// The connections are descriptors 3 to 6 instead of vsock ports.
    pub(crate) inherited: bool,
    /// Leave control groups alone.
    pub(crate) unlimited: bool,
}

/// The block devices, in the order in which the VMM attaches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disks {
    pub(crate) public: PathBuf,
    /// Files that are not world-readable, where the image has some.
    pub(crate) private: Option<PathBuf>,
    pub(crate) scratch: PathBuf,
}

/// The machine's disks as Linux names them.
const DISKS: [&str; 3] = ["/dev/vda", "/dev/vdb", "/dev/vdc"];

impl Options {
    /// In a virtual machine.
    pub(crate) fn of_machine() -> Self {
        Self {
            base: "/".into(),
            disks: DISKS.iter().map(PathBuf::from).collect(),
            inherited: false,
            unlimited: false,
        }
    }

    /// As a test starts the agent, without a virtual machine: `BASE PUBLIC [PRIVATE] SCRATCH`, in namespaces of its own,
    /// with its connections as descriptors. Control groups of the machine are not touched.
    ///
    /// # Errors
    /// Another number of arguments.
    pub(crate) fn of_arguments(arguments: &[String]) -> Result<Self, Failed> {
        let paths: Vec<PathBuf> = arguments.iter().map(PathBuf::from).collect();
        match paths.split_first() {
            Some((base, disks)) if (2..=3).contains(&disks.len()) => {
                Ok(Self { base: base.clone(), disks: disks.to_vec(), inherited: true, unlimited: true })
            }
            _ => Err(Failed {
                stage: FailureStage::Internal,
                message: "the agent is started as PID 1, or with BASE PUBLIC [PRIVATE] SCRATCH".into(),
            }),
        }
    }

    /// The disks of an image.
    pub(crate) fn disks(&self, has_private: bool) -> Result<Disks, Failed> {
        let mut disks = self.disks.iter().cloned();
        let mut next = || {
            disks.next().ok_or_else(|| Failed {
                stage: FailureStage::Internal,
                message: "a disk of the machine is missing".into(),
            })
        };
        let public = next()?;
        let private = if has_private { Some(next()?) } else { None };
        Ok(Disks { public, private, scratch: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scratch_disk_is_behind_the_image() {
        let machine = Options::of_machine();
        let disks = machine.disks(false).expect("two disks");
        assert_eq!((disks.private, disks.scratch), (None, "/dev/vdb".into()));
        let disks = machine.disks(true).expect("three disks");
        assert_eq!((disks.private, disks.scratch), (Some("/dev/vdb".into()), "/dev/vdc".into()));
    }

    #[test]
    fn another_number_of_arguments_is_refused() {
        assert!(Options::of_arguments(&["base".into(), "public".into()]).is_err());
        let options = Options::of_arguments(&["b".into(), "p".into(), "s".into()]).expect("three");
        assert!(options.disks(true).is_err());
    }
}
