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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MEMORY: u64 = 32 << 20;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("its bytes");
        file
    }

    fn load(bytes: &[u8]) -> Result<(Kernel, GuestRam), BootError> {
        let ram = GuestRam::new(MEMORY).expect("memory");
        Kernel::load(&ram, &mut file(bytes)).map(|kernel| (kernel, ram))
    }

    /// Two sectors of setup, then the kernel.
    fn bzimage(xloadflags: u16) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
        image[0x236..0x238].copy_from_slice(&xloadflags.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&(16u64 << 20).to_le_bytes());
        image[0x260..0x264].copy_from_slice(&(4u32 << 20).to_le_bytes());
        image.extend(b"packed kernel");
        image
    }

    #[test]
    fn a_bzimage_is_entered_at_its_64_bit_entry_and_keeps_its_header() {
        let (kernel, ram) = load(&bzimage(XLF_KERNEL_64)).expect("a kernel");
        assert_eq!((kernel.entry, kernel.end), (0x10_0200, 20 << 20));
        assert_eq!(kernel.header.map(|header| { header.version }), Some(0x20f));
        let mut loaded = [0; 13];
        ram.memory().read_slice(&mut loaded, GuestAddress(HIGH_MEMORY)).expect("memory");
        assert_eq!(&loaded, b"packed kernel");
        assert!(matches!(load(&bzimage(0)), Err(BootError::NoEntry)));
    }

    #[test]
    fn what_is_no_kernel_is_refused_with_what_to_give() {
        for bytes in [&b"#!/bin/sh\n"[..], b"\x7fELF", &[0; 4096], b"MZ"] {
            let Err(error) = load(bytes) else { panic!("{bytes:?} was loaded") };
            assert!(matches!(error, BootError::Kernel { .. } | BootError::ReadKernel(_)), "{error}");
        }
    }

    #[test]
    fn an_initial_file_system_lies_at_the_end_or_is_refused() {
        let ram = GuestRam::new(MEMORY).expect("memory");
        let placed = load_initramfs(&ram, &mut file(&[7; 5000]), 20 << 20).expect("it fits");
        assert_eq!(placed, (MEMORY - 8192, 5000));
        for end in [MEMORY - 4096, MEMORY, u64::MAX] {
            let refused = load_initramfs(&ram, &mut file(&[7; 5000]), end);
            assert!(matches!(refused, Err(BootError::TooLarge { initramfs: 5000, .. })), "{end}");
        }
    }
}
