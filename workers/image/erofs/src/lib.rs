//! The EROFS on-disk format, as far as Bulkhead's images use it.
//!
//! * [`Reader`] reads an image through positioned reads. It trusts nothing in the image: every
//!   offset is checked against the image's length, no loop is longer than the image, and a damaged
//!   image is an [`Error`], never a panic.
//! * [`Tree`] and [`Pair`] make images: uncompressed, 4 KiB blocks, the data of every regular file on
//!   pages of its own with a zeroed tail, the same bytes for the same tree.
//!
//! # A pair of images
//!
//! The processes of a job may map pages of the image that they run on, wherever they like. So the
//! data of files that are not world-readable (`mode & 0o004 == 0`) live in a second, *private*
//! image, which such processes never hold:
//!
//! * The *public* image holds the whole tree. A non-empty regular file that is not world-readable
//!   is there with all its metadata, but with size 0 and, in the otherwise unused block address,
//!   the number ("nid") of its inode in the private image: see [`Inode::private_nid`].
//! * The *private* image holds those files with their size and data, under the same paths, and the
//!   directories on the way to them. So a kernel can also mount both, the private one above the
//!   public one, as the lower layers of one overlay. It exists only where it is needed.
//!
//! Names, symbolic links, attributes and directories are in the public image whatever their mode.

mod checksum;
mod format;
mod reader;
mod source;
mod tree;
mod writer;

pub use format::{BLOCK_SIZE, FileKind, MAX_NAME, Nid};
pub use reader::{DirEntry, Entries, Error, Extent, Inode, Reader, Xattr};
pub use source::ReadAt;
pub use tree::{Content, Meta, Node, NodeId, Tree};
pub use writer::{Pair, WriteError};
