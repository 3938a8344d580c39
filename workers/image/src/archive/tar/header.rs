//! A tar header: one block of text fields.

use super::super::error::{ArchiveError, show};

/// Bytes of a header, and the unit of everything in an archive.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
pub(super) struct Header {
    bytes: [u8; BLOCK],
}

impl Header {
    pub(super) fn new(bytes: [u8; BLOCK]) -> Result<Self, ArchiveError> {
        let header = Self { bytes };
        // The checksum's own field counts as spaces. Old programs summed signed bytes.
        let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { *byte };
        let unsigned = bytes.iter().enumerate().map(byte).map(i64::from).sum::<i64>();
        let signed = bytes.iter().enumerate().map(byte).map(|b| i64::from(b.cast_signed())).sum::<i64>();
        let stated = header.number(148..156).unwrap_or(-1);
        if stated != unsigned && stated != signed {
            let why = "a header's checksum is wrong".into();
            return Err(ArchiveError::NotAnArchive { why });
        }
        Ok(header)
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.bytes[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0..100);
        // Only POSIX has a prefix; GNU keeps other things there.
        if self.bytes[257..263] == *b"ustar\0" {
            let prefix = self.text(345..500);
            if !prefix.is_empty() {
                return [prefix, b"/", name].concat();
            }
        }
        name.to_vec()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157..257).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, ArchiveError> {
        u64::try_from(self.required(124..136, "size")?).map_err(|_| self.refuse("size"))
    }

    pub(super) fn mode(&self) -> Result<u16, ArchiveError> {
        Ok((self.required(100..108, "mode")? & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Result<u32, ArchiveError> {
        u32::try_from(self.required(108..116, "owner")?).map_err(|_| self.refuse("owner"))
    }

    pub(super) fn gid(&self) -> Result<u32, ArchiveError> {
        u32::try_from(self.required(116..124, "group")?).map_err(|_| self.refuse("group"))
    }

    pub(super) fn mtime(&self) -> Result<i64, ArchiveError> {
        self.required(136..148, "time")
    }

    pub(super) fn device_major(&self) -> Result<u32, ArchiveError> {
        u32::try_from(self.required(329..337, "device")?).map_err(|_| self.refuse("device"))
    }

    pub(super) fn device_minor(&self) -> Result<u32, ArchiveError> {
        u32::try_from(self.required(337..345, "device")?).map_err(|_| self.refuse("device"))
    }

    /// Head of a GNU sparse file: the field of its first four runs, whether more follow, and its
    /// size with holes.
    pub(super) fn gnu_sparse(&self) -> Result<(&[u8], bool, u64), ArchiveError> {
        let size = u64::try_from(self.required(483..495, "size")?).map_err(|_| self.refuse("size"))?;
        Ok((&self.bytes[386..482], self.bytes[482] != 0, size))
    }

    fn text(&self, range: std::ops::Range<usize>) -> &[u8] {
        let field = &self.bytes[range];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        &field[..end]
    }

    fn number(&self, range: std::ops::Range<usize>) -> Option<i64> {
        number(&self.bytes[range])
    }

    fn required(&self, range: std::ops::Range<usize>, what: &str) -> Result<i64, ArchiveError> {
        self.number(range).ok_or_else(|| self.refuse(what))
    }

    fn refuse(&self, what: &str) -> ArchiveError {
        ArchiveError::Damaged { at: show(&self.path()), what: format!("its {what} is not a number in range") }
    }
}

/// A number: octal digits among spaces and NULs, or big-endian binary where the first bit is set.
/// An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // 0x80 begins a positive number, 0xff a negative one; the other bits of it are digits too.
        let negative = first & 0x40 != 0;
        let head = if negative { i128::from(*first) - 256 } else { i128::from(first & 0x7f) };
        let mut value = head;
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
        }
        return i64::try_from(value).ok();
    }
    let start = field.iter().position(|byte| *byte != b' ')?;
    let digits = &field[start..];
    let end = digits.iter().position(|byte| *byte == 0 || *byte == b' ').unwrap_or(digits.len());
    digits[..end].iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_of_all_kinds() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"77777777777 "), Some(0o77_777_777_777));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 8]), Some(-1));
        assert_eq!(number(b"12x4567\0"), None);
        assert_eq!(number(&[0x9f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
