//! Starting programs: finding the file, reading ELF, laying out the address space, and moving into it.

mod auxv;
mod elf;
mod exec;
mod image;
mod prepare;
mod script;
mod stack;

pub use exec::{Request, start_first, sys_execve, sys_execveat};
pub use stack::Strings;

/// Reads the headers of a program in memory, as exec does: how many segments it has.
///
/// # Errors
/// ENOEXEC and the like for what exec refuses.
pub fn look_at(file: &[u8]) -> Result<usize, crate::errno::Errno> {
    let read_at = |offset: u64, into: &mut [u8]| {
        let rest = usize::try_from(offset).ok().and_then(|start| file.get(start..)).unwrap_or(&[]);
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    };
    Ok(elf::parse(&read_at)?.segments.len())
}

/// A random number, for the layout of address spaces and AT_RANDOM.
fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // The host's pool is ready long before a sandbox starts; a short read leaves zeros, which only cost
    // randomness.
    let _short = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}
