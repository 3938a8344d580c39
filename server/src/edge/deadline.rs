//! The deadline of a call, as its client sent it in `grpc-timeout`.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// When a call's client stops waiting. In the extensions of a request that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// The deadline of a call that has come in now.
    pub(super) fn of_request(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("grpc-timeout")?.to_str().ok()?;
        // One that is too far away to be a point in time is none.
        Instant::now().checked_add(parse(text)?).map(Self)
    }

    /// After this time, or at `other` if that is sooner.
    pub(super) fn within(time: Duration, other: Option<Self>) -> Self {
        let own = Self(Instant::now() + time);
        other.map_or(own, |other| Self(own.0.min(other.0)))
    }

    /// The point in time.
    pub(crate) fn instant(self) -> Instant {
        self.0
    }
}

/// Up to eight digits and a unit (the gRPC protocol, "Timeout").
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_parse_and_garbage_is_none() {
        assert_eq!(parse("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "1", "-1S", "123456789S", "1s", "1é", "é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
