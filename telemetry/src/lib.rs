//! Set-up of tracing and the printer of error chains.
