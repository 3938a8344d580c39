//! The codec of the generated code: like tonic's, but a message that can't be decoded is the sender's mistake.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstCodec, ProstDecoder};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every google.rpc.ErrorInfo of the service.
pub const ERROR_DOMAIN: &str = "bulkhead";
/// The reason of the ErrorInfo of a message that can't be decoded.
pub const MESSAGE_MALFORMED: &str = "MESSAGE_MALFORMED";
/// Longest description of a decoding error that is sent back, in bytes: it may quote the sender's own text.
const MAX_DESCRIPTION: usize = 512;

/// Encodes and decodes protobuf messages. Undecodable ones are INVALID_ARGUMENT with the field's name, where
/// tonic says INTERNAL.
#[derive(Debug, Clone)]
pub struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(ProstDecoder::default())
    }
}

/// The decoder of [`MessageCodec`].
#[derive(Debug, Clone)]
pub struct MessageDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        self.0.decode(buffer).map_err(|status| malformed(status.message()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// The status of a message that can't be decoded; `problem` is prost's account, "Inner.field: Outer.field: description".
fn malformed(problem: &str) -> Status {
    let problem = problem.strip_prefix("failed to decode Protobuf message: ").unwrap_or(problem);
    let (path, description) = problem.rsplit_once(": ").unwrap_or(("", problem));
    let fields: Vec<&str> =
        path.rsplit(": ").filter_map(|part| part.split_once('.').map(|(_, field)| field)).collect();
    let field = if fields.is_empty() { "request".to_owned() } else { fields.join(".") };
    let end = description.floor_char_boundary(MAX_DESCRIPTION);
    let description = format!("the message can't be decoded: {}", &description[..end]);
    let metadata = [("field".to_owned(), field.clone())];
    let mut details = ErrorDetails::with_error_info(MESSAGE_MALFORMED, ERROR_DOMAIN, metadata);
    details.add_bad_request_violation(&field, &description);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {description}"), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_named() {
        // CreateJobRequest.spec (2) { JobSpec.argv (3): one byte that is not UTF-8 }
        let error =
            crate::v1::CreateJobRequest::decode(&[0x12, 3, 0x1a, 1, 0xff][..]).expect_err("not UTF-8");
        let status = malformed(&error.to_string());
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("violations").field_violations[0].field, "spec.argv");
        assert_eq!(details.error_info().expect("info").reason, MESSAGE_MALFORMED);
        for bytes in [&[0xff_u8; 16][..], &[0x12, 200], &[7]] {
            let error = crate::v1::CreateJobRequest::decode(bytes).expect_err("garbage");
            let status = malformed(&error.to_string());
            let details = status.get_error_details();
            assert_eq!(details.bad_request().expect("violations").field_violations.len(), 1);
        }
    }
}
