use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::memory::{GuestRam, LOW_END};

/// Where memory above the BIOS begins; a kernel lies there.
pub(super) const HIGH_MEMORY: u64 = 1 << 20;
/// The 64-bit entry of a bzImage lies this far behind its 32-bit one.
const BZIMAGE_ENTRY: u64 = 0x200;
/// `xloadflags`: there is such an entry.
const XLF_KERNEL_64: u16 = 1;
/// A bzImage unpacks itself behind itself, to its preferred address; what it says to need comes on top.
const PREFERRED: u64 = 16 << 20;

/// A kernel in memory.
#[derive(Debug)]
pub struct Kernel {
    /// Where it is entered.
    pub entry: u64,
    /// Where it ends, with the memory that it clears.
    pub end: u64,
    /// The header of a bzImage.
    pub(super) header: Option<setup_header>,
}

impl Kernel {
    /// Loads a vmlinux at its own addresses, or a bzImage at 1 MiB.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn load(ram: &GuestRam, file: &mut File) -> Result<Self, BootError> {
        let mut magic = [0; 4];
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_exact(&mut magic))
            .map_err(BootError::ReadKernel)?;
        file.rewind().map_err(BootError::ReadKernel)?;
        let memory = ram.memory();
        if &magic == b"\x7fELF" {
            let loaded = Elf::load(memory, None, file, Some(GuestAddress(HIGH_MEMORY)))
                .map_err(|source| BootError::Kernel { form: "vmlinux", source })?;
            return Ok(Self { entry: loaded.kernel_load.0, end: loaded.kernel_end, header: None });
        }
        let at = GuestAddress(HIGH_MEMORY);
        let loaded = BzImage::load(memory, Some(at), file, Some(at))
            .map_err(|source| BootError::Kernel { form: "bzImage", source })?;
        let header = loaded.setup_header.filter(|header| header.xloadflags & XLF_KERNEL_64 != 0);
        let header = header.ok_or(BootError::NoEntry)?;
        let end = header.pref_address.max(PREFERRED).saturating_add(u64::from(header.init_size));
        Ok(Self { entry: HIGH_MEMORY + BZIMAGE_ENTRY, end: end.max(loaded.kernel_end), header: Some(header) })
    }
}

/// Puts the initial file system at the end of low memory, where the kernel looks for nothing else. Returns its address
/// and size.
pub(super) fn load_initramfs(
    ram: &GuestRam,
    file: &mut File,
    kernel_end: u64,
) -> Result<(u64, u64), BootError> {
    let bytes = file.seek(SeekFrom::End(0)).map_err(BootError::ReadInitramfs)?;
    file.rewind().map_err(BootError::ReadInitramfs)?;
    let too_large = BootError::TooLarge { initramfs: bytes, memory: ram.bytes() };
    let Some(at) = ram.bytes().min(LOW_END).checked_sub(bytes).map(|at| at & !0xfff) else {
        return Err(too_large);
    };
    if at < kernel_end || bytes > u64::from(u32::MAX) {
        return Err(too_large);
    }
    ram.memory().read_exact_volatile_from(GuestAddress(at), file, bytes as usize)?;
    Ok((at, bytes))
}
