//! One host uid (and the gid of the same number) for every live sandbox, so that no two sandboxes, whoever started them,
//! share an identity on the host.
//!
//! A claim is a lock on one byte of a shared file: the kernel releases it when the claimant dies, and no file per uid can be
//! left behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// First host uid of the default range: far above people, services and the usual subordinate ranges.
pub const DEFAULT_FIRST: u32 = 2_000_000_000;
/// Number of host uids in the default range: more than sandboxes fit on any machine.
pub const DEFAULT_COUNT: u32 = 65_536;
/// The lock file of root's default range.
pub const DEFAULT_LOCK: &str = "/run/bulkhead/uids";

/// Why no uid could be claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UidError {
    /// The lock file can't be made or locked.
    #[error("can't lock a host uid in {path}", path = path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// All are in use.
    #[error("all {count} host uids from {first} are in use")]
    Exhausted {
        /// First of the range.
        first: u32,
        /// Number in the range.
        count: u32,
    },
}

/// A range of host uids, shared by all launchers that use the same lock file.
#[derive(Debug)]
pub struct UidRange {
    first: u32,
    count: u32,
    lock: PathBuf,
    /// Where the next search starts, so that a uid rests before it is used again.
    next: AtomicU32,
}

/// A claimed uid; dropping it releases it.
#[derive(Debug)]
pub struct HostUid {
    uid: u32,
    /// Its open file description owns the lock.
    _lock: File,
}

impl HostUid {
    /// The uid; the gid has the same number.
    pub fn get(&self) -> u32 {
        self.uid
    }
}

impl UidRange {
    /// The range that root's launchers share.
    pub fn system() -> Self {
        Self::new(DEFAULT_FIRST, DEFAULT_COUNT, Path::new(DEFAULT_LOCK))
    }

    /// A range of `count` uids from `first`, claimed in `lock`.
    pub fn new(first: u32, count: u32, lock: &Path) -> Self {
        // Launchers start at different places, so that two rarely try for the same.
        let seed = std::process::id().wrapping_mul(2_654_435_761) % count.max(1);
        UidRange { first, count, lock: lock.to_path_buf(), next: AtomicU32::new(seed) }
    }

    /// Claims a uid that nobody else has.
    ///
    /// # Errors
    /// [`UidError::Exhausted`] if all are taken; [`UidError::Lock`] if the lock file can't be used.
    pub fn claim(&self) -> Result<HostUid, UidError> {
        let failed = |source| UidError::Lock { path: self.lock.clone(), source };
        let file = self.open().map_err(failed)?;
        for _ in 0..self.count {
            let offset = self.next.fetch_add(1, Ordering::Relaxed) % self.count;
            if try_lock_byte(&file, offset).map_err(failed)? {
                return Ok(HostUid { uid: self.first + offset, _lock: file });
            }
        }
        Err(UidError::Exhausted { first: self.first, count: self.count })
    }

    fn open(&self) -> io::Result<File> {
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&self.lock)
        };
        match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = self.lock.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                open()
            }
            other => other,
        }
    }
}

/// Takes the lock on one byte for this open file description; false if another has it.
fn try_lock_byte(file: &File, offset: u32) -> io::Result<bool> {
    // SAFETY: 1. flock64 is plain data, for which all zeroes is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = i64::from(offset);
    lock.l_len = 1;
    // SAFETY: 1. the descriptor is open for the call; 2. F_OFD_SETLK reads one `struct flock`, which lives on this stack.
    let r = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    if r == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_never_collide_and_come_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let lock = dir.path().join("run/uids");
        let (a, b) = (UidRange::new(5000, 8, &lock), UidRange::new(5000, 8, &lock));
        let mut held: Vec<HostUid> = Vec::new();
        for i in 0..8 {
            held.push(if i % 2 == 0 { &a } else { &b }.claim().expect("free"));
        }
        let mut seen: Vec<u32> = held.iter().map(HostUid::get).collect();
        seen.sort_unstable();
        assert_eq!(seen, (5000..5008).collect::<Vec<_>>());
        assert!(matches!(a.claim(), Err(UidError::Exhausted { first: 5000, count: 8 })));
        let freed = held.swap_remove(3).get();
        assert_eq!(b.claim().expect("one came back").get(), freed);
    }

    #[test]
    fn an_empty_range_is_exhausted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let range = UidRange::new(5000, 0, &dir.path().join("uids"));
        assert!(matches!(range.claim(), Err(UidError::Exhausted { .. })));
    }
}
