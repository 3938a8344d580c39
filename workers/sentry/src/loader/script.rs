//! `#!` lines.

/// Bytes of a file that are looked at: Linux's BINPRM_BUF_SIZE.
pub(super) const LINE_MAX: usize = 256;

/// The interpreter of a script, and its one argument, if the line has one. None if the file is no script or the
/// line names nobody.
pub(super) fn parse(head: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let line = head.strip_prefix(b"#!")?;
    let end = line.iter().position(|byte| *byte == b'\n');
    // A line that does not end in what was read is cut in its argument, but never in the interpreter's name.
    let cut = end.is_none() && head.len() >= LINE_MAX;
    let line = &line[..end.unwrap_or(line.len())];
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = line.iter().position(|byte| !blank(byte))?;
    let line = &line[start..];
    let name_end = line.iter().position(|byte| blank(byte) || *byte == 0);
    if name_end.is_none() && cut {
        return None;
    }
    let (name, rest) = line.split_at(name_end.unwrap_or(line.len()));
    if name.is_empty() {
        return None;
    }
    let argument = rest.iter().position(|byte| !blank(byte)).map(|at| &rest[at..]);
    let argument = argument.map(|argument| {
        let end = argument.iter().rposition(|byte| !blank(byte)).map_or(0, |at| at + 1);
        let argument = &argument[..end];
        argument.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
    });
    Some((name.to_vec(), argument.filter(|argument| !argument.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_linux_does() {
        let parsed = |text: &str| {
            parse(text.as_bytes()).map(|(name, argument)| {
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
                (text(name), argument.map(text))
            })
        };
        let pair =
            |name: &str, argument: Option<&str>| Some((name.to_string(), argument.map(str::to_string)));
        assert_eq!(parsed("#!/bin/sh\necho"), pair("/bin/sh", None));
        assert_eq!(parsed("#! /usr/bin/env  python3 -u \t\nx"), pair("/usr/bin/env", Some("python3 -u")));
        assert_eq!(parsed("#!/bin/sh"), pair("/bin/sh", None));
        assert_eq!(parsed("#!\n"), None);
        assert_eq!(parsed("\x7fELF"), None);
        assert_eq!(parsed(&format!("#!/{}", "a".repeat(300))[..LINE_MAX]), None);
    }
}
