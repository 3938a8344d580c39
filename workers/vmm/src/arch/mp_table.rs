//! The MultiProcessor table: which local APICs, which I/O APIC, which interrupts.
//!
//! Without its "_MP_" pointer the kernel searches memory for one, 14 % of a small kernel's boot, and takes the machine for one
//! with a single processor. It is put where the kernel looks first. The short form, a "default configuration" without a table, panics Linux 6.1.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::Memory;

/// In the first KiB, where the kernel looks first; the table follows the pointer.
const POINTER_AT: u64 = 0;
/// Where that KiB ends, and the BIOS's data begins, from which the kernel reads too.
#[cfg(test)]
const SEARCHED_BYTES: usize = 0x400;
const POINTER_BYTES: usize = 16;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Version of a local APIC, and of an I/O APIC.
const APIC_VERSION: [u8; 2] = [0x14, 0x11];
/// ISA interrupts, all edge-triggered; the devices' lines are among them.
const INTERRUPTS: u8 = 16;

/// Writes the table for this many processors.
///
/// # Errors
/// When the guest has no memory there.
pub fn write(memory: &Memory, vcpus: u8) -> Result<(), GuestMemoryError> {
    memory.write_slice(&bytes(vcpus), GuestAddress(POINTER_AT))
}

fn bytes(vcpus: u8) -> Vec<u8> {
    let io_apic_id = vcpus;
    let mut entries: Vec<u8> = Vec::new();
    for id in 0..vcpus {
        // Enabled; the first is the one that boots. Family 6, with FPU and APIC.
        let flags = if id == 0 { 3 } else { 1 };
        entries.extend([0, id, APIC_VERSION[0], flags, 0, 6, 0, 0, 1, 2, 0, 0]);
        entries.extend([0; 8]);
    }
    entries.extend(b"\x01\x00ISA   ");
    entries.extend([2, io_apic_id, APIC_VERSION[1], 1]);
    entries.extend(IO_APIC.to_le_bytes());
    for line in 0..INTERRUPTS {
        entries.extend([3, 0, 0, 0, 0, line, io_apic_id, line]);
    }
    // LINT0 takes the 8259's interrupts, LINT1 NMIs, on every processor.
    entries.extend([4, 3, 0, 0, 0, 0, 255, 0]);
    entries.extend([4, 1, 0, 0, 0, 0, 255, 1]);

    let mut table: Vec<u8> = b"PCMP\0\0\x04\0BULKHEADVMM         ".to_vec();
    table.extend([0; 6]);
    table.extend((u16::from(vcpus) + 1 + 1 + u16::from(INTERRUPTS) + 2).to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    let length = (table.len() as u16).to_le_bytes();
    table[4..6].copy_from_slice(&length);
    table[7] = checksum(&table);

    let mut all = b"_MP_".to_vec();
    all.extend((POINTER_AT as u32 + POINTER_BYTES as u32).to_le_bytes());
    all.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    all[10] = checksum(&all);
    all.extend(table);
    all
}

/// What makes the bytes' sum zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_and_table_add_up() {
        for vcpus in 1..=8 {
            let all = bytes(vcpus);
            assert!(POINTER_AT as usize + all.len() <= SEARCHED_BYTES);
            let (pointer, table) = all.split_at(POINTER_BYTES);
            assert_eq!(checksum(pointer), 0);
            assert_eq!(checksum(table), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            assert_eq!(table.len(), 44 + 20 * usize::from(vcpus) + 8 * (2 + 16 + 2));
        }
    }
}
