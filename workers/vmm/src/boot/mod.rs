//! Direct boot: kernel, command line, initial file system and boot parameters put into memory, no firmware.
//!
//! ```text
//! 0 MP table   0x7000 boot parameters   0x9000 page tables   0x20000 command line   0x21000 random seed
//! 1 MiB .. kernel .. (end of low memory: initial file system)
//! ```

mod command_line;
mod kernel;
mod parameters;

use std::fs::File;

use vm_memory::GuestMemoryError;

use crate::arch::{mp_table, registers};
use crate::memory::GuestRam;

pub use command_line::CommandLine;
pub use kernel::Kernel;
pub use parameters::BOOT_PARAMETERS;

/// A guest that can't be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Not a vmlinux or bzImage, or it doesn't fit.
    #[error(
        "can't load the guest kernel ({form}); give a vmlinux or a bzImage for x86-64, and memory for it"
    )]
    Kernel {
        /// How it was read.
        form: &'static str,
        /// What is wrong.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// The kernel's file can't be read.
    #[error("can't read the guest kernel")]
    ReadKernel(#[source] std::io::Error),
    /// The bzImage has no 64-bit entry.
    #[error("the guest kernel has no 64-bit entry point")]
    NoEntry,
    /// The initial file system can't be read.
    #[error("can't read the guest's initial file system")]
    ReadInitramfs(#[source] std::io::Error),
    /// Kernel and initial file system need more memory.
    #[error(
        "the kernel and an initial file system of {initramfs} bytes don't fit into {memory} bytes of memory"
    )]
    TooLarge {
        /// Bytes of the initial file system.
        initramfs: u64,
        /// Bytes of memory.
        memory: u64,
    },
    /// The command line is too long or not plain text.
    #[error("the kernel command line is not valid: {0}")]
    CommandLine(String),
    /// The host gives no random bytes.
    #[error("can't get random bytes for the guest")]
    Random(#[source] rustix::io::Errno),
    /// Guest memory could not be written.
    #[error("can't write guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// Loads everything; the boot processor starts at the returned address.
///
/// # Errors
/// [`BootError`].
pub fn load(
    ram: &GuestRam,
    kernel: &mut File,
    initramfs: Option<&mut File>,
    command_line: &CommandLine,
    vcpus: u8,
) -> Result<u64, BootError> {
    let kernel = Kernel::load(ram, kernel)?;
    let initramfs = initramfs.map(|file| kernel::load_initramfs(ram, file, kernel.end)).transpose()?;
    parameters::write(ram, &kernel, initramfs, command_line)?;
    mp_table::write(ram.memory(), vcpus)?;
    registers::write_page_tables(ram.memory())?;
    Ok(kernel.entry)
}
