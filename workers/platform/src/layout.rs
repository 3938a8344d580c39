//! Where things lie in a stub's address space. The guest may place anything elsewhere; what it does to these
//! ranges only hurts itself.
//!
//! ```text
//! STUB_TEXT   one page, r-x: the handler and the filter's program
//! SLOTS       MAX_THREADS slots of SLOT_SIZE, private memory, touched on use
//!             slot: header | commands | scratch | start frame | alternate stack
//! vdso, vvar  as the host placed them (Layout::vdso); a host-chosen place for each sandbox
//! ```
//! Neither lies where a sanitizer's run time puts something at an address of its own choice: AddressSanitizer's shadow
//! ends below 0x1100_0000_0000, those of thread and memory sanitizers use the rest up to 0x5100_0000_0000 and from
//! 0x6000_0000_0000 on; programs lie from 0x5555_5555_4000 to 0x5655_5555_4000.
//!
//! The host's stack of the zygote is unmapped in warm stubs: its place, below [`Layout::stack_top`], is free for
//! the guest's main stack.

/// The page of code that every stub has.
pub const STUB_TEXT: u64 = 0x59ff_fff0_0000;
/// Bytes of the stub's code mapping.
pub const STUB_TEXT_SIZE: u64 = 0x1000;
/// The first slot.
pub const SLOTS: u64 = 0x5a00_0000_0000;
/// Bytes of a slot; the handler finds its slot by masking its stack pointer.
pub const SLOT_SIZE: u64 = 0x8000;
/// Threads of one guest process. Linux's own default for a machine of this size is some 30,000; each of ours
/// costs address space that counts against the guest's RLIMIT_AS.
pub const MAX_THREADS: u64 = 2048;
/// Bytes of the slot area.
pub const SLOTS_SIZE: u64 = MAX_THREADS * SLOT_SIZE;
/// Address space that a stub has besides the guest's: add it to RLIMIT_AS and RLIMIT_DATA of a stub.
pub const OVERHEAD: u64 = SLOTS_SIZE + STUB_TEXT_SIZE;

/// Commands in one list.
pub const MAX_COMMANDS: usize = 64;

/// Descriptor in every stub that is the public image file, if there is one; usable only by stub code
/// (`HostCall::mmap` with it needs no consent).
pub const IMAGE_FD: i32 = 1000;

/// Descriptors for mappings by command: the first, and how many.
pub(crate) const COMMAND_FDS: i32 = IMAGE_FD + 1;
pub(crate) const COMMAND_FDS_COUNT: u32 = 20;

// Inside a slot. The same numbers are in stub.S.
pub(crate) const SLOT_COUNT: u64 = 0x00;
pub(crate) const SLOT_FS: u64 = 0x08;
pub(crate) const SLOT_TOKEN: u64 = 0x18;
/// Written by the host's kernel when it forks: the child's number.
pub(crate) const SLOT_CHILD: u64 = SLOT_TOKEN + 8;
pub(crate) const SLOT_COMMANDS: u64 = 0x40;
pub(crate) const COMMAND_SIZE: usize = 56;
/// Bytes at [`scratch`](crate::GuestThread::scratch).
pub const SCRATCH_SIZE: usize = 0x1000;
pub(crate) const SLOT_SCRATCH: u64 = 0x1000;
pub(crate) const SLOT_START_UC: u64 = 0x2008;
pub(crate) const SLOT_ALTSTACK: u64 = 0x3000;
pub(crate) const ALTSTACK_SIZE: u64 = SLOT_SIZE - SLOT_ALTSTACK;

const _: () = assert!(SLOT_COMMANDS + (MAX_COMMANDS * COMMAND_SIZE) as u64 <= SLOT_SCRATCH);

/// Addresses that the host chose when the sandbox's zygote started: the same in all of its stubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The vDSO's ELF header, for AT_SYSINFO_EHDR.
    pub vdso: u64,
    /// Bytes of the vDSO.
    pub vdso_size: u64,
    /// The first address above the place of the host's stack: the guest's main stack may end here or below.
    pub stack_top: u64,
    /// The first address of the place of the host's stack.
    pub stack_bottom: u64,
    /// Where the host's mmap area begins (it grows down from here); randomised for each sandbox.
    pub mmap_base: u64,
}

/// Whether an address lies in what a guest's own maps must not show.
pub fn is_hidden(address: u64) -> bool {
    (STUB_TEXT..STUB_TEXT + STUB_TEXT_SIZE).contains(&address)
        || (SLOTS..SLOTS + SLOTS_SIZE).contains(&address)
}

pub(crate) fn in_stub_text(ip: u64) -> bool {
    (STUB_TEXT..STUB_TEXT + STUB_TEXT_SIZE).contains(&ip)
}
