//! Guest memory as the system calls see it.

use std::sync::Arc;

use crate::errno::Errno;

/// The memory of one guest address space. Every access copies, checks protections as the guest's own access
/// would, and answers EFAULT where Linux does. Implemented over the platform; tests implement it over a vector.
pub trait Memory: Send + Sync {
    /// Copies from the guest; returns how many bytes of the front were readable (0 means EFAULT).
    fn read_some(&self, address: u64, into: &mut [u8]) -> usize;

    /// Copies to the guest; returns how many bytes of the front were writable (0 means EFAULT).
    fn write_some(&self, address: u64, from: &[u8]) -> usize;
}

/// A guest address space in the hands of a system call.
pub type MemoryRef = Arc<dyn Memory>;

impl dyn Memory {
    /// Copies from the guest, all or nothing.
    ///
    /// # Errors
    /// EFAULT if a byte is not readable.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if into.is_empty() || self.read_some(address, into) == into.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Copies to the guest, all or nothing visible to the caller (the front may have been written).
    ///
    /// # Errors
    /// EFAULT if a byte is not writable.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        if from.is_empty() || self.write_some(address, from) == from.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Reads a structure of plain bytes.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_value<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self, address: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.read(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a structure of plain bytes.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_value<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &self,
        address: u64,
        value: &T,
    ) -> Result<(), Errno> {
        self.write(address, value.as_bytes())
    }

    /// Reads a string up to its NUL, which is not returned. Reads at most to the end of each page at a time, so
    /// that a string at the end of a mapping is found.
    ///
    /// # Errors
    /// EFAULT, or `too_long` if there is no NUL in the first `max` bytes.
    pub fn read_string(&self, address: u64, max: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
        // Most paths are short: one small read serves them. What is longer is read by the page.
        const FIRST: usize = 256;
        let mut first = [0; FIRST];
        let mut text = Vec::new();
        let mut at = address;
        if max > 0 {
            let want = to_page_end(at).min(max).min(FIRST);
            let got = self.read_some(at, &mut first[..want]);
            if got == 0 {
                return Err(Errno::EFAULT);
            }
            if let Some(end) = first[..got].iter().position(|byte| *byte == 0) {
                return Ok(first[..end].to_vec());
            }
            text.extend_from_slice(&first[..got]);
            at = at.checked_add(got as u64).ok_or(Errno::EFAULT)?;
        }
        while text.len() < max {
            let before = text.len();
            let want = to_page_end(at).min(max - before);
            text.resize(before + want, 0);
            let got = self.read_some(at, &mut text[before..]);
            if got == 0 {
                return Err(Errno::EFAULT);
            }
            text.truncate(before + got);
            if let Some(end) = text[before..].iter().position(|byte| *byte == 0) {
                text.truncate(before + end);
                return Ok(text);
            }
            at = at.checked_add(got as u64).ok_or(Errno::EFAULT)?;
        }
        Err(too_long)
    }
}

/// Bytes from an address to the end of its page.
fn to_page_end(address: u64) -> usize {
    const PAGE: u64 = 4096;
    (PAGE - address % PAGE) as usize
}
