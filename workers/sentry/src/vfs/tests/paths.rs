//! Hostile and limiting paths, permissions, and what happens to names that are in use.

use std::sync::Arc;

use crate::errno::Errno;
use crate::fs::testing::TestVfs;
use crate::vfs::flags::*;
use crate::vfs::{Credentials, OpenHow, WalkFlags, check_access, list};

#[test]
fn walks_are_bounded() {
    let test = TestVfs::new(1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    let find = |path: &[u8]| test.vfs.lookup(&caller, &root, path, WalkFlags::FOLLOW).map(|_| ());
    assert_eq!(find(&[b'a'; 256]), Err(Errno::ENAMETOOLONG));
    assert_eq!(find(&[b'a'; 255]), Err(Errno::ENOENT));
    assert_eq!(find(&b"./".repeat(2048)), Err(Errno::ENAMETOOLONG));
    assert_eq!(find(&b"./".repeat(2047)), Ok(()));
    assert_eq!(find(&b"../".repeat(1000)), Ok(()));
    assert_eq!(find(b""), Err(Errno::ENOENT));
    test.vfs.symlink(&caller, b"loop", &root, b"loop").unwrap();
    assert_eq!(find(b"loop"), Err(Errno::ELOOP));
    assert_eq!(find(b"loop/x"), Err(Errno::ELOOP));
    // A chain of exactly 40 links is followed, of 41 not.
    test.vfs.mkdir(&caller, &root, b"end", 0o755).unwrap();
    test.vfs.symlink(&caller, b"end", &root, b"0").unwrap();
    for n in 1..=40 {
        let (name, target) = (n.to_string(), (n - 1).to_string());
        test.vfs.symlink(&caller, target.as_bytes(), &root, name.as_bytes()).unwrap();
    }
    assert_eq!(find(b"39"), Ok(()));
    assert_eq!(find(b"40"), Err(Errno::ELOOP));
}

#[test]
fn openat2_keeps_walks_in_place() {
    let test = TestVfs::new(1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    let jail = test.vfs.mkdir(&caller, &root, b"jail", 0o755).unwrap();
    test.vfs.mkdir(&caller, &jail, b"sub", 0o755).unwrap();
    test.vfs.symlink(&caller, b"/etc", &jail, b"absolute").unwrap();
    test.vfs.symlink(&caller, b"../etc", &jail, b"up").unwrap();
    let open = |path: &[u8], resolve: u32| {
        let how = OpenHow { flags: O_RDONLY, mode: 0, resolve };
        test.vfs.open(&caller, &jail, path, how).map(|file| file.dentry().path(&root))
    };
    assert_eq!(open(b"absolute", 0), Ok(b"/etc".to_vec()));
    assert_eq!(open(b"absolute", RESOLVE_BENEATH), Err(Errno::EXDEV));
    assert_eq!(open(b"up", RESOLVE_BENEATH), Err(Errno::EXDEV));
    assert_eq!(open(b"sub/..", RESOLVE_BENEATH), Ok(b"/jail".to_vec()));
    assert_eq!(open(b"sub/../..", RESOLVE_BENEATH), Err(Errno::EXDEV));
    assert_eq!(open(b"up", RESOLVE_IN_ROOT), Err(Errno::ENOENT));
    assert_eq!(open(b"../../sub", RESOLVE_IN_ROOT), Ok(b"/jail/sub".to_vec()));
    assert_eq!(open(b"up", RESOLVE_NO_SYMLINKS), Err(Errno::ELOOP));
    assert_eq!(open(b"/dev", RESOLVE_NO_XDEV), Err(Errno::EXDEV));
}

#[test]
fn permissions_bind_users_and_not_root() {
    let test = TestVfs::new(1 << 20);
    let root = test.root().clone();
    let admin = test.caller();
    let user = test.caller_as(Credentials::new(1000, 1000, &[50]));
    let directory = test.vfs.mkdir(&admin, &root, b"d", 0o750).unwrap();
    test.vfs.chown(&admin, &directory, Some(0), Some(50)).unwrap();
    let file = test.vfs.open(&admin, &directory, b"f", OpenHow::flags(O_CREAT | O_RDWR, 0o640)).unwrap();
    let open = |flags: u32| test.vfs.open(&user, &root, b"d/f", OpenHow::flags(flags, 0)).map(|_| ());
    assert_eq!(open(O_RDONLY), Err(Errno::EACCES));
    test.vfs.chown(&admin, file.dentry(), None, Some(50)).unwrap();
    assert_eq!(open(O_RDONLY), Ok(()));
    assert_eq!(open(O_WRONLY), Err(Errno::EACCES));
    assert_eq!(test.vfs.unlink(&user, &root, b"d/f"), Err(Errno::EACCES));
    assert_eq!(test.vfs.chmod(&user, file.dentry(), 0o777), Err(Errno::EPERM));
    assert_eq!(test.vfs.chown(&user, file.dentry(), Some(1000), None), Err(Errno::EPERM));
    // Root may do all but execute what nobody may.
    assert_eq!(check_access(file.inode(), &admin.credentials, 7), Err(Errno::EACCES));
    assert_eq!(check_access(file.inode(), &admin.credentials, 6), Ok(()));
    // In a sticky directory only owners remove.
    let shared = test.vfs.mkdir(&admin, &root, b"s", 0o1777).unwrap();
    test.vfs.chmod(&admin, &shared, 0o1777).unwrap();
    test.vfs.open(&admin, &shared, b"theirs", OpenHow::flags(O_CREAT | O_RDWR, 0o666)).unwrap();
    test.vfs.open(&user, &shared, b"mine", OpenHow::flags(O_CREAT | O_RDWR, 0o666)).unwrap();
    assert_eq!(test.vfs.unlink(&user, &shared, b"theirs"), Err(Errno::EPERM));
    assert_eq!(test.vfs.rename(&user, (&shared, b"mine"), (&shared, b"theirs"), 0), Err(Errno::EPERM));
    assert_eq!(test.vfs.unlink(&user, &shared, b"mine"), Ok(()));
}

#[test]
fn set_group_directories_hand_on_their_group() {
    let test = TestVfs::new(1 << 20);
    let (admin, root) = (test.caller(), test.root().clone());
    let user = test.caller_as(Credentials::new(1000, 1000, &[]));
    let directory = test.vfs.mkdir(&admin, &root, b"g", 0o777).unwrap();
    test.vfs.chown(&admin, &directory, None, Some(77)).unwrap();
    test.vfs.chmod(&admin, &directory, 0o2777).unwrap();
    let sub = test.vfs.mkdir(&user, &directory, b"sub", 0o777).unwrap();
    let file = test.vfs.open(&user, &directory, b"f", OpenHow::flags(O_CREAT | O_RDWR, 0o666)).unwrap();
    assert_eq!((sub.inode().meta().gid, sub.inode().meta().mode), (77, 0o2755));
    assert_eq!((file.inode().meta().gid, file.inode().meta().mode), (77, 0o644));
    // Writing takes set-user away, also for whoever may set it.
    test.vfs.chmod(&user, file.dentry(), 0o4755).unwrap();
    file.write(b"x").unwrap();
    assert_eq!(file.inode().meta().mode, 0o755);
}

#[test]
fn removed_files_live_as_long_as_they_are_open() {
    let test = TestVfs::new(1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    let before = test.vfs.disk().used();
    let directory = test.vfs.mkdir(&caller, &root, b"d", 0o755).unwrap();
    let file = test.vfs.open(&caller, &directory, b"f", OpenHow::flags(O_CREAT | O_RDWR, 0o644)).unwrap();
    file.write(&[7; 10_000]).unwrap();
    test.vfs.unlink(&caller, &directory, b"f").unwrap();
    assert_eq!(file.dentry().path(&root), b"/d/f (deleted)");
    let mut bytes = [0; 10];
    assert_eq!(file.pread(9_995, &mut bytes), Ok(5));
    test.vfs.rmdir(&caller, &root, b"d").unwrap();
    assert_eq!(test.vfs.mkdir(&caller, &directory, b"x", 0o755).map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(list(&directory, 0, 10).map(|_| ()), Err(Errno::ENOENT));
    drop((file, directory));
    assert_eq!(test.vfs.disk().used(), before);
}

#[test]
fn the_last_name_ends_a_long_chain_of_removed_directories() {
    let test = TestVfs::new(1 << 20);
    let inode = test.root().inode();
    let before = Arc::strong_count(inode);
    let mut at = crate::vfs::Dentry::new(None, b"", inode.clone());
    for _ in 0..100_000 {
        at = crate::vfs::Dentry::new(Some(at), b"d", inode.clone());
    }
    drop(at);
    assert_eq!(Arc::strong_count(inode), before);
}

#[test]
fn temporary_files_get_a_name_or_go() {
    let test = TestVfs::new(1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    let before = test.vfs.disk().used();
    let how = OpenHow::flags(O_TMPFILE | O_RDWR, 0o600);
    let file = test.vfs.open(&caller, &root, b"/tmp", how).unwrap();
    file.write(b"bytes").unwrap();
    assert_eq!(file.inode().meta().nlink, 0);
    test.vfs.link(&caller, file.dentry(), &root, b"/tmp/named").unwrap();
    assert_eq!(file.inode().meta().nlink, 1);
    let exclusive =
        test.vfs.open(&caller, &root, b"/tmp", OpenHow::flags(how.flags | O_EXCL, 0o600)).unwrap();
    assert_eq!(test.vfs.link(&caller, exclusive.dentry(), &root, b"/tmp/no"), Err(Errno::ENOENT));
    test.vfs.unlink(&caller, &root, b"/tmp/named").unwrap();
    drop((file, exclusive));
    assert_eq!(test.vfs.disk().used(), before);
}

#[test]
fn mount_points_and_devices() {
    let test = TestVfs::new(1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    assert_eq!(test.vfs.rmdir(&caller, &root, b"/dev"), Err(Errno::EBUSY));
    assert_eq!(test.vfs.rename(&caller, (&root, b"/dev"), (&root, b"/x"), 0), Err(Errno::EBUSY));
    let file = test.vfs.open(&caller, &root, b"/f", OpenHow::flags(O_CREAT | O_RDWR, 0o644)).unwrap();
    assert_eq!(test.vfs.link(&caller, file.dentry(), &root, b"/dev/shm/f"), Err(Errno::EXDEV));
    assert_eq!(test.vfs.rename(&caller, (&root, b"/f"), (&root, b"/dev/shm/f"), 0), Err(Errno::EXDEV));
    let open = |path: &[u8]| test.vfs.open(&caller, &root, path, OpenHow::flags(O_RDWR, 0));
    let mut bytes = [1; 8];
    assert_eq!(open(b"/dev/zero").unwrap().read(&mut bytes), Ok(8));
    assert_eq!(bytes, [0; 8]);
    assert_eq!(open(b"/dev/null").unwrap().read(&mut bytes), Ok(0));
    assert_eq!(open(b"/dev/full").unwrap().write(b"x"), Err(Errno::ENOSPC));
    assert_eq!(open(b"/dev/tty").map(|_| ()), Err(Errno::ENXIO));
    assert_eq!(open(b"/dev/urandom").unwrap().read(&mut bytes), Ok(8));
    const S_IFCHR: u32 = 0o020_000;
    assert_eq!(test.vfs.mknod(&caller, &root, b"/null", S_IFCHR | 0o666).map(|_| ()), Err(Errno::EPERM));
}

#[test]
fn programs_that_run_are_not_written_to() {
    let test = TestVfs::new(1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    let file = test.vfs.open(&caller, &root, b"p", OpenHow::flags(O_CREAT | O_RDWR, 0o755)).unwrap();
    let inode = file.inode().clone();
    assert_eq!(inode.deny_write().map(|_| ()).err(), Some(Errno::ETXTBSY));
    drop(file);
    let program = test.vfs.open_executable(&caller, &root, b"p", WalkFlags::FOLLOW).unwrap();
    let running = program.inode().deny_write().unwrap();
    let write = || test.vfs.open(&caller, &root, b"p", OpenHow::flags(O_WRONLY, 0)).map(|_| ());
    assert_eq!(write(), Err(Errno::ETXTBSY));
    drop(running);
    assert_eq!(write(), Ok(()));
    test.vfs.chmod(&caller, program.dentry(), 0o644).unwrap();
    let again = test.vfs.open_executable(&caller, &root, b"p", WalkFlags::FOLLOW).map(|_| ());
    assert_eq!(again, Err(Errno::EACCES));
    drop(Arc::clone(&program));
}
