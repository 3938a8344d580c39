//! Between the API's messages and the vocabulary of the service: each request is converted and checked once, here.

mod job_in;
mod job_out;
mod names;

use std::time::Duration;

use bulkhead_types::Timestamp;

pub(crate) use job_in::job_spec;
pub(crate) use job_out::{job_message, state_message};
pub(crate) use names::{
    ImageOwner, Page, blob_name, image_name, job_name, node_name, page, page_token, parent, request_id,
};

/// A point in time as the API has it.
pub(crate) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.as_micros();
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// A span of time as the API has it.
pub(crate) fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// Sizes and counts as the API has them: signed, and far below 2^63.
pub(crate) fn int64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Milliseconds of a duration of the API; rounded away from zero, so that neither a negative nor a tiny one
/// becomes 0, which would mean the default. Saturates.
pub(crate) fn millis(span: &prost_types::Duration) -> i64 {
    let nanos = i128::from(span.seconds) * 1_000_000_000 + i128::from(span.nanos);
    let millis = if nanos < 0 { (nanos - 999_999) / 1_000_000 } else { (nanos + 999_999) / 1_000_000 };
    i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_convert_at_the_edges() {
        let before = timestamp(Timestamp::from_micros(-1));
        assert_eq!((before.seconds, before.nanos), (-1, 999_999_000));
        let _ = timestamp(Timestamp::from_micros(i64::MIN));
        let span = |seconds, nanos| prost_types::Duration { seconds, nanos };
        assert_eq!(millis(&span(1, 500_000_000)), 1500);
        assert_eq!(millis(&span(0, 1)), 1);
        assert_eq!(millis(&span(0, -1)), -1);
        assert_eq!(millis(&span(0, 0)), 0);
        assert_eq!(millis(&span(i64::MAX, i32::MAX)), i64::MAX);
        assert_eq!(millis(&span(i64::MIN, i32::MIN)), i64::MIN);
    }
}
