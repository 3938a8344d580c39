//! Guest buffers, one or several, and the sentry's own buffer that data passes through.

use std::cell::RefCell;

use smallvec::SmallVec;

use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::memory::MemoryRef;

/// Most bytes that one read or write moves, as on Linux.
pub(in crate::syscalls) const MAX_TRANSFER: usize = 0x7fff_f000;
/// Most buffers of one call (IOV_MAX).
const MAX_BUFFERS: usize = 1024;
/// Bytes that pass through the sentry at a time: few host calls for large transfers, little memory.
pub(in crate::syscalls) const CHUNK: usize = 128 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `act` with this thread's buffer, `size` bytes of it (at most [`CHUNK`]). Its content is arbitrary.
pub(in crate::syscalls) fn with_buffer<T>(size: usize, act: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BUFFER.take();
    let size = size.min(CHUNK);
    if buffer.len() < size {
        buffer.resize(size.next_power_of_two(), 0);
    }
    let result = act(&mut buffer[..size]);
    BUFFER.set(buffer);
    result
}

/// Buffers of a guest, in order, as one stream of bytes.
pub(in crate::syscalls) struct GuestBuffers {
    parts: SmallVec<[(u64, usize); 4]>,
    total: usize,
}

impl GuestBuffers {
    /// One buffer; what is beyond [`MAX_TRANSFER`] is cut off.
    ///
    /// # Errors
    /// EFAULT for a length that no address space has.
    pub(in crate::syscalls) fn one(address: u64, length: u64) -> Result<Self, Errno> {
        if length > i64::MAX as u64 {
            return Err(Errno::EFAULT);
        }
        let length = (length as usize).min(MAX_TRANSFER);
        Ok(Self { parts: SmallVec::from_slice(&[(address, length)]), total: length })
    }

    /// The buffers of an array of `struct iovec`.
    ///
    /// # Errors
    /// EINVAL for too many or a negative length, EFAULT.
    pub(in crate::syscalls) fn vector(cx: &Ctx<'_>, address: u64, count: u64) -> Result<Self, Errno> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > MAX_BUFFERS {
            return Err(Errno::EINVAL);
        }
        let mut raw = vec![0; count * 16];
        cx.memory.read(address, &mut raw)?;
        let mut parts = SmallVec::new();
        let mut total = 0usize;
        for entry in raw.chunks_exact(16) {
            let (base, length) = entry.split_at(8);
            let base = u64::from_le_bytes(base.try_into().map_err(|_| Errno::EINVAL)?);
            let length = u64::from_le_bytes(length.try_into().map_err(|_| Errno::EINVAL)?);
            if length > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            let length = (length as usize).min(MAX_TRANSFER - total);
            total += length;
            parts.push((base, length));
        }
        Ok(Self { parts, total })
    }

    /// Bytes in all.
    pub(in crate::syscalls) fn len(&self) -> usize {
        self.total
    }

    /// Copies to the guest, `skip` bytes from the start; answers how many bytes could be written.
    pub(in crate::syscalls) fn put(&self, memory: &MemoryRef, skip: usize, mut from: &[u8]) -> usize {
        let mut done = 0;
        for (address, length) in self.rest(skip) {
            if from.is_empty() {
                break;
            }
            let want = length.min(from.len());
            let wrote = memory.write_some(address, &from[..want]);
            done += wrote;
            if wrote < want {
                break;
            }
            from = &from[want..];
        }
        done
    }

    /// Copies from the guest, `skip` bytes from the start; answers how many bytes could be read.
    pub(in crate::syscalls) fn get(&self, memory: &MemoryRef, skip: usize, into: &mut [u8]) -> usize {
        let mut done = 0;
        for (address, length) in self.rest(skip) {
            if done == into.len() {
                break;
            }
            let want = length.min(into.len() - done);
            let got = memory.read_some(address, &mut into[done..done + want]);
            done += got;
            if got < want {
                break;
            }
        }
        done
    }

    fn rest(&self, mut skip: usize) -> impl Iterator<Item = (u64, usize)> {
        self.parts.iter().filter_map(move |(address, length)| {
            let cut = skip.min(*length);
            skip -= cut;
            (cut < *length).then(|| (address.wrapping_add(cut as u64), length - cut))
        })
    }
}
