//! Reads images that erofs-utils made, and damaged ones.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use bulkhead_erofs::{FileKind, Inode, ReadAt, Reader};
use proptest::prelude::*;

/// An image of a small tree with every kind of thing, made by mkfs.erofs; `None` if that is not
/// installed.
fn foreign_image(source: &Path, image: &Path) -> Option<()> {
    fs::create_dir(source.join("many")).unwrap();
    for number in 0..600 {
        fs::write(source.join(format!("many/file-{number:04}")), number.to_string()).unwrap();
    }
    fs::write(source.join("big"), vec![7u8; 1_000_001]).unwrap();
    fs::write(source.join("page"), vec![9u8; 8192]).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    fs::set_permissions(source.join("empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("many/file-0000", source.join("link")).unwrap();
    fs::hard_link(source.join("big"), source.join("same")).unwrap();
    match Command::new("mkfs.erofs").arg("-T0").arg(image).arg(source).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => {
            println!("skipped: foreign_image: mkfs.erofs (package erofs-utils) is not installed");
            return None;
        }
    }
    Some(())
}

fn content<S: ReadAt>(reader: &Reader<S>, inode: &Inode) -> Vec<u8> {
    let mut bytes = vec![0; inode.size as usize];
    assert_eq!(reader.read(inode, 0, &mut bytes).unwrap(), bytes.len());
    assert_eq!(reader.read(inode, inode.size, &mut [0]).unwrap(), 0);
    bytes
}

fn compare<S: ReadAt>(reader: &Reader<S>, directory: &Inode, host: &Path) -> usize {
    let mut names = fs::read_dir(host)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect::<Vec<_>>();
    names.sort();
    let entries = reader.entries(directory, 0).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>(), names);
    let mut count = 0;
    for entry in &entries {
        assert_eq!(reader.lookup(directory, &entry.name).unwrap(), Some((entry.nid, entry.kind)));
        let path = host.join(std::ffi::OsStr::from_bytes(&entry.name));
        let meta = fs::symlink_metadata(&path).unwrap();
        let inode = reader.inode(entry.nid).unwrap();
        assert_eq!(u32::from(inode.mode), meta.mode(), "{path:?}");
        assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()));
        count += 1;
        match inode.kind {
            FileKind::Directory => count += compare(reader, &inode, &path),
            FileKind::Regular => {
                assert_eq!(u64::from(inode.nlink), meta.nlink());
                assert!(content(reader, &inode) == fs::read(&path).unwrap(), "{path:?}");
            }
            FileKind::Symlink => assert_eq!(
                reader.symlink_target(&inode).unwrap(),
                fs::read_link(&path).unwrap().as_os_str().as_bytes()
            ),
            other => panic!("{other:?} is not in the source"),
        }
    }
    for absent in [&b""[..], b"absent", b"zzzz", b"\xff", b"file-0300x"] {
        assert_eq!(reader.lookup(directory, absent).unwrap(), None);
    }
    count
}

#[test]
fn reads_what_mkfs_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (source, image) = (dir.path().join("source"), dir.path().join("image"));
    fs::create_dir(&source).unwrap();
    if foreign_image(&source, &image).is_none() {
        return;
    }
    let reader = Reader::open(fs::File::open(&image).unwrap()).unwrap();
    let root = reader.inode(reader.root()).unwrap();
    assert_eq!(compare(&reader, &root, &source), 606);
    assert_eq!(reader.lookup(&root, b"..").unwrap(), Some((reader.root(), FileKind::Directory)));
    // A listing can be taken up behind any entry.
    let many = reader.inode(reader.lookup(&root, b"many").unwrap().unwrap().0).unwrap();
    let all = reader.entries(&many, 0).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    for at in [0, 1, 299, 598] {
        let rest = reader.entries(&many, all[at].next).unwrap().map(Result::unwrap);
        assert!(rest.eq(all[at + 1..].iter().cloned()));
    }
}

/// Visits everything that can be reached, at most `limit` inodes: whatever the image says, this
/// ends without a panic.
fn visit(bytes: &[u8], limit: usize) -> usize {
    let Ok(reader) = Reader::open(bytes) else { return 0 };
    let mut pending = vec![reader.root()];
    let mut seen = 0;
    while let Some(nid) = pending.pop() {
        if seen == limit {
            break;
        }
        seen += 1;
        let Ok(inode) = reader.inode(nid) else { continue };
        let _ = reader.xattrs(&inode);
        let _ = reader.symlink_target(&inode);
        let _ = reader.lookup(&inode, b"file-0300");
        let mut page = [0; 4096];
        let _ = reader.read(&inode, inode.size.saturating_sub(4096), &mut page);
        if let Ok(entries) = reader.entries(&inode, 0) {
            pending.extend(entries.take(limit).map_while(Result::ok).map(|entry| entry.nid));
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]
    #[test]
    fn damaged_images_neither_panic_nor_loop(
        flips in proptest::collection::vec((0usize..64 * 1024, any::<u8>()), 1..40),
        cut in proptest::option::of(0usize..200_000),
    ) {
        static IMAGE: std::sync::OnceLock<Option<Vec<u8>>> = std::sync::OnceLock::new();
        let image = IMAGE.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let (source, image) = (dir.path().join("source"), dir.path().join("image"));
            fs::create_dir(&source).unwrap();
            foreign_image(&source, &image)?;
            let mut bytes = fs::read(&image).unwrap();
            // Without its checksum the superblock can be damaged too.
            bytes[1024 + 8] &= !1;
            Some(bytes)
        });
        if let Some(image) = image {
            prop_assert!(visit(image, 2000) > 600);
            let mut damaged = image.clone();
            for (at, value) in flips {
                // The first blocks hold the superblock, inodes and directories.
                damaged[1024 + at] = value;
            }
            damaged.truncate(cut.unwrap_or(usize::MAX));
            visit(&damaged, 2000);
        }
    }
}
