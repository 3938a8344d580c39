//! What unit tests of the file systems share.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bulkhead_erofs::{Content, Meta, Node, NodeId, Pair, Tree};
use rustix::fs::{Mode, OFlags};

use super::image::Image;
use crate::vfs::{Caller, Credentials, Dentry, Setup, Vfs};

/// File systems with a scratch directory of their own.
pub(crate) struct TestVfs {
    pub vfs: Arc<Vfs>,
    _scratch: tempfile::TempDir,
}

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

impl TestVfs {
    /// An empty root with limits for disk and memory, in bytes.
    pub(crate) fn new(disk: u64) -> Self {
        Self::over(None, disk)
    }

    /// A root over an image.
    pub(crate) fn over(image: Option<Arc<Image>>, disk: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let setup = Setup { image, scratch: directory(scratch.path()), disk_limit: disk, memory_limit: disk };
        Self { vfs: Vfs::new(setup).unwrap(), _scratch: scratch }
    }

    /// Root of the sandbox.
    pub(crate) fn caller(&self) -> Caller {
        self.caller_as(Credentials::new(0, 0, &[]))
    }

    pub(crate) fn caller_as(&self, credentials: Credentials) -> Caller {
        Caller {
            credentials: Arc::new(credentials),
            root: self.vfs.root().clone(),
            cwd: self.vfs.root().clone(),
            umask: 0o022,
            pid: 1,
            tid: 1,
        }
    }

    pub(crate) fn root(&self) -> &Arc<Dentry> {
        self.vfs.root()
    }
}

/// An image of a host directory.
pub(crate) fn image_of(path: &Path) -> Arc<Image> {
    let meta = |path: &Path| {
        let stat = std::fs::symlink_metadata(path).unwrap();
        Meta {
            mode: (stat.mode() & 0o7777) as u16,
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: stat.mtime(),
            mtime_nsec: stat.mtime_nsec() as u32,
            xattrs: Vec::new(),
        }
    };
    let mut tree = Tree::new(meta(path));
    let mut data = Vec::new();
    let mut linked: BTreeMap<u64, NodeId> = BTreeMap::new();
    let mut todo = vec![(path.to_path_buf(), tree.root())];
    while let Some((path, parent)) = todo.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_dir() {
                Content::empty_directory()
            } else if stat.is_symlink() {
                Content::Symlink(std::fs::read_link(&path).unwrap().as_os_str().as_bytes().into())
            } else {
                let bytes = std::fs::read(&path).unwrap();
                let offset = data.len() as u64;
                data.extend_from_slice(&bytes);
                Content::Regular { offset, size: bytes.len() as u64 }
            };
            let known = linked.get(&stat.ino()).copied();
            let id = known.unwrap_or_else(|| tree.add(Node { meta: meta(&path), content }).unwrap());
            linked.insert(stat.ino(), id);
            let name = path.file_name().unwrap().as_bytes().into();
            tree.children_mut(parent).unwrap().insert(name, id);
            if stat.is_dir() {
                todo.push((path, id));
            }
        }
    }
    image(&tree, &data)
}

/// An image of a tree.
pub(crate) fn image(tree: &Tree, data: &Vec<u8>) -> Arc<Image> {
    let pair = Pair::new(tree).unwrap();
    let store = |bytes: &[u8]| {
        let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut done = 0;
        while done < bytes.len() {
            done += rustix::io::pwrite(&file, &bytes[done..], done as u64).unwrap();
        }
        file
    };
    let mut public = Vec::new();
    pair.write_public(data, &mut public).unwrap();
    let mut private = Vec::new();
    let has_private = pair.write_private(data, &mut private).unwrap();
    Image::open(store(&public), has_private.then(|| store(&private))).unwrap()
}
