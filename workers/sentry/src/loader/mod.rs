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

/// A random number, for the layout of address spaces and AT_RANDOM.
fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // The host's pool is ready long before a sandbox starts; a short read leaves zeros, which only cost
    // randomness.
    let _short = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}
