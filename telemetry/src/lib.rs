//! Set-up of tracing and the printer of error chains.
//!
//! Logs go to standard error, as text or as one JSON object a line. What may never be logged (tokens, secret
//! values, contents) is kept out where it is handled: its types have no `Display`, and a `Debug` that hides it.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

/// The variable that says what is logged, for example `info,bulkhead_scheduler=debug`.
pub const FILTER_VARIABLE: &str = "BULKHEAD_LOG";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// A log format that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format {0:?}: text and json exist")]
pub struct UnknownLogFormat(pub String);

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(UnknownLogFormat(other.to_owned())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter can't be parsed.
    #[error("{FILTER_VARIABLE} holds no valid filter; an example is \"info,bulkhead_scheduler=debug\"")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Someone else has set up tracing in this process.
    #[error("logging is set up already")]
    Twice,
}

/// Starts logging to standard error: what [`FILTER_VARIABLE`] says, else `default_filter`.
///
/// # Errors
/// [`TelemetryError`] if the filter is no filter, or if logging is set up already.
pub fn init(format: LogFormat, default_filter: &str) -> Result<(), TelemetryError> {
    let text = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let text = if text.is_empty() { default_filter } else { &text };
    let filter = EnvFilter::try_new(text).map_err(TelemetryError::Filter)?;
    let builder = SubscriberBuilder::default().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)
}

/// Prints an error with all its causes, "what: why: why", each once.
#[derive(Clone, Copy)]
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // A transparent error says what its cause says; some libraries append their cause's text.
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the job can't start")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Middle(#[from] std::io::Error);

    #[test]
    fn a_chain_says_each_cause_once() {
        let error = Outer(Middle(std::io::Error::other("disk is full")));
        assert_eq!(Chain(&error).to_string(), "the job can't start: disk is full");
    }

    #[test]
    fn formats_and_filters_are_checked() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("xml".parse::<LogFormat>(), Err(UnknownLogFormat("xml".into())));
        assert!(matches!(init(LogFormat::Text, "a=b=c"), Err(TelemetryError::Filter(_))));
        assert!(init(LogFormat::Text, "warn").is_ok());
        assert!(matches!(init(LogFormat::Json, "warn"), Err(TelemetryError::Twice)));
    }
}
