//! Extended attributes: an inode's own ones, and shared ones that it refers to.

use zerocopy::FromBytes;

use super::{Error, Inode, Reader};
use crate::format::{XATTR_HEADER_SIZE, XATTR_PREFIXES, XattrEntry, XattrHeader};
use crate::source::ReadAt;

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name: `user.colour`, `security.capability`.
    pub name: Vec<u8>,
    /// At most 65535 bytes.
    pub value: Vec<u8>,
}

const ENTRY_SIZE: usize = size_of::<XattrEntry>();
/// Longest shared attribute: head, name and value.
const MAX_SHARED: u64 = (ENTRY_SIZE + u8::MAX as usize + u16::MAX as usize) as u64;

impl<S: ReadAt> Reader<S> {
    /// The extended attributes of an inode, in the image's order.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`], [`Error::Read`].
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let (start, size) = inode.xattrs;
        let corrupt = |what| Error::Corrupt { nid: inode.nid, what };
        if size == 0 {
            return Ok(Vec::new());
        }
        // At most 256 KiB, since the inode counts them in 16 bits.
        let mut body = vec![0; size];
        self.fetch(&mut body, start, inode.nid)?;
        let (header, rest) = XattrHeader::read_from_prefix(&body)
            .map_err(|_| corrupt("its attributes are shorter than their head"))?;
        let (ids, mut own) = rest
            .split_at_checked(usize::from(header.shared) * 4)
            .ok_or(corrupt("it has more shared attributes than room"))?;
        let mut found = Vec::new();
        for id in ids.chunks_exact(4) {
            let id = u32::from_le_bytes(id.try_into().map_err(|_| corrupt("an id is cut off"))?);
            found.push(self.shared_xattr(inode, id)?);
        }
        let mut position = XATTR_HEADER_SIZE + ids.len();
        while own.len() >= ENTRY_SIZE && own[..ENTRY_SIZE] != [0; ENTRY_SIZE] {
            let (xattr, used) = parse(own).map_err(corrupt)?;
            found.push(xattr);
            let used = used.next_multiple_of(4).min(own.len());
            position += used;
            own = &body[position..];
        }
        Ok(found)
    }

    /// One extended attribute of an inode by its full name.
    ///
    /// # Errors
    /// As [`Reader::xattrs`].
    pub fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let found = self.xattrs(inode)?.into_iter().find(|xattr| xattr.name == name);
        Ok(found.map(|xattr| xattr.value))
    }

    fn shared_xattr(&self, inode: &Inode, id: u32) -> Result<Xattr, Error> {
        let corrupt = |what| Error::Corrupt { nid: inode.nid, what };
        let start = self.shared_xattrs + u64::from(id) * 4;
        let left = self.length.saturating_sub(start).min(MAX_SHARED);
        let mut bytes = vec![0; left as usize];
        self.fetch(&mut bytes, start, inode.nid)?;
        Ok(parse(&bytes).map_err(corrupt)?.0)
    }
}

/// The attribute at the head of `bytes`, and its length in bytes without padding.
fn parse(bytes: &[u8]) -> Result<(Xattr, usize), &'static str> {
    let (entry, rest) = XattrEntry::read_from_prefix(bytes).map_err(|_| "an attribute is cut off")?;
    let prefix = XATTR_PREFIXES
        .iter()
        .find(|(number, _)| *number == entry.prefix)
        .ok_or("an attribute's name has an unknown prefix")?
        .1;
    let (suffix, rest) =
        rest.split_at_checked(usize::from(entry.name_length)).ok_or("an attribute's name is cut off")?;
    let value = rest.get(..usize::from(entry.value_size.get())).ok_or("an attribute's value is cut off")?;
    let used = ENTRY_SIZE + suffix.len() + value.len();
    Ok((Xattr { name: [prefix, suffix].concat(), value: value.to_vec() }, used))
}
