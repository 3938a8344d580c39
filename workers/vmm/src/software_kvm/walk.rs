//! The guest's page tables, walked as the processor would. KVM_TRANSLATE won't do: it says "writable" for every page, and
//! a store through a copy-on-write page would change another process's memory.

use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::memory::Memory;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;
const LARGE: u64 = 0x80;
const ADDRESS: u64 = 0xf_ffff_ffff_f000;
const WRITE_PROTECT: u64 = 1 << 16;

/// All memory that the guest sees.
pub(super) struct Physical<'a> {
    pub(super) ram: &'a Memory,
    pub(super) trampoline: &'a Memory,
}

impl Physical<'_> {
    fn at(&self, address: u64) -> &Memory {
        if self.trampoline.address_in_range(GuestAddress(address)) { self.trampoline } else { self.ram }
    }

    pub(super) fn read_entry(&self, address: u64) -> Option<u64> {
        self.at(address).read_obj(GuestAddress(address)).ok()
    }

    pub(super) fn write_entry(&self, address: u64, entry: u64) -> Option<()> {
        self.at(address).write_obj(entry, GuestAddress(address)).ok()
    }

    /// The physical address behind a virtual one, or nothing where the guest would fault.
    pub(super) fn translate(&self, special: &kvm_sregs, address: u64, write: bool) -> Option<u64> {
        let mut table = special.cr3 & ADDRESS;
        for shift in [39, 30, 21, 12] {
            let at = table + (address >> shift & 511) * 8;
            let entry = self.read_entry(at)?;
            let forbidden = write && entry & WRITABLE == 0 && special.cr0 & WRITE_PROTECT != 0;
            if entry & PRESENT == 0 || forbidden {
                return None;
            }
            let leaf = shift == 12 || (shift < 39 && entry & LARGE != 0);
            let touched = entry | ACCESSED | if leaf && write { DIRTY } else { 0 };
            if touched != entry {
                self.write_entry(at, touched)?;
            }
            if leaf {
                let within = (1 << shift) - 1;
                return Some(entry & ADDRESS & !within | address & within);
            }
            table = entry & ADDRESS;
        }
        None
    }

    /// Copies from a virtual address, across pages.
    ///
    /// # Errors
    /// The address that the guest would fault at.
    pub(super) fn read(&self, special: &kvm_sregs, address: u64, into: &mut [u8]) -> Result<(), u64> {
        let mut done = 0;
        while done < into.len() {
            let (at, count) = piece(address, done, into.len());
            let physical = self.translate(special, at, false).ok_or(at)?;
            let part = &mut into[done..done + count];
            self.at(physical).read_slice(part, GuestAddress(physical)).map_err(|_| at)?;
            done += count;
        }
        Ok(())
    }

    /// Copies to a virtual address. All of it is checked before any of it is written.
    ///
    /// # Errors
    /// The address that the guest would fault at.
    pub(super) fn write(&self, special: &kvm_sregs, address: u64, from: &[u8]) -> Result<(), u64> {
        for check in [true, false] {
            let mut done = 0;
            while done < from.len() {
                let (at, count) = piece(address, done, from.len());
                let physical = self.translate(special, at, true).ok_or(at)?;
                if !check {
                    let part = &from[done..done + count];
                    self.at(physical).write_slice(part, GuestAddress(physical)).map_err(|_| at)?;
                }
                done += count;
            }
        }
        Ok(())
    }
}

/// The next part that lies within one page: its address and length.
fn piece(address: u64, done: usize, length: usize) -> (u64, usize) {
    let at = address.wrapping_add(done as u64);
    (at, (length - done).min(4096 - (at & 4095) as usize))
}
