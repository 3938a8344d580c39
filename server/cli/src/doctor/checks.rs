//! One need of the service, and whether this host meets it.

use serde::Serialize;

/// A need.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    /// What is needed.
    pub(super) name: String,
    /// Whether it is there.
    pub(super) ok: bool,
    /// Whether sandboxes can't run without it.
    pub(super) required: bool,
    /// What was found, or what went wrong.
    pub(super) detail: String,
    /// Why it matters.
    pub(super) why: String,
    /// What to do; empty if nothing is.
    pub(super) fix: String,
}

impl Check {
    /// A required need, not looked at yet.
    pub(super) fn new(name: impl Into<String>, why: impl Into<String>) -> Self {
        Check {
            name: name.into(),
            ok: false,
            required: true,
            detail: String::new(),
            why: why.into(),
            fix: String::new(),
        }
    }

    /// Sandboxes run without it.
    pub(super) fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    pub(super) fn found(mut self, detail: impl Into<String>) -> Self {
        self.ok = true;
        self.detail = detail.into();
        self
    }

    pub(super) fn missing(mut self, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        (self.detail, self.fix) = (detail.into(), fix.into());
        self
    }

    /// By a result whose error is the detail.
    pub(super) fn judged(self, result: Result<String, String>, fix: &str) -> Self {
        match result {
            Ok(detail) => self.found(detail),
            Err(problem) => self.missing(problem, fix),
        }
    }
}
