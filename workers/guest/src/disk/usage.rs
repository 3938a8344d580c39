//! How much of the scratch disk is used, and whether it was ever full.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, Mode, OFlags, StatFs, fallocate, fstatfs, openat};

/// Files can't grow any more when less than this is free: one write of a few pages, with what indexes them, fails.
const FULL: u64 = 16 << 10;
/// Faster than a program fills a file system through the page cache, in bytes a second.
const FASTEST: u64 = 1 << 30;
/// A full disk stays full until the program that met it has said so: a look each 10 ms finds it.
const SOONEST: Duration = Duration::from_millis(10);
/// An idle machine must stay idle.
const LATEST: Duration = Duration::from_secs(5);

/// Linux does not count failed writes, so the file system is looked at: rarely while much is free, often when little is.
pub(crate) struct Usage {
    directory: OwnedFd,
    /// A file without a name that holds what the disk has beyond the limit, as long as it is open.
    _surplus: OwnedFd,
    /// Used before the job and its inputs, in bytes.
    base: u64,
    peak: u64,
    /// Times that the disk became full.
    hits: u64,
    full: bool,
    next: Instant,
}

impl Usage {
    /// Begins with what is used now on the file system of this directory, and leaves `limit` bytes of it free, in whole
    /// blocks: a disk is larger by more than its file system needs, whose tables grow in steps.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn begin(directory: OwnedFd, limit: u64) -> io::Result<Self> {
        let surplus = take_surplus(&directory, limit)?;
        let base = used(&fstatfs(&directory)?);
        Ok(Self { directory, _surplus: surplus, base, peak: 0, hits: 0, full: false, next: Instant::now() })
    }

    /// When it must be looked at next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Looks, if it is time.
    pub(crate) fn look_if_due(&mut self) {
        if Instant::now() >= self.next {
            self.look();
        }
    }

    /// Looks.
    pub(crate) fn look(&mut self) {
        let Ok(state) = fstatfs(&self.directory) else { return };
        let free = free(&state);
        self.peak = self.peak.max(used(&state).saturating_sub(self.base));
        let full = free < FULL || state.f_ffree == 0;
        self.hits += u64::from(full && !self.full);
        self.full = full;
        let wait = Duration::from_millis(free * 1000 / FASTEST);
        self.next = Instant::now() + wait.clamp(SOONEST, LATEST);
    }

    /// Most bytes that were seen, and how often the disk was seen to become full.
    pub(crate) fn result(&self) -> (u64, u64) {
        (self.peak, self.hits)
    }
}

/// A file that takes up all but `limit` bytes of what is free.
fn take_surplus(directory: &OwnedFd, limit: u64) -> io::Result<OwnedFd> {
    /// What is taken may need a block to be found again.
    const ROUNDS: usize = 3;
    let file =
        openat(directory, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    let mut taken = 0;
    for _ in 0..ROUNDS {
        let state = fstatfs(directory)?;
        let block = state.f_bsize as u64;
        let more = free(&state).saturating_sub(limit / block * block);
        if more == 0 {
            break;
        }
        fallocate(&file, FallocateFlags::empty(), taken, more)?;
        taken += more;
    }
    Ok(file)
}

fn free(state: &StatFs) -> u64 {
    state.f_bavail * state.f_bsize as u64
}

fn used(state: &StatFs) -> u64 {
    state.f_blocks.saturating_sub(state.f_bfree) * state.f_bsize as u64
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    use super::*;

    /// A file system of its own, small enough to be filled.
    struct Disk(tempfile::TempDir);

    impl Disk {
        fn new(bytes: u64) -> Self {
            let place = tempfile::tempdir().expect("a directory");
            let size = std::ffi::CString::new(format!("size={bytes}")).expect("text");
            mount("disk", place.path(), "tmpfs", MountFlags::empty(), &*size).expect("root may mount");
            Self(place)
        }

        fn directory(&self) -> OwnedFd {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(self.0.path(), flags, Mode::empty()).expect("is there")
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let _gone = unmount(self.0.path(), UnmountFlags::DETACH);
        }
    }

    #[test]
    fn as_much_is_free_as_the_limit_says_and_filling_it_is_noticed() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: as_much_is_free_as_the_limit_says_and_filling_it_is_noticed: needs root");
            return;
        }
        for limit in [1 << 20, (1 << 20) + 5, 3 << 20] {
            let disk = Disk::new(4 << 20);
            std::fs::write(disk.0.path().join("before"), [1; 4096]).expect("fits");
            let mut usage = Usage::begin(disk.directory(), limit).expect("a file system");
            let file = disk.0.path().join("file");
            let written = std::fs::write(&file, vec![1; 4 << 20]);
            assert_eq!(written.expect_err("the limit").kind(), io::ErrorKind::StorageFull);
            let size = std::fs::metadata(&file).expect("is there").blocks() * 512;
            assert_eq!(size, limit / 4096 * 4096);
            usage.look();
            assert_eq!(usage.result(), (size, 1));
        }
        // A disk that has less is not made larger.
        let small = Disk::new(1 << 20);
        let usage = Usage::begin(small.directory(), 2 << 20).expect("a file system");
        assert_eq!(free(&fstatfs(&usage.directory).expect("is there")), 1 << 20);
    }
}
