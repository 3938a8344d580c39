//! The same operations on a directory of the host and on ours, on an empty tree and over an image: results,
//! errors and what is there afterwards must agree.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};

use crate::errno::Errno;
use crate::fs::testing::{TestVfs, image_of};
use crate::vfs::{Caller, Dentry, Kind, OpenHow, SetTime, Timestamp, WalkFlags, list};

const PATHS: &[&str] = &[
    "a", "b", "c", "a/b", "a/c", "b/a", "a/b/c", "b/b/b", "d", "d/x", "l", "l/x", "l/b", "a/", "b//a",
    "a/../b", "./a", "nope/x", "", "a/.", "a/..", ".", "m", "m/a", "l/", "c/x",
];
const TARGETS: &[&str] = &["a", "b/a", "../b", "l", "m", "nope", "a/b/c", ".", "d/"];

#[derive(Debug, Clone)]
enum Operation {
    Mkdir(usize, u32),
    Rmdir(usize),
    Unlink(usize),
    Rename(usize, usize, u32),
    Link(usize, usize),
    Symlink(usize, usize),
    Write { path: usize, flags: u32, offset: u64, length: usize },
    Truncate(usize, u64),
    Stat(usize, bool),
    Readlink(usize),
    Chmod(usize, u32),
    SetTime(usize, i64),
    Read(usize),
    List(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Done,
    Count(usize),
    Text(Vec<u8>),
    Names(Vec<Vec<u8>>),
    Stat { kind: u32, mode: u32, links: u64, size: u64, mtime: Option<i64> },
}

type Answer = Result<Outcome, Errno>;

const WRITE_FLAGS: &[u32] = {
    use crate::vfs::flags::*;
    &[
        O_WRONLY,
        O_WRONLY | O_CREAT,
        O_WRONLY | O_CREAT | O_EXCL,
        O_WRONLY | O_CREAT | O_TRUNC,
        O_RDWR | O_APPEND,
        O_WRONLY | O_TRUNC,
        O_WRONLY | O_CREAT | O_NOFOLLOW,
        O_WRONLY | O_DIRECTORY,
        O_RDONLY | O_CREAT,
    ]
};

fn operation() -> impl Strategy<Value = Operation> {
    let path = || 0..PATHS.len();
    prop_oneof![
        3 => (path(), prop_oneof![Just(0o755), Just(0o700), Just(0o2775)])
            .prop_map(|(p, m)| Operation::Mkdir(p, m)),
        1 => path().prop_map(Operation::Rmdir),
        2 => path().prop_map(Operation::Unlink),
        3 => (path(), path(), prop_oneof![4 => Just(0u32), 1 => Just(1), 1 => Just(2)])
            .prop_map(|(a, b, f)| Operation::Rename(a, b, f)),
        2 => (path(), path()).prop_map(|(a, b)| Operation::Link(a, b)),
        2 => (0..TARGETS.len(), path()).prop_map(|(t, p)| Operation::Symlink(t, p)),
        5 => (path(), 0..WRITE_FLAGS.len(), 0..9000u64, 0..6000usize)
            .prop_map(|(path, f, offset, length)| Operation::Write { path, flags: WRITE_FLAGS[f], offset, length }),
        1 => (path(), 0..10_000u64).prop_map(|(p, s)| Operation::Truncate(p, s)),
        3 => (path(), any::<bool>()).prop_map(|(p, f)| Operation::Stat(p, f)),
        1 => path().prop_map(Operation::Readlink),
        1 => (path(), prop_oneof![Just(0o644), Just(0o4755), Just(0o1777), Just(0)])
            .prop_map(|(p, m)| Operation::Chmod(p, m)),
        1 => (path(), 1..2_000_000_000i64).prop_map(|(p, t)| Operation::SetTime(p, t)),
        2 => path().prop_map(Operation::Read),
        1 => path().prop_map(Operation::List),
    ]
}

fn fill(length: usize, seed: u64) -> Vec<u8> {
    (0..length).map(|n| (n as u64 * 31 + seed) as u8).collect()
}

/// The host's directory.
struct Host(OwnedFd);

impl Host {
    fn at(path: &Path) -> Self {
        Self(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    fn open(&self, path: &str, flags: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::from_bits_retain(flags);
        Ok(rustix::fs::openat(&self.0, path, flags, Mode::from_raw_mode(0o644))?)
    }

    fn run(&self, operation: &Operation) -> Answer {
        let mode = Mode::from_raw_mode;
        match operation {
            Operation::Mkdir(p, m) => rustix::fs::mkdirat(&self.0, PATHS[*p], mode(*m))?,
            Operation::Rmdir(p) => rustix::fs::unlinkat(&self.0, PATHS[*p], AtFlags::REMOVEDIR)?,
            Operation::Unlink(p) => rustix::fs::unlinkat(&self.0, PATHS[*p], AtFlags::empty())?,
            Operation::Rename(a, b, f) => rustix::fs::renameat_with(
                &self.0,
                PATHS[*a],
                &self.0,
                PATHS[*b],
                RenameFlags::from_bits_retain(*f),
            )?,
            Operation::Link(a, b) => {
                rustix::fs::linkat(&self.0, PATHS[*a], &self.0, PATHS[*b], AtFlags::empty())?;
            }
            Operation::Symlink(t, p) => rustix::fs::symlinkat(TARGETS[*t], &self.0, PATHS[*p])?,
            Operation::Write { path, flags, offset, length } => {
                let file = self.open(PATHS[*path], *flags)?;
                return Ok(Outcome::Count(rustix::io::pwrite(&file, &fill(*length, *offset), *offset)?));
            }
            Operation::Truncate(p, s) => {
                let file = self.open(PATHS[*p], crate::vfs::flags::O_WRONLY)?;
                rustix::fs::ftruncate(&file, *s)?;
            }
            Operation::Stat(p, follow) => return self.stat(PATHS[*p], *follow),
            Operation::Readlink(p) => {
                let target = rustix::fs::readlinkat(&self.0, PATHS[*p], Vec::new())?;
                return Ok(Outcome::Text(target.into_bytes()));
            }
            Operation::Chmod(p, m) => rustix::fs::chmodat(&self.0, PATHS[*p], mode(*m), AtFlags::empty())?,
            Operation::SetTime(p, t) => {
                let time = rustix::fs::Timespec { tv_sec: *t, tv_nsec: 0 };
                let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(&self.0, PATHS[*p], &times, AtFlags::empty())?;
            }
            Operation::Read(p) => {
                let file = self.open(PATHS[*p], crate::vfs::flags::O_RDONLY)?;
                let mut bytes = vec![0; 32 << 10];
                let count = rustix::io::pread(&file, &mut bytes[..], 0)?;
                bytes.truncate(count);
                return Ok(Outcome::Text(digest(&bytes).into_bytes()));
            }
            Operation::List(p) => {
                let file = self.open(PATHS[*p], crate::vfs::flags::O_DIRECTORY)?;
                let mut names: Vec<Vec<u8>> = rustix::fs::Dir::new(file)?
                    .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
                    .collect();
                names.sort();
                return Ok(Outcome::Names(names));
            }
        }
        Ok(Outcome::Done)
    }

    fn stat(&self, path: &str, follow: bool) -> Answer {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let stat = rustix::fs::statat(&self.0, path, flags)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let has_size = kind != FileType::Directory;
        Ok(Outcome::Stat {
            kind: stat.st_mode & 0o170_000,
            mode: stat.st_mode & 0o7777,
            links: stat.st_nlink,
            size: if has_size { stat.st_size as u64 } else { 0 },
            // Only times that were set are comparable.
            mtime: (stat.st_mtime < 2_000_000_000 && stat.st_mtime > 0)
                .then_some(stat.st_mtime)
                .filter(|time| *time < 1_700_000_000),
        })
    }
}

/// Our tree.
struct Ours<'a> {
    test: &'a TestVfs,
    caller: Caller,
    base: Arc<Dentry>,
}

impl<'a> Ours<'a> {
    fn at(test: &'a TestVfs, path: &str) -> Self {
        let mut caller = test.caller();
        let base = test.vfs.lookup(&caller, test.root(), path.as_bytes(), WalkFlags::FOLLOW).unwrap();
        caller.cwd = base.clone();
        Self { test, caller, base }
    }

    fn find(&self, path: &str, follow: bool) -> Result<Arc<Dentry>, Errno> {
        let flags = if follow { WalkFlags::FOLLOW } else { WalkFlags::NO_FOLLOW };
        self.test.vfs.lookup(&self.caller, &self.base, path.as_bytes(), flags)
    }

    fn run(&self, operation: &Operation) -> Answer {
        let (vfs, caller, base) = (&self.test.vfs, &self.caller, &self.base);
        let path = |p: &usize| PATHS[*p].as_bytes();
        match operation {
            Operation::Mkdir(p, m) => drop(vfs.mkdir(caller, base, path(p), *m)?),
            Operation::Rmdir(p) => vfs.rmdir(caller, base, path(p))?,
            Operation::Unlink(p) => vfs.unlink(caller, base, path(p))?,
            Operation::Rename(a, b, f) => vfs.rename(caller, (base, path(a)), (base, path(b)), *f)?,
            Operation::Link(a, b) => {
                let source = self.find(PATHS[*a], false)?;
                vfs.link(caller, &source, base, path(b))?;
            }
            Operation::Symlink(t, p) => vfs.symlink(caller, TARGETS[*t].as_bytes(), base, path(p))?,
            Operation::Write { path: p, flags, offset, length } => {
                let file = vfs.open(caller, base, path(p), OpenHow::flags(*flags, 0o644))?;
                return Ok(Outcome::Count(file.pwrite(*offset, &fill(*length, *offset))?));
            }
            Operation::Truncate(p, s) => {
                let how = OpenHow::flags(crate::vfs::flags::O_WRONLY, 0);
                let file = vfs.open(caller, base, path(p), how)?;
                vfs.truncate(caller, file.dentry(), *s)?;
            }
            Operation::Stat(p, follow) => return self.stat(PATHS[*p], *follow),
            Operation::Readlink(p) => {
                let link = self.find(PATHS[*p], false)?;
                return Ok(Outcome::Text(vfs.readlink(caller, &link)?));
            }
            Operation::Chmod(p, m) => vfs.chmod(caller, &self.find(PATHS[*p], true)?, *m)?,
            Operation::SetTime(p, t) => {
                let time = SetTime::At(Timestamp { seconds: *t, nanoseconds: 0 });
                vfs.set_times(caller, &self.find(PATHS[*p], true)?, time, time)?;
            }
            Operation::Read(p) => {
                let file = vfs.open(caller, base, path(p), OpenHow::READ)?;
                let mut bytes = vec![0; 32 << 10];
                let count = file.pread(0, &mut bytes)?;
                bytes.truncate(count);
                return Ok(Outcome::Text(digest(&bytes).into_bytes()));
            }
            Operation::List(p) => {
                let how = OpenHow::flags(crate::vfs::flags::O_DIRECTORY, 0);
                let file = vfs.open(caller, base, path(p), how)?;
                return Ok(Outcome::Names(names(file.dentry())?));
            }
        }
        Ok(Outcome::Done)
    }

    fn stat(&self, path: &str, follow: bool) -> Answer {
        let dentry = self.find(path, follow)?;
        let inode = dentry.inode();
        let meta = inode.meta();
        let size = match &inode.body {
            crate::vfs::Body::Regular(content) => content.size(),
            crate::vfs::Body::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        Ok(Outcome::Stat {
            kind: inode.kind as u32,
            mode: meta.mode,
            links: meta.nlink.into(),
            size,
            mtime: Some(meta.mtime.seconds).filter(|time| *time < 1_700_000_000),
        })
    }
}

/// All names, a few at a time as getdents does.
fn names(directory: &Arc<Dentry>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    let mut position = 0;
    loop {
        let some = list(directory, position, 3)?;
        let Some(last) = some.last() else { break };
        position = last.next;
        names.extend(some.into_iter().map(|entry| entry.name));
    }
    names.sort();
    Ok(names)
}

/// Short enough to print.
fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} bytes, sum {sum:x}", bytes.len())
}

/// Everything below, with types, modes and content.
fn walk_ours(ours: &Ours<'_>, path: &str, out: &mut Vec<String>) {
    let stat = ours.stat(path, false).unwrap();
    out.push(format!("{path} {stat:?}"));
    let dentry = ours.find(path, false).unwrap();
    if dentry.inode().kind == Kind::Directory {
        for name in names(&dentry).unwrap().iter().filter(|name| !matches!(&name[..], b"." | b"..")) {
            walk_ours(ours, &format!("{path}/{}", String::from_utf8_lossy(name)), out);
        }
    } else if let Some(content) = dentry.inode().content() {
        let mut bytes = vec![0; 64 << 10];
        let count = content.read_at(0, &mut bytes).unwrap();
        out.push(digest(&bytes[..count]));
    }
}

fn walk_host(host: &Host, root: &Path, path: &str, out: &mut Vec<String>) {
    let stat = host.stat(path, false).unwrap();
    out.push(format!("{path} {stat:?}"));
    let full = root.join(path);
    let meta = std::fs::symlink_metadata(&full).unwrap();
    if meta.is_dir() {
        let mut names: Vec<String> = std::fs::read_dir(&full)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        for name in names {
            walk_host(host, root, &format!("{path}/{name}"), out);
        }
    } else if meta.is_file() {
        out.push(digest(&std::fs::read(&full).unwrap()));
    }
}

fn compare(host_base: &Path, test: &TestVfs, operations: &[Operation]) -> Result<(), TestCaseError> {
    let host = Host::at(host_base);
    let ours = Ours::at(test, "/w/base");
    for (n, operation) in operations.iter().enumerate() {
        let expected = host.run(operation);
        let got = ours.run(operation);
        prop_assert_eq!(&got, &expected, "operation {} of {:?}: {:?}", n, operations, operation);
    }
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    walk_host(&host, host_base, ".", &mut expected);
    walk_ours(&ours, ".", &mut got);
    prop_assert_eq!(got, expected);
    Ok(())
}

/// What both sides begin with where there is an image.
fn populate(base: &Path) {
    for directory in ["a", "a/b", "b", "c"] {
        std::fs::create_dir(base.join(directory)).unwrap();
    }
    std::fs::write(base.join("a/b/c"), fill(5000, 1)).unwrap();
    std::fs::write(base.join("a/c"), b"text").unwrap();
    std::fs::write(base.join("b/a"), fill(4096, 2)).unwrap();
    std::fs::hard_link(base.join("b/a"), base.join("d")).unwrap();
    std::os::unix::fs::symlink("a", base.join("l")).unwrap();
    std::os::unix::fs::symlink("l/b", base.join("m")).unwrap();
}

fn host_base(parent: &Path) -> std::path::PathBuf {
    // One level down: a link to `..` shows a directory that holds nothing else on either side.
    let base = parent.join("w/base");
    std::fs::create_dir_all(&base).unwrap();
    rustix::fs::chmodat(CWD, &base, Mode::from_raw_mode(0o755), AtFlags::empty()).unwrap();
    base
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_empty_tree_behaves_as_the_host(operations in prop::collection::vec(operation(), 1..60)) {
        let parent = tempfile::tempdir().unwrap();
        let base = host_base(parent.path());
        let test = TestVfs::new(16 << 20);
        test.vfs.mkdir(&test.caller(), test.root(), b"w", 0o755).unwrap();
        test.vfs.mkdir(&test.caller(), test.root(), b"w/base", 0o755).unwrap();
        compare(&base, &test, &operations)?;
    }

    #[test]
    fn a_tree_over_an_image_behaves_as_the_host(operations in prop::collection::vec(operation(), 1..60)) {
        let parent = tempfile::tempdir().unwrap();
        let base = host_base(parent.path());
        populate(&base);
        let test = TestVfs::over(Some(image_of(parent.path())), 16 << 20);
        compare(&base, &test, &operations)?;
    }
}
