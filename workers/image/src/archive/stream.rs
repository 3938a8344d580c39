//! Layers of readers around an archive: compression, digests, bounds.

use std::io::{self, BufReader, Read};

use bulkhead_types::Digest;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::bounds::MAX_ZSTD_WINDOW_LOG;
use super::error::ArchiveError;
use super::spool::read_some;

/// Bytes that are read ahead of the decompressor.
const READ_AHEAD: usize = 128 * 1024;

/// Opens a stream that is perhaps compressed with gzip or zstd, as its first bytes say.
pub(crate) fn decompress<'r>(source: impl Read + 'r) -> Result<Box<dyn Read + 'r>, ArchiveError> {
    let mut source = BufReader::with_capacity(READ_AHEAD, source);
    // A pipe may give single bytes, and the magic numbers have up to 6.
    let mut head = Vec::new();
    while head.len() < 6 {
        let mut byte = [0];
        if read_some(&mut source, &mut byte)? == 0 {
            break;
        }
        head.push(byte[0]);
    }
    let kind = Compression::of(&head);
    let whole = io::Cursor::new(head).chain(source);
    match kind {
        Compression::None => Ok(Box::new(whole)),
        Compression::Gzip => {
            let decoder = MultiGzDecoder::new(BufReader::with_capacity(READ_AHEAD, whole));
            Ok(Box::new(Named(decoder)))
        }
        Compression::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(READ_AHEAD, whole))
                    .map_err(|error| ArchiveError::Compression { why: error.to_string() })?;
            decoder
                .window_log_max(MAX_ZSTD_WINDOW_LOG)
                .map_err(|error| ArchiveError::Compression { why: error.to_string() })?;
            Ok(Box::new(Named(decoder)))
        }
        Compression::Other(name) => {
            Err(ArchiveError::Unsupported { what: format!("data compressed with {name}") })
        }
    }
}

enum Compression {
    None,
    Gzip,
    Zstd,
    Other(&'static str),
}

impl Compression {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame before the first one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Other("xz"),
            [b'B', b'Z', b'h', ..] => Self::Other("bzip2"),
            _ => Self::None,
        }
    }
}

/// Marks a decompressor's own errors as such: those of the stream below are ours already.
struct Named<R>(R);

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| {
            let ours = error.get_ref().is_some_and(|inner| inner.is::<ArchiveError>());
            if ours || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            io::Error::other(ArchiveError::Compression { why: error.to_string() })
        })
    }
}

/// Hashes all that is read through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// The digest of everything, once it was read to its end.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Fails once more than so many bytes were read: what decompresses to more than an image may have
/// can't be one, whatever it is made of.
pub(crate) struct Bounded<R> {
    inner: R,
    limit: u64,
    left: u64,
}

impl<R: Read> Bounded<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, limit, left: limit }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(ArchiveError::too_much(self.limit, "bytes after decompression"))
        })?;
        Ok(count)
    }
}

/// Reads what is left, so that digests cover it and a pipe's writer is not broken.
pub(crate) fn drain(source: &mut impl Read) -> Result<(), ArchiveError> {
    let mut buffer = [0; 32 * 1024];
    while read_some(source, &mut buffer)? > 0 {}
    Ok(())
}
