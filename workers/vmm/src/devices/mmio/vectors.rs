use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};

use smallvec::SmallVec;

/// Pieces of guest memory that one system call reads or writes, in order; what is done is dropped from the front.
///
/// The guest may change their bytes at any time. Only the kernel looks at them.
#[derive(Debug, Default)]
pub struct Vectors<'m> {
    pieces: SmallVec<[libc::iovec; 4]>,
    left: usize,
    memory: PhantomData<&'m ()>,
}

impl Vectors<'_> {
    /// Adds a piece.
    ///
    /// # Safety
    /// `bytes` bytes at `at` are mapped, readable and writable guest memory for the life of `self`; no Rust reference to
    /// them exists.
    pub(super) unsafe fn push(&mut self, at: *mut u8, bytes: usize) {
        self.pieces.push(libc::iovec { iov_base: at.cast(), iov_len: bytes });
        self.left += bytes;
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Reads from a file at an offset; zero at its end.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read_at(&mut self, file: impl AsFd, offset: u64) -> io::Result<usize> {
        let (fd, count) = (file.as_fd().as_raw_fd(), self.pieces.len() as i32);
        // SAFETY: 1. by the contract of `push` the pieces are writable memory to which no reference exists.
        self.done(unsafe { libc::preadv(fd, self.pieces.as_ptr(), count, offset as libc::off_t) })
    }

    /// Writes to a file at an offset.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn write_at(&mut self, file: impl AsFd, offset: u64) -> io::Result<usize> {
        let (fd, count) = (file.as_fd().as_raw_fd(), self.pieces.len() as i32);
        // SAFETY: 1. by the contract of `push` the pieces are readable memory.
        self.done(unsafe { libc::pwritev(fd, self.pieces.as_ptr(), count, offset as libc::off_t) })
    }

    /// Reads from a stream.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn read(&mut self, stream: impl AsFd) -> io::Result<usize> {
        let (fd, count) = (stream.as_fd().as_raw_fd(), self.pieces.len() as i32);
        // SAFETY: 1. as in `read_at`.
        self.done(unsafe { libc::readv(fd, self.pieces.as_ptr(), count) })
    }

    /// Zeroes what is left.
    pub fn fill_with_zeroes(&mut self) {
        for piece in self.pieces.drain(..) {
            // SAFETY: 1. by the contract of `push` it is writable memory to which no reference exists.
            unsafe { std::ptr::write_bytes(piece.iov_base.cast::<u8>(), 0, piece.iov_len) };
        }
        self.left = 0;
    }

    fn done(&mut self, result: isize) -> io::Result<usize> {
        let done = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        let mut rest = done.min(self.left);
        self.left -= rest;
        let whole = self.pieces.iter().take_while(|piece| {
            let fits = piece.iov_len <= rest;
            rest -= if fits { piece.iov_len } else { 0 };
            fits
        });
        let whole = whole.count();
        self.pieces.drain(..whole);
        if let Some(piece) = self.pieces.first_mut() {
            // Within the piece: `rest` is less than its length.
            piece.iov_base = piece.iov_base.wrapping_byte_add(rest);
            piece.iov_len -= rest;
        }
        Ok(done)
    }
}
