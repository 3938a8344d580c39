use std::fmt::Write as _;

use super::{Status, all};

/// The table as a document: lines for a person, or a JSON array of `name`, `number`, `status`, `note`, `tests`; refused calls also have an
/// `errno`.
pub fn list(json: bool) -> String {
    let mut text = String::new();
    let mut first = true;
    for entry in all() {
        let (status, errno) = match entry.status {
            Status::Full => ("full", None),
            Status::Partial => ("partial", None),
            Status::Refused(errno) => ("refused", Some(errno)),
            Status::Unsupported => ("unsupported", None),
        };
        let (name, number, note) = (entry.name, entry.number, entry.note);
        let written = if json {
            let before = if first { "[" } else { "," };
            let note = note.replace('\\', "\\\\").replace('"', "\\\"");
            let tests: Vec<String> = entry.tests.iter().map(|test| format!("\"{test}\"")).collect();
            let tests = tests.join(",");
            let errno = errno.map_or(String::new(), |errno| format!(r#","errno":"{errno}""#));
            writeln!(
                text,
                r#"{before}{{"name":"{name}","number":{number},"status":"{status}"{errno},"note":"{note}","tests":[{tests}]}}"#
            )
        } else {
            let status = errno.map_or(status.to_owned(), |errno| format!("{status} {errno}"));
            let tests = entry.tests.join(" ");
            let note = if tests.is_empty() { note.to_owned() } else { format!("{note} [{tests}]") };
            writeln!(text, "{number:>4} {name:<24} {status:<16} {}", note.trim_start())
        };
        // A String takes everything.
        debug_assert!(written.is_ok());
        first = false;
    }
    if json {
        text.push_str("]\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_forms_name_every_call() {
        let count = super::all().count();
        assert_eq!(super::list(false).lines().count(), count);
        let json = super::list(true);
        assert_eq!(json.matches(r#""number":"#).count(), count);
        assert!(json.starts_with('[') && json.ends_with("]\n"));
    }
}
