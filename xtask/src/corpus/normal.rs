//! The normaliser: what may differ between two right runs of a program, and nothing else, is taken out of its output:
//! process ids, times, addresses and inode numbers, where they are written as such.

/// Longest that an address is in hexadecimal digits; shorter than the first is a number.
const ADDRESS_DIGITS: std::ops::RangeInclusive<usize> = 6..=16;
/// Units of time that may follow a number.
const UNITS: [&str; 8] = ["s", "ms", "us", "ns", "sec", "seconds", "secs", "msec"];
/// Words before a process id or an inode number.
const NUMBERED: [(&str, &str); 4] =
    [("pid", "PID"), ("process", "PID"), ("inode", "INODE"), ("ino", "INODE")];

/// A program's output without what may differ.
pub(super) fn normal(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    text.split_inclusive('\n').map(line).collect()
}

fn line(text: &str) -> String {
    let mut out = String::new();
    let mut previous = "";
    for (token, number) in tokens(text) {
        let replaced = match () {
            () if address(token) => Some("ADDRESS"),
            () if number && clock(token) => Some("TIME"),
            () if number && timed(token, &text[offset(text, token) + token.len()..]) => Some("TIME"),
            () if number && token.bytes().all(|byte| byte.is_ascii_digit()) => {
                let word = previous.to_ascii_lowercase();
                NUMBERED.iter().find(|(name, _)| *name == word).map(|(_, name)| *name)
            }
            () => None,
        };
        out.push_str(replaced.unwrap_or(token));
        if token.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
            previous = token;
        }
    }
    out
}

/// Words, numbers (with points and colons inside) and what stands between, in their order; true for numbers.
fn tokens(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let number = first.is_ascii_digit() && !rest.starts_with("0x");
        let inside =
            |c: char| if number { c.is_ascii_digit() || matches!(c, '.' | ':') } else { c.is_alphanumeric() };
        let mut end = rest.find(|c: char| !inside(c)).unwrap_or(rest.len()).max(first.len_utf8());
        if number {
            end = rest[..end].trim_end_matches(['.', ':']).len();
        }
        let (token, after) = rest.split_at(end);
        rest = after;
        Some((token, number))
    })
}

fn offset(text: &str, token: &str) -> usize {
    token.as_ptr() as usize - text.as_ptr() as usize
}

/// `0x7ffe12345678`.
fn address(token: &str) -> bool {
    let digits = token.strip_prefix("0x").unwrap_or_default();
    ADDRESS_DIGITS.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `12:34:56`, with a fraction or without.
fn clock(token: &str) -> bool {
    let parts: Vec<&str> = token.split(':').collect();
    parts.len() == 3 && parts.iter().all(|part| part.len() >= 2)
}

/// `0.125` before a unit of time: whole numbers are durations that a program chose.
fn timed(token: &str, after: &str) -> bool {
    let unit = after.trim_start_matches(' ');
    let unit = &unit[..unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len())];
    token.contains('.') && UNITS.contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn only_what_may_differ_goes() {
        let before =
            b"pid 4711 died at 0x7ffd12345678 after 0.125 s, 12:30:01.5; inode: 99\nsum 4711 0x12 1.5 3 s\n";
        let after = "pid PID died at ADDRESS after TIME s, TIME; inode: INODE\nsum 4711 0x12 1.5 3 s\n";
        assert_eq!(normal(before), after);
    }
}
