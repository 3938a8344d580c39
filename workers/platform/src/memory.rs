//! Guest memory, by `process_vm_readv` and `process_vm_writev` alone.
//!
//! Addressed by the pid of the stub's first thread, which never ends before its process. Remote vectors are
//! split at page borders, because the host reports partial transfers by whole elements only. Protections are
//! respected, as for the guest's own accesses.

use std::sync::Arc;

use rustix::io::Errno;
use smallvec::SmallVec;

use crate::stub::Stub;

const PAGE: u64 = 4096;
/// Elements of a remote vector in one host call (UIO_MAXIOV).
const MAX_VECTORS: usize = 1024;
/// The end of user addresses with four-level page tables; nothing above it is ever readable.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// A remote vector; that of a short transfer costs no allocation.
type Vectors = SmallVec<[libc::iovec; 4]>;

/// The memory of one stub. Cheap to clone; answers 0 bytes or EFAULT after the process's death.
#[derive(Clone)]
pub struct GuestMemory {
    stub: Arc<Stub>,
}

impl GuestMemory {
    pub(crate) fn new(stub: Arc<Stub>) -> Self {
        Self { stub }
    }

    /// Copies from the guest; returns how many bytes of the front were readable.
    pub fn read_some(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(remote) = split(address, done, into.len()) else { break };
            let wanted: usize = remote.iter().map(|v| v.iov_len).sum();
            let got = self.read_vector(&mut into[done..done + wanted], &remote);
            done += got;
            if got < wanted {
                break;
            }
        }
        done
    }

    /// Copies to the guest; returns how many bytes of the front were writable.
    pub fn write_some(&self, address: u64, from: &[u8]) -> usize {
        let mut done = 0;
        while done < from.len() {
            let Some(remote) = split(address, done, from.len()) else { break };
            let wanted: usize = remote.iter().map(|v| v.iov_len).sum();
            let got = self.write_vector(&from[done..done + wanted], &remote);
            done += got;
            if got < wanted {
                break;
            }
        }
        done
    }

    /// Copies from the guest, all or nothing.
    ///
    /// # Errors
    /// EFAULT if a byte is not readable.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if self.read_some(address, into) == into.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Copies to the guest; the front may have been written when it fails.
    ///
    /// # Errors
    /// EFAULT if a byte is not writable.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        if self.write_some(address, from) == from.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Gathers several guest ranges `(address, length)` into one buffer with one host call where they fit;
    /// returns how many bytes of the front were readable.
    pub fn read_vectors(&self, ranges: &[(u64, usize)], into: &mut [u8]) -> usize {
        self.vectors(ranges, into.len(), |memory, at, remote, wanted| {
            memory.read_vector(&mut into[at..at + wanted], remote)
        })
    }

    /// Scatters a buffer over several guest ranges; returns how many bytes of the front were written.
    pub fn write_vectors(&self, ranges: &[(u64, usize)], from: &[u8]) -> usize {
        self.vectors(ranges, from.len(), |memory, at, remote, wanted| {
            memory.write_vector(&from[at..at + wanted], remote)
        })
    }

    /// Reads a string up to its NUL, which is not returned. Never reads beyond the page of the NUL.
    ///
    /// # Errors
    /// EFAULT; ENAMETOOLONG if there is no NUL in the first `max` bytes.
    pub fn read_cstr(&self, address: u64, max: usize) -> Result<Vec<u8>, Errno> {
        // Most paths are short: small reads serve them.
        const STEP: usize = 256;
        let mut text = Vec::new();
        while text.len() < max {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            let want = ((PAGE - at % PAGE) as usize).min(max - text.len()).min(STEP);
            let mut chunk = [0; STEP];
            let got = self.read_some(at, &mut chunk[..want]);
            if got == 0 {
                return Err(Errno::FAULT);
            }
            if let Some(end) = chunk[..got].iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&chunk[..end]);
                return Ok(text);
            }
            text.extend_from_slice(&chunk[..got]);
        }
        Err(Errno::NAMETOOLONG)
    }

    fn vectors(
        &self,
        ranges: &[(u64, usize)],
        room: usize,
        mut transfer: impl FnMut(&Self, usize, &[libc::iovec], usize) -> usize,
    ) -> usize {
        let mut done = 0;
        let mut ranges = ranges.iter().copied();
        let mut rest = ranges.next();
        while done < room {
            let mut remote = Vectors::new();
            let mut wanted = 0;
            while let Some((address, length)) = rest {
                let length = length.min(room - done - wanted);
                let Some(part) = split(address, 0, length) else { break };
                let bytes: usize = part.iter().map(|v| v.iov_len).sum();
                if remote.len() + part.len() > MAX_VECTORS {
                    break;
                }
                remote.extend(part);
                wanted += bytes;
                rest = if bytes < length {
                    Some((address + bytes as u64, length - bytes))
                } else {
                    ranges.next()
                };
                if done + wanted == room {
                    break;
                }
            }
            let got = if remote.is_empty() { 0 } else { transfer(self, done, &remote, wanted) };
            done += got;
            if got < wanted || wanted == 0 {
                break;
            }
        }
        done
    }

    fn read_vector(&self, into: &mut [u8], remote: &[libc::iovec]) -> usize {
        // The process can't be reaped, and so its pid not reused, while the guard is held.
        let Some(_alive) = self.stub.hold() else { return 0 };
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let (count, pid) = (remote.len() as libc::c_ulong, self.stub.pid());
        // SAFETY: (1) `local` describes a live, exclusively borrowed buffer of exactly that length; (2) the
        // remote addresses are another process's and are checked by the host's kernel.
        let done = unsafe { libc::process_vm_readv(pid, &local, 1, remote.as_ptr(), count, 0) };
        usize::try_from(done).unwrap_or(0)
    }

    fn write_vector(&self, from: &[u8], remote: &[libc::iovec]) -> usize {
        let Some(_alive) = self.stub.hold() else { return 0 };
        let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        let (count, pid) = (remote.len() as libc::c_ulong, self.stub.pid());
        // SAFETY: (1) `local` describes a live buffer of exactly that length, which process_vm_writev only reads;
        // (2) the remote addresses are another process's and are checked by the host's kernel.
        let done = unsafe { libc::process_vm_writev(pid, &local, 1, remote.as_ptr(), count, 0) };
        usize::try_from(done).unwrap_or(0)
    }
}

/// The part of `[address + done, address + length)` that one host call can carry, cut at pages. None beyond the
/// end of user addresses.
fn split(address: u64, done: usize, length: usize) -> Option<Vectors> {
    let mut at = address.checked_add(done as u64)?;
    let mut left = length - done;
    let mut vectors = Vectors::new();
    while left > 0 && vectors.len() < MAX_VECTORS && at < TASK_SIZE {
        let part = ((PAGE - at % PAGE) as usize).min(left);
        vectors.push(libc::iovec { iov_base: at as *mut libc::c_void, iov_len: part });
        at += part as u64;
        left -= part;
    }
    (!vectors.is_empty()).then_some(vectors)
}
