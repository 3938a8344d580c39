//! Frames as bytes, without a socket: what [`crate::Connection`] sends, and what travels over other streams.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{VERSION, WireError};
use crate::frame::{Frame, Kind, SignalTarget};

/// Bytes before the payload.
pub(crate) const HEADER: usize = 8;

/// Frames out of a stream that comes in pieces.
///
/// It holds at most one incomplete frame, if every [`Decoder::push`] is followed by [`Decoder::next_frame`] until there is
/// none: what a header promises is checked before more is waited for.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How many of them were frames that are gone.
    taken: usize,
}

impl Decoder {
    /// Takes the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// As [`crate::Connection::receive`]: the stream is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let rest = &self.bytes[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else { return Ok(None) };
        let (kind, length) = parse_header(*header)?;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = decode(kind, payload.to_vec())?;
        self.taken += HEADER + length;
        Ok(Some(frame))
    }

    /// Whether the stream so far ends between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.taken == self.bytes.len()
    }
}

pub(crate) fn parse_header(header: [u8; HEADER]) -> Result<(Kind, usize), WireError> {
    let [version, kind, _, _, length @ ..] = header;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let kind = Kind::from_number(kind).ok_or(WireError::UnknownKind(kind))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > kind.max_payload() {
        return Err(WireError::TooLong { kind, length, max: kind.max_payload() });
    }
    Ok((kind, length))
}

/// The whole frame as bytes, header first, for a stream that carries no descriptors.
///
/// # Errors
/// [`WireError::TooLong`] when a part of it is over its bounds.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, WireError> {
    let kind = frame.kind();
    let json = |value: &dyn erased::Json| value.to_json().map_err(|_| WireError::Malformed(kind));
    let payload = match frame {
        Frame::Ready | Frame::End | Frame::Go | Frame::Started | Frame::Collected => Vec::new(),
        Frame::Data(bytes) => bytes.clone(),
        Frame::Config(value) => json(value)?,
        Frame::Start(value) => json(value)?,
        Frame::Input(value) => json(value)?,
        Frame::Signal { signal, target } => json(&(*signal, *target))?,
        Frame::Exited(value) => json(value)?,
        Frame::Collect(value) => json(value)?,
        Frame::Output(value) => json(value)?,
        Frame::OutputProblem(value) => json(value)?,
        Frame::Failed(value) => json(value)?,
        Frame::Machine(value) => json(value)?,
        Frame::Statistics(value) => json(value)?,
    };
    if payload.len() > kind.max_payload() {
        return Err(WireError::TooLong { kind, length: payload.len(), max: kind.max_payload() });
    }
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend([VERSION, kind as u8, 0, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

mod erased {
    /// Lets one closure encode frames of different types.
    pub(super) trait Json {
        fn to_json(&self) -> serde_json::Result<Vec<u8>>;
    }

    impl<T: super::Serialize> Json for T {
        fn to_json(&self) -> serde_json::Result<Vec<u8>> {
            serde_json::to_vec(self)
        }
    }
}

/// Decodes a payload that the header's checks let through. An ordinary function, so that a fuzzer can call it.
pub(crate) fn decode(kind: Kind, payload: Vec<u8>) -> Result<Frame, WireError> {
    fn json<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, WireError> {
        serde_json::from_slice(payload).map_err(|_| WireError::Malformed(kind))
    }
    Ok(match kind {
        Kind::Config => Frame::Config(json(kind, &payload)?),
        Kind::Ready => Frame::Ready,
        Kind::Start => Frame::Start(json(kind, &payload)?),
        Kind::Input => Frame::Input(json(kind, &payload)?),
        Kind::Data => Frame::Data(payload),
        Kind::End => Frame::End,
        Kind::Go => Frame::Go,
        Kind::Started => Frame::Started,
        Kind::Signal => {
            let (signal, target): (u8, SignalTarget) = json(kind, &payload)?;
            if !(1..=64).contains(&signal) {
                return Err(WireError::Malformed(kind));
            }
            Frame::Signal { signal, target }
        }
        Kind::Exited => Frame::Exited(json(kind, &payload)?),
        Kind::Collect => Frame::Collect(json(kind, &payload)?),
        Kind::Output => Frame::Output(json(kind, &payload)?),
        Kind::OutputProblem => Frame::OutputProblem(json(kind, &payload)?),
        Kind::Collected => Frame::Collected,
        Kind::Failed => Frame::Failed(json(kind, &payload)?),
        Kind::Machine => Frame::Machine(json(kind, &payload)?),
        Kind::Statistics => Frame::Statistics(json(kind, &payload)?),
    })
}
