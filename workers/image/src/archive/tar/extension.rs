//! What PAX and GNU headers say about the entry behind them.

use bulkhead_erofs::Xattr;

use super::super::bounds;
use super::super::error::ArchiveError;

/// Prefix of the records that hold extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Extended headers of one entry, merged.
#[derive(Default)]
pub(super) struct Extension {
    pub(super) long_path: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    /// Sorted by name.
    pub(super) xattrs: Vec<Xattr>,
    xattr_bytes: usize,
    pub(super) sparse: PaxSparse,
    used: bool,
}

/// Records of a PAX sparse file, of all three versions.
#[derive(Default)]
pub(super) struct PaxSparse {
    /// Version 1.0: the map is at the head of the data.
    pub(super) map_in_data: bool,
    /// Version 0.1: offsets and sizes by turns; version 0.0 gives them in records of their own.
    pub(super) numbers: Option<Vec<u64>>,
    pub(super) size: Option<u64>,
    name: Option<Vec<u8>>,
}

impl Extension {
    /// Whether anything was said at all.
    pub(super) fn is_used(&self) -> bool {
        self.used || self.long_path.is_some() || self.long_link.is_some()
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        let names = [&self.sparse.name, &self.path, &self.long_path];
        names.into_iter().flatten().next().map(Vec::as_slice)
    }

    pub(super) fn link(&self) -> Option<&[u8]> {
        [&self.link, &self.long_link].into_iter().flatten().next().map(Vec::as_slice)
    }

    /// Takes the records of a PAX header: `LENGTH KEY=VALUE\n` each, the length counting all of it.
    pub(super) fn read_pax(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        self.used = true;
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes)
                .ok_or_else(|| ArchiveError::damaged(b"a PAX header", "a record is malformed"))?;
            let equals = record.iter().position(|byte| *byte == b'=').unwrap_or(record.len());
            let (key, value) = (&record[..equals], record.get(equals + 1..).unwrap_or(&[]));
            self.record(key, value)?;
            bytes = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        if let Some(name) = key.strip_prefix(XATTR) {
            return self.xattr(name, value);
        }
        let known: &[&[u8]] = &[b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
        if !known.contains(&key) && !key.starts_with(b"GNU.sparse.") {
            return Ok(());
        }
        // An empty value takes an earlier record back.
        let text = (!value.is_empty()).then(|| value.to_vec());
        let refuse = || ArchiveError::damaged(key, "a PAX record's value is not a number in range");
        let number = || match value {
            [] => Ok(None),
            digits => parse(digits).map(Some).ok_or_else(refuse),
        };
        let id = || match number()? {
            None => Ok(None),
            Some(id) => u32::try_from(id).map(Some).map_err(|_| refuse()),
        };
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.size = number()?,
            b"uid" => self.uid = id()?,
            b"gid" => self.gid = id()?,
            b"mtime" => {
                self.mtime = if value.is_empty() { None } else { Some(time(value).ok_or_else(refuse)?) };
            }
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.name" => self.sparse.name = text,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.size = number()?,
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(parse).collect::<Option<Vec<_>>>();
                self.sparse.numbers = Some(numbers.ok_or_else(refuse)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let more = parse(value).ok_or_else(refuse)?;
                self.sparse.numbers.get_or_insert_default().push(more);
            }
            _ => {}
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        // What is replaced counts too, and each attribute costs something.
        self.xattr_bytes += name.len() + value.len() + 8;
        if self.xattr_bytes > bounds::MAX_XATTRS {
            return Err(ArchiveError::too_much(bounds::MAX_XATTRS as u64, "bytes of attributes of one file"));
        }
        let xattr = Xattr { name: name.to_vec(), value: value.to_vec() };
        match self.xattrs.binary_search_by(|other| other.name.as_slice().cmp(name)) {
            Ok(at) => self.xattrs[at] = xattr,
            Err(at) => self.xattrs.insert(at, xattr),
        }
        Ok(())
    }
}

/// The first record without its length and newline, and what is behind it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // 20 digits hold any length.
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(parse(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &bytes[length..]))
}

/// A decimal number without a sign.
pub(super) fn parse(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds since 1970, perhaps with a sign and a fraction, of which nanoseconds are kept.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(parse(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or(&[]);
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, at| value * 10 + digit(at));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, nanoseconds) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_any_bytes() {
        let mut extension = Extension::default();
        let value = b"a\n=\0b";
        let body = [&b"user.x="[..], value].concat();
        let record = [&b"31 SCHILY.xattr."[..], &body, b"\n", b"11 path=ab\n"].concat();
        let length = record.len() - 11;
        let record = [length.to_string().as_bytes(), &record[2..]].concat();
        extension.read_pax(&record).unwrap();
        assert_eq!(extension.xattrs, [Xattr { name: b"user.x".to_vec(), value: value.to_vec() }]);
        assert_eq!(extension.path(), Some(&b"ab"[..]));
    }

    #[test]
    fn malformed_records_are_errors() {
        let cases: [&[u8]; 8] = [
            b"x",
            b"5 path=ab\n",
            b"11 path=ab",
            b"12 path=ab\n",
            b"9 size=x\n",
            b"0 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"10 uid=-1\n",
        ];
        for case in cases {
            assert!(Extension::default().read_pax(case).is_err(), "{}", case.escape_ascii());
        }
    }

    #[test]
    fn times_with_fractions_and_signs() {
        assert_eq!(time(b"1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1.1234567891"), Some((1, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }
}
