use std::fmt;

/// What a thread that the guest keeps busy does. The lists of system calls that each may make are
/// `bulkhead_jail::seccomp`'s; [`super::Parts::on_thread`] installs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Serves queues and streams.
    Devices,
    /// Runs a processor.
    Vcpu,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Devices => "devices",
            Self::Vcpu => "vcpu",
        })
    }
}
