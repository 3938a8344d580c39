//! What a fuzzer calls; tests call it too, bounded.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::codec::{decode, encode};
use crate::{Connection, Decoder, Frame, Kind, WireError};

/// Longest input that is tried, in bytes: less than a socket buffers, so that writing it never waits.
const LONGEST: usize = 64 << 10;

/// Receives frames from a peer that sends exactly `bytes` and goes. Must end, and must not panic; returns how many frames
/// were good.
///
/// # Errors
/// Only what makes sockets; nothing that the bytes could cause.
pub fn hostile_stream(bytes: &[u8]) -> std::io::Result<usize> {
    let (mut theirs, ours) = UnixStream::pair()?;
    theirs.write_all(&bytes[..bytes.len().min(LONGEST)])?;
    theirs.shutdown(Shutdown::Write)?;
    let connection = Connection::new(ours);
    let mut good = 0;
    loop {
        match connection.receive() {
            Ok(_) => good += 1,
            Err(WireError::Io(error)) => return Err(error),
            Err(_) => return Ok(good),
        }
    }
}

/// Decodes a payload as every kind of frame; none may panic, and what is accepted must mean the same when it is sent again.
pub fn hostile_payload(bytes: &[u8]) {
    for kind in Kind::ALL {
        let Ok(frame) = decode(kind, bytes[..bytes.len().min(kind.max_payload())].to_vec()) else { continue };
        assert_eq!(frame.kind(), kind);
        let again = encode(&frame).map(|encoded| decode(kind, encoded[8..].to_vec()));
        match again {
            Ok(Ok(decoded)) => assert_eq!(decoded, frame),
            // Escapes may make a text longer than it came.
            Err(WireError::TooLong { .. }) => {}
            other => panic!("{frame:?}: {other:?}"),
        }
    }
}

/// Decodes a stream that comes in pieces of these lengths (again and again) as one that comes at once. Must not panic; whatever
/// the pieces, the frames and the end are the same.
pub fn hostile_pieces(bytes: &[u8], lengths: &[usize]) {
    let whole = frames(std::iter::once(bytes));
    let mut rest = bytes;
    let mut lengths = lengths.iter().map(|n| 1 + n % LONGEST).cycle();
    let pieces = std::iter::from_fn(|| {
        let (piece, after) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(frames(pieces), whole);
}

/// The frames of a stream, and what ended it before its end.
fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<String>) {
    let (mut decoder, mut good) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => good.push(frame),
                Ok(None) => break,
                Err(error) => return (good, Some(error.to_string())),
            }
        }
    }
    (good, None)
}
