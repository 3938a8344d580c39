//! Writes trees and reads them back: with our own reader, with erofs-utils and with the kernel.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use bulkhead_erofs::{BLOCK_SIZE, Content, FileKind, Inode, Meta, Node, NodeId, Pair, Reader, Tree, Xattr};
use proptest::prelude::*;

struct Built {
    tree: Tree,
    data: Vec<u8>,
}

impl Built {
    fn new() -> Self {
        Self { tree: Tree::new(Meta { mode: 0o755, ..Meta::default() }), data: Vec::new() }
    }

    fn add(&mut self, parent: NodeId, name: &[u8], meta: Meta, content: Content) -> NodeId {
        let id = self.tree.add(Node { meta, content }).unwrap();
        self.link(parent, name, id);
        id
    }

    fn link(&mut self, parent: NodeId, name: &[u8], id: NodeId) {
        self.tree.children_mut(parent).unwrap().insert(name.into(), id);
    }

    fn file(&mut self, bytes: &[u8]) -> Content {
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        Content::Regular { offset, size: bytes.len() as u64 }
    }

    fn images(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let pair = Pair::new(&self.tree).unwrap();
        let (mut public, mut private) = (Vec::new(), Vec::new());
        pair.write_public(&self.data, &mut public).unwrap();
        assert_eq!(public.len() as u64, pair.public_size());
        let has_private = pair.write_private(&self.data, &mut private).unwrap();
        assert_eq!(has_private.then_some(private.len() as u64), pair.private_size());
        (public, has_private.then_some(private))
    }
}

fn meta(mode: u16) -> Meta {
    Meta { mode, uid: 70_000, gid: 80_000, mtime: 1_700_000_000, mtime_nsec: 123_456_789, xattrs: Vec::new() }
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() }
}

/// A tree with everything that the format has.
fn everything() -> Built {
    let mut built = Built::new();
    let root = built.tree.root();
    let dir = built.add(root, b"dir", meta(0o1777), Content::empty_directory());
    let sizes = [0, 1, 4095, 4096, 4097, 1_000_000];
    for (number, size) in sizes.into_iter().enumerate() {
        let bytes = (0..size).map(|at| (at / 7 + number) as u8).collect::<Vec<_>>();
        let content = built.file(&bytes);
        let id = built.add(dir, format!("file{size}").as_bytes(), meta(0o4755), content);
        built.link(root, format!("-also{size}").as_bytes(), id);
    }
    let secret = built.file(b"root:*:0:0");
    let etc = built.add(root, b"etc", meta(0o755), Content::empty_directory());
    let shadow = built.add(etc, b"shadow", meta(0o640), secret);
    built.link(root, b"shadow-", shadow);
    built.add(etc, b"empty-secret", meta(0o600), Content::Regular { offset: 0, size: 0 });
    let mut with_xattrs = meta(0o700);
    with_xattrs
        .xattrs
        .push(xattr("security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    with_xattrs.xattrs.push(xattr("user.colour", b"blue"));
    with_xattrs.xattrs.push(xattr("user.large", &[5; 3500]));
    let content = built.file(b"#!/bin/sh\n");
    built.add(dir, b"capable", Meta { mode: 0o755, ..with_xattrs.clone() }, content);
    let tagged = built.add(root, b"tagged", with_xattrs, Content::empty_directory());
    for (name, length) in [("short", 3), ("long", 3000), ("longest", 4095)] {
        built.add(tagged, name.as_bytes(), meta(0o777), Content::Symlink(vec![b'x'; length].into()));
    }
    let many = built.add(root, b"many", meta(0o755), Content::empty_directory());
    for number in 0..40_000 {
        built.add(
            many,
            format!("entry with a name {number}").as_bytes(),
            meta(0o644),
            Content::Regular { offset: 0, size: 0 },
        );
    }
    built.add(dir, b"null", meta(0o666), Content::CharDevice(1, 3));
    built.add(dir, b"disk", meta(0o660), Content::BlockDevice(259, 70_000));
    built.add(dir, b"fifo", meta(0o600), Content::Fifo);
    built.add(dir, b"socket", meta(0o600), Content::Socket);
    built.add(dir, &[b'n'; 255], meta(0o700), Content::empty_directory());
    built.add(dir, b"\xff\x01bytes\n", meta(0o700), Content::empty_directory());
    built
}

/// Checks that the pair's images say of `directory` what the tree says. Returns how many names.
fn compare(
    built: &Built,
    id: NodeId,
    public: &Reader<&[u8]>,
    inode: &Inode,
    private: Option<&Reader<&[u8]>>,
) -> usize {
    let children = built.tree.children(id).unwrap();
    let entries = public.entries(inode, 0).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let names = entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>();
    assert_eq!(names, children.keys().map(|name| &**name).collect::<Vec<_>>());
    let mut count = entries.len();
    for (name, child) in children {
        let (nid, kind) = public.lookup(inode, name).unwrap().unwrap();
        let found = public.inode(nid).unwrap();
        let node = built.tree.node(*child);
        assert_eq!(kind, node.content.kind());
        let has = Meta {
            mode: found.mode & 0o7777,
            uid: found.uid,
            gid: found.gid,
            mtime: found.mtime,
            mtime_nsec: found.mtime_nsec,
            xattrs: public.xattrs(&found).unwrap(),
        };
        assert_eq!((has, found.kind), (node.meta.clone(), kind));
        match &node.content {
            Content::Directory(children) => {
                let parent = public.lookup(&found, b"..").unwrap().unwrap();
                assert_eq!(parent, (inode.nid, FileKind::Directory));
                let directories = children.values().filter(|id| built.tree.children(**id).is_some());
                assert_eq!(found.nlink as usize, 2 + directories.count());
                count += compare(built, *child, public, &found, private);
            }
            Content::Regular { offset, size } => {
                let bytes = &built.data[*offset as usize..(*offset + *size) as usize];
                if *size > 0 && node.meta.mode & 4 == 0 {
                    assert_eq!((found.size, found.mappable()), (0, None));
                    let private = private.unwrap();
                    let hidden = private.inode(found.private_nid().unwrap()).unwrap();
                    assert_eq!((hidden.mode, hidden.nlink), (found.mode, found.nlink));
                    compare_data(private, &hidden, bytes);
                } else {
                    assert_eq!(found.private_nid(), None);
                    compare_data(public, &found, bytes);
                }
            }
            Content::Symlink(target) => assert_eq!(public.symlink_target(&found).unwrap(), **target),
            Content::CharDevice(major, minor) | Content::BlockDevice(major, minor) => {
                assert_eq!(found.rdev, (*major, *minor));
            }
            Content::Fifo | Content::Socket => {}
        }
    }
    count
}

fn compare_data(reader: &Reader<&[u8]>, inode: &Inode, bytes: &[u8]) {
    assert_eq!(inode.size, bytes.len() as u64);
    let Some(start) = inode.mappable() else { return assert!(bytes.is_empty()) };
    assert_eq!(start % BLOCK_SIZE, 0);
    let (start, end) = (start as usize, start as usize + bytes.len());
    assert!(&reader.source()[start..end] == bytes);
    // Pages are mapped whole: nothing of another file may be in the last one.
    assert!(reader.source()[end..end.next_multiple_of(4096)].iter().all(|byte| *byte == 0));
    let mut read = vec![0; bytes.len()];
    assert_eq!(reader.read(inode, 0, &mut read).unwrap(), bytes.len());
    assert!(read == bytes);
}

fn compare_all(built: &Built) -> usize {
    let (public, private) = built.images();
    assert_eq!(built.images(), (public.clone(), private.clone()), "the same tree, other bytes");
    let public = Reader::open(&public[..]).unwrap();
    let private = private.as_ref().map(|bytes| Reader::open(&bytes[..]).unwrap());
    let root = public.inode(public.root()).unwrap();
    compare(built, built.tree.root(), &public, &root, private.as_ref())
}

#[test]
fn reads_back_everything() {
    assert!(compare_all(&everything()) > 40_000);
}

#[test]
fn private_data_are_in_the_private_image_only() {
    let built = everything();
    let (public, private) = built.images();
    let holds = |image: &[u8]| image.windows(10).any(|bytes| bytes == b"root:*:0:0");
    assert!(!holds(&public));
    assert!(holds(private.as_ref().unwrap()));
    // The private image has the same paths, and nothing but what is private.
    let private = Reader::open(&private.as_ref().unwrap()[..]).unwrap();
    let root = private.inode(private.root()).unwrap();
    let names = private.entries(&root, 0).unwrap().map(|entry| entry.unwrap().name).collect::<Vec<_>>();
    assert_eq!(names, [&b"etc"[..], b"shadow-"]);
}

#[test]
fn refuses_names_and_attributes_that_no_file_has() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        let mut built = Built::new();
        let root = built.tree.root();
        built.add(root, name, meta(0o644), Content::Fifo);
        assert!(Pair::new(&built.tree).is_err(), "{name:?}");
    }
    for bad in [xattr("system.else", b""), xattr("user.", b""), xattr("user.x", &[0; 65_536])] {
        let mut built = Built::new();
        let root = built.tree.root();
        built.add(root, b"file", Meta { xattrs: vec![bad.clone()], ..meta(0o644) }, Content::Fifo);
        assert!(Pair::new(&built.tree).is_err(), "{:?}", bad.name);
    }
}

/// Compares a directory of the host, into which the public image was extracted or mounted.
/// Extracting loses attributes, and set-id bits of files since owners are set after modes.
fn compare_host(built: &Built, id: NodeId, host: &Path, whole: bool) {
    let mut names = fs::read_dir(host).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let children = built.tree.children(id).unwrap();
    assert!(names.iter().map(|name| name.as_bytes()).eq(children.keys().map(|name| &**name)), "{host:?}");
    for (name, child) in children {
        let node = built.tree.node(*child);
        let path = host.join(OsStr::from_bytes(name));
        let found = fs::symlink_metadata(&path).unwrap();
        let mask = if whole || node.content.kind() == FileKind::Directory { 0o177_777 } else { 0o171_777 };
        let mode = node.content.kind().mode_bits() | node.meta.mode;
        assert_eq!(found.mode() as u16 & mask, mode & mask, "{path:?}");
        assert_eq!((found.uid(), found.gid()), (node.meta.uid, node.meta.gid), "{path:?}");
        let kind = found.file_type();
        match &node.content {
            Content::Directory(_) => compare_host(built, *child, &path, whole),
            Content::Regular { offset, size } => {
                let size = if node.meta.mode & 4 == 0 { 0 } else { *size };
                assert_eq!((found.mtime(), found.size()), (node.meta.mtime, size), "{path:?}");
                let bytes = &built.data[*offset as usize..(*offset + size) as usize];
                assert!(size == 0 || fs::read(&path).unwrap() == bytes, "{path:?}");
            }
            Content::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), &**target);
            }
            Content::CharDevice(major, minor) | Content::BlockDevice(major, minor) => {
                assert_eq!(found.rdev(), rustix::fs::makedev(*major, *minor));
            }
            Content::Fifo => assert!(kind.is_fifo()),
            Content::Socket => assert!(kind.is_socket()),
        }
        for xattr in node.meta.xattrs.iter().filter(|_| whole) {
            let name = std::str::from_utf8(&xattr.name).unwrap();
            let mut value = vec![0; 65_536];
            let count = rustix::fs::lgetxattr(&path, name, &mut value).unwrap();
            assert!(value[..count] == xattr.value, "{path:?} {name}");
        }
    }
}

#[test]
fn erofs_utils_extract_the_same() {
    let mut built = everything();
    // fsck.erofs 1.5 has its own limit for links, and extracts no devices as an ordinary user.
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let root = built.tree.root();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: erofs_utils_extract_the_same: extracting owners and devices needs root");
        return;
    }
    built.tree.children_mut(root).unwrap().remove(&b"tagged"[..]);
    fs::write(&image, built.images().0).unwrap();
    let out = dir.path().join("out");
    let arg = format!("--extract={}", out.display());
    let Ok(output) = Command::new("fsck.erofs").arg(arg).arg(&image).output() else {
        println!("skipped: erofs_utils_extract_the_same: fsck.erofs (package erofs-utils) is not installed");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    compare_host(&built, root, &out, false);
}

/// Unmounts when the test ends, whichever way.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn the_kernel_reads_the_same() {
    let built = everything();
    let dir = tempfile::tempdir().unwrap();
    let (image, out) = (dir.path().join("image"), dir.path().join("out"));
    fs::write(&image, built.images().0).unwrap();
    fs::create_dir(&out).unwrap();
    let mounted = Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(&image).arg(&out).output();
    match mounted {
        Ok(output) if output.status.success() => {}
        other => {
            println!(
                "skipped: the_kernel_reads_the_same: an EROFS loop mount is not possible here: {other:?}"
            );
            return;
        }
    }
    let _mounted = Mounted(&out);
    compare_host(&built, built.tree.root(), &out, true);
}

/// Where a random thing goes, its name, mode and shape.
type Step = (prop::sample::Index, Vec<u8>, u16, u8, usize);

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_tree_reads_back(steps in proptest::collection::vec(
        (any::<prop::sample::Index>(), "[a-z.#~-]{1,200}", 0u16..0o10000, 0u8..8, 0usize..20_000)
            .prop_map(|(at, name, mode, shape, size)| -> Step { (at, name.into_bytes(), mode, shape, size) }),
        0..120,
    )) {
        let mut built = Built::new();
        let mut directories = vec![built.tree.root()];
        let mut files = Vec::new();
        for (at, name, mode, shape, size) in steps {
            let parent = directories[at.index(directories.len())];
            let taken = built.tree.children(parent).unwrap().contains_key(&name[..]);
            if taken || name == b"." || name == b".." {
                continue;
            }
            let mut meta = meta(mode);
            if size % 3 == 0 {
                meta.xattrs = vec![xattr("user.a", &vec![1; size % 5000]), xattr("trusted.b", b"")];
            }
            match shape {
                0..=2 => {
                    let id = built.add(parent, &name, meta, Content::empty_directory());
                    directories.push(id);
                }
                3 | 4 => {
                    let content = built.file(&vec![shape; size]);
                    files.push(built.add(parent, &name, meta, content));
                }
                5 if !files.is_empty() => built.link(parent, &name, files[at.index(files.len())]),
                6 => {
                    let target = vec![b't'; size % 4095 + 1].into();
                    built.add(parent, &name, meta, Content::Symlink(target));
                }
                _ => {
                    built.add(parent, &name, meta, Content::CharDevice(shape.into(), size as u32));
                }
            }
        }
        compare_all(&built);
    }
}
