//! A machine's life: a shell of everything that doesn't depend on the image, then the machine, then why it ended.
//!
//! ```text
//! Shell::new ── VM, interrupt controllers, memory, processors     (made ahead; waits in the pool)
//! Machine::start ── disks, ports, kernel ── threads: "devices", "vcpu0" ..
//!      │ first thread with a reason, or stop()
//!      ▼
//! End ── all processors kicked, ports closed, threads joined
//! ```

mod end;
mod events;
mod roles;
mod run;
mod shell;

pub use end::{End, Ended};
pub use roles::Role;
pub use run::{Machine, MachineError, OnThread, Parts, StartError};
pub use shell::{Shell, ShellConfig, ShellError};
