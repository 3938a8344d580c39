//! Flags of path and open calls.

pub use linux_raw_sys::general::{
    __O_TMPFILE, AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_REMOVEDIR, AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW, O_ACCMODE, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_DSYNC, O_EXCL,
    O_LARGEFILE, O_NOATIME, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_SYNC, O_TMPFILE,
    O_TRUNC, O_WRONLY, RESOLVE_BENEATH, RESOLVE_CACHED, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
};

/// O_ASYNC.
pub const O_ASYNC: u32 = 0o20000;

/// What F_SETFL may change.
pub const SETTABLE_FLAGS: u32 = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;

/// What an open file keeps of the flags it was opened with.
pub const KEPT_FLAGS: u32 =
    O_ACCMODE | SETTABLE_FLAGS | O_DSYNC | O_SYNC | O_LARGEFILE | O_DIRECTORY | O_PATH;

/// Longest path in bytes, with its NUL.
pub const PATH_MAX: usize = 4096;

/// Longest name in bytes.
pub const NAME_MAX: usize = 255;
