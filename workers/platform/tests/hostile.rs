//! A hostile guest for each rule that keeps a guest in: contained while the rule stands, out when a test takes the
//! rule away.

mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::main(&[])
}
