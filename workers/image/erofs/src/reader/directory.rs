//! Directories: blocks of entries sorted by name, each block complete in itself.

use std::cmp::Ordering;

use zerocopy::FromBytes;

use super::{Error, Inode, Reader};
use crate::format::{BLOCK_SIZE, DIRENT_SIZE, Dirent, FileKind, MAX_NAME, Nid};
use crate::source::ReadAt;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// 1 to 255 bytes, neither `/` nor NUL in it.
    pub name: Vec<u8>,
    pub nid: Nid,
    /// As the directory says; the inode has the last word.
    pub kind: FileKind,
    /// Where a listing goes on behind this entry: see [`Reader::entries`].
    pub next: u64,
}

/// One block of a directory, in memory.
struct Block {
    bytes: [u8; BLOCK_SIZE as usize],
    /// Bytes of it that belong to the directory.
    length: usize,
    count: usize,
    nid: Nid,
}

impl Block {
    fn corrupt<T>(&self, what: &'static str) -> Result<T, Error> {
        Err(Error::Corrupt { nid: self.nid, what })
    }

    fn raw(&self, index: usize) -> Option<Dirent> {
        let start = index * DIRENT_SIZE;
        let bytes = self.bytes[..self.length].get(start..start + DIRENT_SIZE)?;
        Dirent::read_from_bytes(bytes).ok()
    }

    /// Entry `index < count`: its name, inode and type.
    fn entry(&self, index: usize) -> Result<(&[u8], Nid, Option<FileKind>), Error> {
        let Some(dirent) = self.raw(index) else { return self.corrupt("an entry is cut off") };
        let start = usize::from(dirent.name_offset.get());
        let last = index + 1 == self.count;
        let end = match self.raw(index + 1) {
            Some(next) if !last => usize::from(next.name_offset.get()),
            _ => self.length,
        };
        if start < self.count * DIRENT_SIZE {
            return self.corrupt("a name lies among the entries");
        }
        let Some(name) = self.bytes[..self.length].get(start..end) else {
            return self.corrupt("a name is out of its block");
        };
        // Only the last name of a block may be followed by padding.
        let name = match name.iter().position(|byte| *byte == 0) {
            Some(end) if last => &name[..end],
            Some(_) => return self.corrupt("a name has a NUL"),
            None => name,
        };
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&b'/') {
            return self.corrupt("a name is illegal");
        }
        Ok((name, dirent.nid.get(), FileKind::from_dirent(dirent.kind)))
    }
}

impl<S: ReadAt> Reader<S> {
    /// Finds `name` in a directory; `.` and `..` are found too.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::Corrupt`], [`Error::Read`].
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<(Nid, FileKind)>, Error> {
        if directory.kind != FileKind::Directory {
            return Err(Error::NotDirectory { nid: directory.nid });
        }
        // The block: the last one whose first name is not behind the name.
        let (mut low, mut high) = (0, directory.size.div_ceil(BLOCK_SIZE));
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.directory_block(directory, middle)?;
            match block.entry(0)?.0.cmp(name) {
                Ordering::Equal => return self.found(&block, 0),
                Ordering::Greater => high = middle,
                Ordering::Less => match block.entry(block.count - 1)?.0.cmp(name) {
                    Ordering::Equal => return self.found(&block, block.count - 1),
                    Ordering::Less => low = middle + 1,
                    Ordering::Greater => return self.search(&block, name),
                },
            }
        }
        Ok(None)
    }

    fn search(&self, block: &Block, name: &[u8]) -> Result<Option<(Nid, FileKind)>, Error> {
        let (mut low, mut high) = (0, block.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match block.entry(middle)?.0.cmp(name) {
                Ordering::Equal => return self.found(block, middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    fn found(&self, block: &Block, index: usize) -> Result<Option<(Nid, FileKind)>, Error> {
        let (_, nid, kind) = block.entry(index)?;
        Ok(Some((nid, self.kind_of(nid, kind)?)))
    }

    /// The entry's type, or the inode's where the entry does not say.
    fn kind_of(&self, nid: Nid, kind: Option<FileKind>) -> Result<FileKind, Error> {
        kind.map_or_else(|| Ok(self.inode(nid)?.kind), Ok)
    }

    /// The entries of a directory in the order of their bytes, without `.` and `..`. `position` is
    /// 0 for the first one, or an earlier entry's [`DirEntry::next`].
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; the iterator ends after its first error.
    pub fn entries<'a>(&'a self, directory: &'a Inode, position: u64) -> Result<Entries<'a, S>, Error> {
        if directory.kind != FileKind::Directory {
            return Err(Error::NotDirectory { nid: directory.nid });
        }
        Ok(Entries { reader: self, directory, position, block: None })
    }

    fn directory_block(&self, directory: &Inode, index: u64) -> Result<Block, Error> {
        let nid = directory.nid;
        let mut bytes = [0u8; BLOCK_SIZE as usize];
        let length = self.read(directory, index * BLOCK_SIZE, &mut bytes)?;
        let mut block = Block { bytes, length, count: 0, nid };
        let first = block.raw(0).map_or(0, |dirent| usize::from(dirent.name_offset.get()));
        if first < DIRENT_SIZE || !first.is_multiple_of(DIRENT_SIZE) || first >= length {
            return block.corrupt("a block of the directory has no entries");
        }
        block.count = first / DIRENT_SIZE;
        Ok(block)
    }
}

/// A listing: see [`Reader::entries`].
pub struct Entries<'a, S> {
    reader: &'a Reader<S>,
    directory: &'a Inode,
    /// Block number times the block's size, plus the number of the next entry in it.
    position: u64,
    block: Option<(u64, Box<Block>)>,
}

impl<S: ReadAt> Entries<'_, S> {
    fn advance(&mut self) -> Result<Option<DirEntry>, Error> {
        while self.position < self.directory.size {
            let number = self.position / BLOCK_SIZE;
            let index = (self.position % BLOCK_SIZE) as usize;
            let (_, block) = match self.block.take() {
                Some(held) if held.0 == number => self.block.insert(held),
                _ => {
                    let block = self.reader.directory_block(self.directory, number)?;
                    self.block.insert((number, Box::new(block)))
                }
            };
            if index >= block.count {
                self.position = (number + 1) * BLOCK_SIZE;
                continue;
            }
            self.position += 1;
            let (name, nid, kind) = block.entry(index)?;
            if name == b"." || name == b".." {
                continue;
            }
            let kind = self.reader.kind_of(nid, kind)?;
            return Ok(Some(DirEntry { name: name.to_vec(), nid, kind, next: self.position }));
        }
        Ok(None)
    }
}

impl<S: ReadAt> Iterator for Entries<'_, S> {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            self.position = u64::MAX;
        }
        result.transpose()
    }
}
