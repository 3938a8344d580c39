use std::io::Write;
use std::process::ExitCode;

use bulkhead_client::ClientError;
use bulkhead_telemetry::Chain;

/// The call was refused, or failed.
pub(crate) const FAILED: u8 = 1;
/// `run` itself failed, not its job: as docker's.
pub(crate) const RUN_FAILED: u8 = 125;

/// What went wrong, for a person: one line, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Something local: what was done, and the error with its causes.
    pub(crate) fn of(what: impl std::fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(format!("{what}: {}", Chain(error)))
    }

    /// Prints it to standard error.
    pub(crate) fn report(&self, status: u8) -> ExitCode {
        // Standard error may be closed; then there is nobody to tell.
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "bulkhead: {}", self.message.replace('\n', " "));
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "  hint: {hint}");
        }
        ExitCode::from(status)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let fields: Vec<String> = error
            .fields
            .iter()
            .filter(|violation| !error.message.contains(&violation.description))
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect();
        let mut message = error.message.clone();
        if !fields.is_empty() {
            message = format!("{message} ({})", fields.join("; "));
        }
        Self { message, hint: hint(&error) }
    }
}

fn hint(error: &ClientError) -> Option<String> {
    use bulkhead_client::Code;
    Some(match error.code {
        Code::Unavailable => {
            "is the service running? start it with `bulkhead serve`, or say where it is with --server"
                .to_owned()
        }
        Code::Unauthenticated => {
            "give a token with --token or BULKHEAD_TOKEN; on the service's machine `bulkhead token` makes one"
                .to_owned()
        }
        Code::PermissionDenied => match error.metadata.get("scope") {
            Some(scope) => format!("the token needs the scope {scope}"),
            None => "the token lacks a scope that this needs".to_owned(),
        },
        Code::ResourceExhausted => match error.retry_after {
            Some(after) => format!("try again in {} s", after.as_secs().max(1)),
            None => return None,
        },
        _ => return None,
    })
}
