//! /proc and /sys over a kernel of one process.

use std::sync::Arc;
use std::time::Duration;

use crate::errno::Errno;
use crate::fs::proc::{self, MapLine, ProcessInfo, Source, SystemInfo, TaskStatus};
use crate::fs::testing::TestVfs;
use crate::vfs::flags::{O_CREAT, O_RDWR, O_WRONLY};
use crate::vfs::{Credentials, Dentry, FdTable, FsContext, OpenHow, WalkFlags};

struct One {
    files: Arc<FdTable>,
    fs: Arc<FsContext>,
    program: Arc<Dentry>,
}

impl ProcessInfo for One {
    fn pid(&self) -> i32 {
        1
    }

    fn threads(&self) -> Vec<i32> {
        vec![1, 5]
    }

    fn status(&self, tid: i32) -> Option<TaskStatus> {
        let name = b"a (b) \n".to_vec();
        matches!(tid, 1 | 5).then(|| TaskStatus { name, state: b'S', threads: 2, ..TaskStatus::default() })
    }

    fn command_line(&self) -> Vec<u8> {
        b"prog\0arg\0".to_vec()
    }

    fn environment(&self) -> Vec<u8> {
        b"A=1\0".to_vec()
    }

    fn auxiliary_vector(&self) -> Vec<u8> {
        Vec::new()
    }

    fn maps(&self) -> Vec<MapLine> {
        vec![MapLine {
            start: 0x40_0000,
            end: 0x40_1000,
            protection: 5,
            shared: false,
            offset: 0x1000,
            file: Some(self.program.clone()),
            name: "",
            resident_bytes: 4096,
        }]
    }

    fn executable(&self) -> Option<Arc<Dentry>> {
        Some(self.program.clone())
    }

    fn files(&self) -> Option<Arc<FdTable>> {
        Some(self.files.clone())
    }

    fn fs(&self) -> Option<Arc<FsContext>> {
        Some(self.fs.clone())
    }

    fn credentials(&self) -> Arc<Credentials> {
        Arc::new(Credentials::new(0, 0, &[]))
    }

    fn limits(&self) -> [(u64, u64); 16] {
        [(1024, u64::MAX); 16]
    }
}

struct Kernel(Arc<One>);

impl Source for Kernel {
    fn pids(&self) -> Vec<i32> {
        vec![1]
    }

    fn process(&self, tid: i32) -> Option<Arc<dyn ProcessInfo>> {
        matches!(tid, 1 | 5).then(|| self.0.clone() as Arc<dyn ProcessInfo>)
    }

    fn system(&self) -> SystemInfo {
        SystemInfo {
            cpus: 2,
            cpu_millis: 1500,
            memory_limit: 256 << 20,
            memory_used: 56 << 20,
            process_limit: 32,
            uptime: Duration::from_secs(100),
            threads: 2,
            hostname: b"box".to_vec(),
            ..SystemInfo::default()
        }
    }
}

fn setup() -> (TestVfs, Arc<One>) {
    let test = TestVfs::new(1 << 20);
    let caller = test.caller();
    let open = |path: &[u8]| {
        test.vfs.open(&caller, test.root(), path, OpenHow::flags(O_CREAT | O_RDWR, 0o755)).unwrap()
    };
    let files = FdTable::new();
    files.install(open(b"/tmp/zero"), false, 100).unwrap();
    files.install(test.vfs.pipe(&caller, 0).1, true, 100).unwrap();
    let fs = FsContext::new(test.root().clone(), test.root().clone());
    let program = open(b"/tmp/program").dentry().clone();
    let one = Arc::new(One { files: Arc::new(files), fs: Arc::new(fs), program });
    proc::mount(&test.vfs, Arc::new(Kernel(one.clone()))).unwrap();
    (test, one)
}

fn read(test: &TestVfs, path: &str) -> Result<String, Errno> {
    let file = test.vfs.open(&test.caller(), test.root(), path.as_bytes(), OpenHow::READ)?;
    let mut bytes = vec![0; 64 << 10];
    let count = file.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

fn link(test: &TestVfs, path: &str) -> String {
    let caller = test.caller();
    let dentry = test.vfs.lookup(&caller, test.root(), path.as_bytes(), WalkFlags::NO_FOLLOW).unwrap();
    String::from_utf8(test.vfs.readlink(&caller, &dentry).unwrap()).unwrap()
}

#[test]
fn processes_are_shown_with_their_files() {
    let (test, one) = setup();
    assert_eq!(link(&test, "/proc/self"), "1");
    assert_eq!(link(&test, "/proc/self/exe"), "/tmp/program");
    assert_eq!(link(&test, "/proc/1/fd/0"), "/tmp/zero");
    assert!(link(&test, "/proc/1/fd/1").starts_with("pipe:["));
    assert_eq!(read(&test, "/proc/self/cmdline").unwrap(), "prog\0arg\0");
    assert!(read(&test, "/proc/1/task/5/status").unwrap().contains("\nPid:\t5\n"));
    assert!(read(&test, "/proc/1/fdinfo/1").unwrap().contains("flags:\t02100001\n"));
    let maps = read(&test, "/proc/1/maps").unwrap();
    assert!(maps.starts_with("00400000-00401000 r-xp 00001000 00:20 "), "{maps}");
    assert!(maps.ends_with(" /tmp/program\n"), "{maps}");
    // A name can't forge a line or a field.
    assert!(read(&test, "/proc/1/status").unwrap().starts_with("Name:\ta (b) \\n\n"));
    let stat = read(&test, "/proc/1/stat").unwrap();
    assert_eq!(stat[stat.rfind(')').unwrap() + 2..].split(' ').count(), 50, "{stat}");
    assert_eq!(read(&test, "/proc/2/stat"), Err(Errno::ENOENT));
    assert_eq!(read(&test, "/proc/01/stat"), Err(Errno::ENOENT));
    // Opening a descriptor's link opens the file anew, a pipe's included.
    let caller = test.caller();
    one.files.get(0).unwrap().write(b"bytes").unwrap();
    test.vfs.unlink(&caller, test.root(), b"/tmp/zero").unwrap();
    assert_eq!(read(&test, "/dev/fd/0").unwrap(), "bytes");
    assert_eq!(link(&test, "/proc/1/fd/0"), "/tmp/zero (deleted)");
    let again = test.vfs.open(&caller, test.root(), b"/proc/self/fd/1", OpenHow::flags(O_WRONLY, 0));
    assert!(again.unwrap().object::<crate::fs::pipe::PipeEnd>().is_some());
}

#[test]
fn numbers_are_the_jobs() {
    let (test, _one) = setup();
    let memory = read(&test, "/proc/meminfo").unwrap();
    assert!(memory.starts_with("MemTotal:         262144 kB\nMemFree:          204800 kB\n"), "{memory}");
    assert_eq!(read(&test, "/proc/cpuinfo").unwrap().matches("processor\t:").count(), 2);
    assert_eq!(read(&test, "/proc/stat").unwrap().matches("cpu").count(), 3);
    assert_eq!(read(&test, "/sys/devices/system/cpu/online").unwrap(), "0-1\n");
    assert_eq!(read(&test, "/sys/fs/cgroup/memory.max").unwrap(), "268435456\n");
    assert_eq!(read(&test, "/sys/fs/cgroup/cpu.max").unwrap(), "150000 100000\n");
    assert_eq!(read(&test, "/sys/fs/cgroup/pids.max").unwrap(), "32\n");
    assert_eq!(read(&test, "/proc/sys/kernel/hostname").unwrap(), "box\n");
    assert!(read(&test, "/proc/mounts").unwrap().contains("proc /proc proc "));
    assert!(read(&test, "/proc/self/limits").unwrap().contains("Max open files            1024"));
}

#[test]
fn nothing_can_be_made_or_removed_there() {
    let (test, _one) = setup();
    let (caller, root) = (test.caller(), test.root());
    assert_eq!(test.vfs.mkdir(&caller, root, b"/proc/x", 0o755).map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(test.vfs.unlink(&caller, root, b"/proc/meminfo"), Err(Errno::EPERM));
    assert_eq!(test.vfs.mkdir(&caller, root, b"/sys/x", 0o755).map(|_| ()), Err(Errno::EPERM));
    let write = test.vfs.open(&caller, root, b"/proc/meminfo", OpenHow::flags(O_WRONLY, 0)).unwrap();
    assert_eq!(write.write(b"x"), Err(Errno::EPERM));
    // Another user sees neither the environment nor where a process stands.
    let mut other = test.caller_as(Credentials::new(1000, 1000, &[]));
    other.pid = 9;
    let open = |path: &[u8]| test.vfs.open(&other, root, path, OpenHow::READ).map(|_| ());
    assert_eq!(open(b"/proc/1/environ"), Err(Errno::EACCES));
    assert_eq!(open(b"/proc/1/cwd"), Err(Errno::EACCES));
    assert_eq!(open(b"/proc/1/fd"), Err(Errno::EACCES));
    assert_eq!(open(b"/proc/1/cmdline"), Ok(()));
}
