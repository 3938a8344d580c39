//! Patterns of output files, and the paths that they are of.

/// A pattern of paths: `*`, `?` and `[...]` within a name, `**` for any number of directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Vec<u8>>,
}

impl Pattern {
    /// Parses a pattern; a leading slash and `.` don't matter. `None` if it has `..` or no name.
    pub fn new(text: &[u8]) -> Option<Self> {
        let parts: Vec<Vec<u8>> = components(text)?.into_iter().map(<[u8]>::to_vec).collect();
        (!parts.is_empty()).then_some(Self { parts })
    }

    /// The parts between slashes.
    pub fn parts(&self) -> &[Vec<u8>] {
        &self.parts
    }
}

/// Splits a path at slashes, without `.`; a path with `..` is refused.
pub fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let names: Vec<&[u8]> = names.collect();
    (!names.contains(&&b".."[..])).then_some(names)
}

/// Whether a part has nothing special, so that it names one entry.
pub fn is_plain(part: &[u8]) -> bool {
    !part.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether a name matches a part. As in a shell, a leading dot is matched only by a dot.
pub fn matches(part: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && part.first() != Some(&b'.') {
        return false;
    }
    // The usual algorithm with one point of return: time is the product of the lengths at most.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match part.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(_) => one(&part[p..], name[n]),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((after, from))) => {
                p = after;
                n = from + 1;
                star = Some((after, from + 1));
            }
            (None, None) => return false,
        }
    }
    part[p..].iter().all(|byte| *byte == b'*')
}

/// Whether the front of a pattern matches a byte; answers the length of that front.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => class(rest, byte),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// A bracket expression, from behind its `[`.
fn class(rest: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    // A `]` that comes first stands for itself.
    let Some(end) = rest.iter().skip(start + 1).position(|b| *b == b']').map(|at| at + start + 1) else {
        // Without an end it is an ordinary bracket.
        return (byte == b'[').then_some(1);
    };
    let set = &rest[start..end];
    let mut found = false;
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == b'-' {
            found |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= set[at] == byte;
            at += 1;
        }
    }
    (found != negated).then_some(end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_a_shell() {
        let table: [(&[u8], &[u8], bool); 17] = [
            (b"*", b"a", true),
            (b"*", b".a", false),
            (b".*", b".a", true),
            (b"*.txt", b"a.txt", true),
            (b"*.txt", b"a.txt~", false),
            (b"a?c", b"abc", true),
            (b"a?c", b"ac", false),
            (b"[a-c]x", b"bx", true),
            (b"[!a-c]x", b"bx", false),
            (b"[]]x", b"]x", true),
            (b"[ab", b"[ab", true),
            (b"\\*", b"*", true),
            (b"\\*", b"a", false),
            (b"a*b*c", b"aXbYbZc", true),
            (b"a*b*c", b"aXbYbZ", false),
            (b"", b"", true),
            (b"**", b"anything", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern:?} on {name:?}");
        }
        // The pattern that is slow in careless matchers.
        assert!(!matches(&b"a*".repeat(2000), &b"a".repeat(1999)));
    }

    #[test]
    fn patterns_stay_below_their_root() {
        assert_eq!(Pattern::new(b"../etc/passwd"), None);
        assert_eq!(Pattern::new(b"/"), None);
        assert_eq!(Pattern::new(b"/out/./*.log"), Pattern::new(b"out//*.log"));
    }
}
