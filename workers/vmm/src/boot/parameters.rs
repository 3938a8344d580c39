use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use rustix::rand::GetRandomFlags;
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, CommandLine, Kernel};
use crate::memory::{GuestRam, HIGH_START, LOW_END};

/// The guest address of the boot parameters.
pub const BOOT_PARAMETERS: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x2_0000;
const SEED: u64 = 0x2_1000;
const SEED_BYTES: usize = 32;
const SETUP_RNG_SEED: u32 = 9;
/// Where the first 640 KiB end, less the extended BIOS data area.
const CONVENTIONAL_END: u64 = 0x9_fc00;
const HIGH_MEMORY: u64 = super::kernel::HIGH_MEMORY;
const E820_RAM: u32 = 1;
const LOADER_UNKNOWN: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;

pub(super) fn write(
    ram: &GuestRam,
    kernel: &Kernel,
    initramfs: Option<(u64, u64)>,
    command_line: &CommandLine,
) -> Result<(), BootError> {
    let memory = ram.memory();
    let text = command_line.to_bytes()?;
    memory.write_slice(&text, GuestAddress(COMMAND_LINE))?;
    let mut parameters = boot_params::default();
    if let Some(header) = kernel.header {
        parameters.hdr = header;
    }
    let header = &mut parameters.hdr;
    header.type_of_loader = LOADER_UNKNOWN;
    header.boot_flag = BOOT_FLAG;
    header.header = HEADER_MAGIC;
    header.loadflags |= LOADED_HIGH;
    header.cmd_line_ptr = COMMAND_LINE as u32;
    header.cmdline_size = (text.len() - 1) as u32;
    header.setup_data = SEED;
    if let Some((at, bytes)) = initramfs {
        header.ramdisk_image = at as u32;
        header.ramdisk_size = bytes as u32;
    }
    let ranges = memory_map(ram.bytes());
    for (entry, (addr, size)) in parameters.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry { addr: *addr, size: *size, r#type: E820_RAM };
    }
    parameters.e820_entries = ranges.len() as u8;
    memory.write_obj(parameters, GuestAddress(BOOT_PARAMETERS))?;
    write_seed(ram)
}

fn memory_map(bytes: u64) -> Vec<(u64, u64)> {
    let low = bytes.min(LOW_END);
    let mut ranges = vec![(0, CONVENTIONAL_END), (HIGH_MEMORY, low - HIGH_MEMORY)];
    if bytes > low {
        ranges.push((HIGH_START, bytes - low));
    }
    ranges
}

/// Until the kernel's random generator is ready every exec hashes anew, so it gets a seed along with the parameters:
/// struct setup_data { next, type, length, data }.
fn write_seed(ram: &GuestRam) -> Result<(), BootError> {
    let mut seed = [0; SEED_BYTES];
    let mut got = 0;
    while got < SEED_BYTES {
        got +=
            rustix::rand::getrandom(&mut seed[got..], GetRandomFlags::empty()).map_err(BootError::Random)?;
    }
    let mut data = 0u64.to_le_bytes().to_vec();
    data.extend(SETUP_RNG_SEED.to_le_bytes());
    data.extend((SEED_BYTES as u32).to_le_bytes());
    data.extend(seed);
    Ok(ram.memory().write_slice(&data, GuestAddress(SEED))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_names_all_memory_but_the_bios_hole() {
        assert_eq!(memory_map(64 << 20), [(0, 0x9fc00), (1 << 20, 63 << 20)]);
        assert_eq!(memory_map(LOW_END + 4096)[2], (HIGH_START, 4096));
    }
}
