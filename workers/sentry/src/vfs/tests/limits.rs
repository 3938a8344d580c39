//! Large directories, the disk limit, and names that are forgotten.

use std::collections::BTreeSet;

use crate::errno::Errno;
use crate::fs::testing::{TestVfs, image_of};
use crate::vfs::flags::{O_CREAT, O_RDWR};
use crate::vfs::{OpenHow, WalkFlags, list};

#[test]
fn a_directory_of_40_000_entries_is_listed_once_each_while_it_shrinks() {
    const COUNT: usize = 40_000;
    let test = TestVfs::new(1 << 30);
    let (caller, root) = (test.caller(), test.root().clone());
    let before = test.vfs.disk().used();
    let directory = test.vfs.mkdir(&caller, &root, b"big", 0o755).unwrap();
    for n in 0..COUNT {
        let how = OpenHow::flags(O_CREAT | O_RDWR, 0o644);
        test.vfs.open(&caller, &directory, format!("file{n}").as_bytes(), how).unwrap();
    }
    // As rm -r does: read some, remove them, read on.
    let mut seen = BTreeSet::new();
    let mut position = 0;
    loop {
        let some = list(&directory, position, 500).unwrap();
        let Some(last) = some.last() else { break };
        position = last.next;
        for entry in some.iter().filter(|entry| entry.name.len() > 2) {
            assert!(seen.insert(entry.name.clone()), "listed twice");
            test.vfs.unlink(&caller, &directory, &entry.name).unwrap();
        }
    }
    assert_eq!(seen.len(), COUNT);
    test.vfs.rmdir(&caller, &root, b"big").unwrap();
    drop(directory);
    assert_eq!(test.vfs.disk().used(), before);
}

#[test]
fn the_disk_limit_holds_and_everything_comes_back() {
    let test = TestVfs::new(1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    let before = test.vfs.disk().used();
    let open =
        |name: &str| test.vfs.open(&caller, &root, name.as_bytes(), OpenHow::flags(O_CREAT | O_RDWR, 0o644));
    for round in 0..3 {
        let mut created = 0;
        let full = loop {
            match open(&format!("f{created}")).and_then(|file| file.write(&[1; 6000])) {
                Ok(6000) => created += 1,
                other => break other,
            }
        };
        // The last one may have been written in part.
        assert!(matches!(full, Err(Errno::ENOSPC) | Ok(4096)), "{full:?}");
        assert!(created > 90, "round {round}: {created}");
        assert!(test.vfs.disk().used() <= 1 << 20);
        for n in 0..=created {
            let _ = test.vfs.unlink(&caller, &root, format!("f{n}").as_bytes());
        }
        assert_eq!(test.vfs.disk().used(), before, "round {round}");
    }
    assert!(test.vfs.disk().hits() >= 3);
    // Names alone are bounded too.
    let mut names = 0u32;
    while test.vfs.mkdir(&caller, &root, format!("d{names}").as_bytes(), 0o755).is_ok() {
        names += 1;
    }
    assert!(names > 100 && names <= 1024, "{names}");
    let what = test.vfs.symlink(&caller, b"x", &root, b"one more");
    assert_eq!(what, Err(Errno::ENOSPC));
}

#[test]
fn names_of_an_image_are_forgotten_and_changes_are_not() {
    let host = tempfile::tempdir().unwrap();
    for directory in 0..70 {
        let path = host.path().join(format!("d{directory}"));
        std::fs::create_dir(&path).unwrap();
        for file in 0..20 {
            std::fs::write(path.join(format!("f{file}")), b"image").unwrap();
        }
    }
    let test = TestVfs::over(Some(image_of(host.path())), 1 << 20);
    let (caller, root) = (test.caller(), test.root().clone());
    let find = |path: &str| test.vfs.lookup(&caller, &root, path.as_bytes(), WalkFlags::FOLLOW);
    let changed = find("d1/f1").unwrap();
    test.vfs.chmod(&caller, &changed, 0o600).unwrap();
    drop(changed);
    test.vfs.unlink(&caller, &root, b"d2/f2").unwrap();
    let held = find("d3/f3").unwrap();
    // Names that don't exist are remembered too: enough of them to be too many.
    for n in 0..crate::vfs::dentry::MAX_CACHED_NAMES + 1000 {
        assert_eq!(find(&format!("d{}/absent{n}", n % 70)).map(|_| ()), Err(Errno::ENOENT));
    }
    assert!(crate::vfs::dentry::cached_names() <= crate::vfs::dentry::MAX_CACHED_NAMES);
    assert_eq!(find("d1/f1").unwrap().inode().meta().mode, 0o600);
    assert_eq!(find("d2/f2").map(|_| ()), Err(Errno::ENOENT));
    assert!(std::sync::Arc::ptr_eq(&find("d3/f3").unwrap(), &held));
    assert_eq!(find("d4/f4").unwrap().inode().content().unwrap().size(), 5);
}
