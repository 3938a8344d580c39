//! inotify: events of inodes for those who watch them.

use std::sync::Arc;

use crate::sync::Mutex;
use crate::vfs::Dentry;

/// IN_ACCESS.
pub const IN_ACCESS: u32 = 0x1;
/// IN_MODIFY.
pub const IN_MODIFY: u32 = 0x2;
/// IN_ATTRIB.
pub const IN_ATTRIB: u32 = 0x4;
/// IN_CLOSE_WRITE.
pub const IN_CLOSE_WRITE: u32 = 0x8;
/// IN_CLOSE_NOWRITE.
pub const IN_CLOSE_NOWRITE: u32 = 0x10;
/// IN_OPEN.
pub const IN_OPEN: u32 = 0x20;
/// IN_MOVED_FROM.
pub const IN_MOVED_FROM: u32 = 0x40;
/// IN_MOVED_TO.
pub const IN_MOVED_TO: u32 = 0x80;
/// IN_CREATE.
pub const IN_CREATE: u32 = 0x100;
/// IN_DELETE.
pub const IN_DELETE: u32 = 0x200;
/// IN_DELETE_SELF.
pub const IN_DELETE_SELF: u32 = 0x400;
/// IN_MOVE_SELF.
pub const IN_MOVE_SELF: u32 = 0x800;
/// IN_ISDIR: the subject is a directory.
pub const IN_ISDIR: u32 = 0x4000_0000;

/// Who watches an inode.
#[derive(Default)]
pub struct Watches {
    _list: Mutex<()>,
}

/// Tells those who watch an entry or its directory.
pub fn notify(_dentry: &Arc<Dentry>, _event: u32) {}

/// Tells those who watch a directory about an entry of it.
pub fn notify_entry(_directory: &Arc<Dentry>, _event: u32, _name: &[u8], _cookie: u32) {}

/// Tells those who watch something that a name of it was removed, and whether it was the last one.
pub fn unlinked(_dentry: &Arc<Dentry>, _last: bool) {}

/// Tells those who watch the directories and the entry itself about a rename.
pub fn moved(
    _old_directory: &Arc<Dentry>,
    _old_name: &[u8],
    _new_directory: &Arc<Dentry>,
    _new_name: &[u8],
    _moved: &Arc<Dentry>,
) {
}
