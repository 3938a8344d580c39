use std::fmt::Write as _;

use super::{Status, all};

/// The table as a document: lines for a person, or a JSON array of `name`, `number`, `status`, `note`.
pub fn list(json: bool) -> String {
    let mut text = String::new();
    let mut first = true;
    for entry in all() {
        let status = match entry.status {
            Status::Full => "full".to_owned(),
            Status::Partial => "partial".to_owned(),
            Status::Refused(errno) if json => {
                let _ = errno;
                "refused".to_owned()
            }
            Status::Refused(errno) => format!("refused {errno}"),
            Status::Unsupported => "unsupported".to_owned(),
        };
        let (name, number, note) = (entry.name, entry.number, entry.note);
        let written = if json {
            let before = if first { "[" } else { "," };
            let note = note.replace('\\', "\\\\").replace('"', "\\\"");
            writeln!(
                text,
                r#"{before}{{"name":"{name}","number":{number},"status":"{status}","note":"{note}"}}"#
            )
        } else {
            writeln!(text, "{number:>4} {name:<24} {status:<16} {note}")
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
