//! Archives to test with: a builder that writes whatever it is told, real trees, and a comparison with them.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_erofs::{FileKind, Inode, Reader};
use bulkhead_image::StoredImage;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use sha2::{Digest, Sha256};

/// A tar archive in memory, in which anything can be said.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An entry of any type with a name of at most 100 bytes.
    pub(crate) fn entry(mut self, kind: u8, path: &[u8], link: &[u8], mode: u32, data: &[u8]) -> Self {
        self.header(kind, path, link, mode, data.len() as u64);
        self.data(data)
    }

    pub(crate) fn header(&mut self, kind: u8, path: &[u8], link: &[u8], mode: u32, size: u64) {
        let mut header = [0; 512];
        header[..path.len()].copy_from_slice(path);
        header[157..157 + link.len()].copy_from_slice(link);
        let mut field =
            |at: usize, text: String| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        field(100, format!("{mode:07o}"));
        field(108, format!("{:07o}", 0));
        field(116, format!("{:07o}", 0));
        field(124, format!("{size:011o}"));
        field(136, format!("{:011o}", 1_700_000_000));
        field(257, "ustar\x0000".into());
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum = header.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(b'0', path.as_bytes(), b"", 0o644, data)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", 0o755, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), target.as_bytes(), 0o644, b"")
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut length = rest.len();
            while length != rest.len() + length.to_string().len() {
                length = rest.len() + length.to_string().len();
            }
            body.extend(length.to_string().as_bytes());
            body.extend(rest);
        }
        self.entry(b'x', b"PaxHeaders/x", b"", 0o644, &body)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory with everything that a root file system has; `None` where it can't be made.
pub(crate) fn tree(dir: &Path) -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: tree: device nodes and owners need root");
        return None;
    }
    let root = dir.join("source");
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap()
    };
    for path in ["", "etc", "usr", "usr/bin", "usr/lib", "many", "dev", "tmp"] {
        fs::create_dir(root.join(path)).unwrap();
    }
    mode("tmp", 0o1777);
    for number in 0..2000u32 {
        fs::write(root.join(format!("many/{number}")), number.to_string().repeat(number as usize % 50))
            .unwrap();
    }
    let big = (0..3_000_001u32).map(|at| (at / 11) as u8).collect::<Vec<_>>();
    fs::write(root.join("usr/lib/big"), &big).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 5_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"later", 8_000_123).unwrap();
    sparse.set_len(9_000_000).unwrap();
    fs::write(root.join("etc/shadow"), b"root:*:::\n").unwrap();
    mode("etc/shadow", 0o640);
    chown(root.join("etc/shadow"), Some(0), Some(42)).unwrap();
    fs::write(root.join("usr/bin/tool"), b"#!/bin/sh\n").unwrap();
    chown(root.join("usr/bin/tool"), Some(3_000_000), Some(4_000_000)).unwrap();
    mode("usr/bin/tool", 0o6755);
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/alias")).unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink("/absolute/and/dangling", root.join("etc/link")).unwrap();
    let long = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    fs::create_dir_all(root.join(&long)).unwrap();
    fs::write(root.join(&long).join("f".repeat(250)), b"long").unwrap();
    symlink(&long, root.join("long")).unwrap();
    fs::write(root.join("etc").join(OsStr::from_bytes(b"\xffbytes\n")), b"").unwrap();
    let node =
        |path: &str, kind, device| mknodat(CWD, root.join(path), kind, Mode::from_raw_mode(0o620), device);
    node("dev/null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)).unwrap();
    node("dev/disk", FileType::BlockDevice, rustix::fs::makedev(8, 300)).unwrap();
    node("dev/fifo", FileType::Fifo, 0).unwrap();
    let xattr = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join("usr/bin/tool"), name, value, XattrFlags::empty()).unwrap();
    };
    xattr("user.colour", b"two\nlines\0and a NUL");
    xattr("security.capability", &[1, 0, 0, 2, 10, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Some(root)
}

/// An OCI layout of layers that are files, as an archive in `dir`.
pub(crate) fn oci_layout(dir: &Path, layers: &[&Path]) -> PathBuf {
    let layers = layers.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    let path = dir.join("layout.tar");
    fs::write(&path, Oci::new(layers).archive()).unwrap();
    path
}

/// The parts of an OCI layout, to spoil.
pub(crate) struct Oci {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) media_type: &'static str,
    pub(crate) config: String,
    pub(crate) platform: &'static str,
    /// Blobs that are not what their name says.
    pub(crate) forged: BTreeMap<String, Vec<u8>>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Oci {
    pub(crate) fn new(layers: Vec<Vec<u8>>) -> Self {
        let process = r#""config":{"Env":["PATH=/bin"],"Entrypoint":["/entry"],"Cmd":["a","b"],"User":"app","WorkingDir":"/w"}"#;
        Self {
            layers,
            media_type: "application/vnd.oci.image.layer.v1.tar",
            config: format!(r#"{{"architecture":"amd64","os":"linux",{process}}}"#),
            platform: r#"{"architecture":"amd64","os":"linux"}"#,
            forged: BTreeMap::new(),
        }
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut blobs = BTreeMap::new();
        let mut add = |bytes: &[u8], media_type: &str| {
            let digest = sha256(bytes);
            let text = format!(
                r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{}}}"#,
                bytes.len()
            );
            blobs.insert(digest, bytes.to_vec());
            text
        };
        let layers =
            self.layers.iter().map(|layer| add(layer, self.media_type)).collect::<Vec<_>>().join(",");
        let config = add(self.config.as_bytes(), "application/vnd.oci.image.config.v1+json");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
        let manifest = add(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        let platform = self.platform;
        let manifest = manifest.replace("}", &format!(r#","platform":{platform}}}"#));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
        let mut tar = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        blobs.extend(self.forged.clone());
        for (digest, bytes) in &blobs {
            tar = tar.file(&format!("blobs/sha256/{digest}"), bytes);
        }
        tar.file("index.json", index.as_bytes()).end()
    }
}

/// Both readers of an image.
pub(crate) struct Opened {
    pub(crate) public: Reader<File>,
    pub(crate) private: Option<Reader<File>>,
}

impl Opened {
    pub(crate) fn new(image: &StoredImage) -> Self {
        let open = |path: PathBuf| Reader::open(File::open(path).unwrap()).unwrap();
        Self { public: open(image.public_path()), private: image.private_path().map(open) }
    }

    pub(crate) fn root(&self) -> Inode {
        self.public.inode(self.public.root()).unwrap()
    }

    /// The inode at a path, no links followed.
    pub(crate) fn at(&self, path: &str) -> Option<Inode> {
        let mut inode = self.root();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            inode = self.public.inode(self.public.lookup(&inode, part.as_bytes()).unwrap()?.0).unwrap();
        }
        Some(inode)
    }

    pub(crate) fn data(&self, inode: &Inode) -> Vec<u8> {
        let (reader, inode) = match inode.private_nid() {
            Some(nid) => (self.private.as_ref().unwrap(), self.private.as_ref().unwrap().inode(nid).unwrap()),
            None => (&self.public, inode.clone()),
        };
        let mut data = vec![0; inode.size as usize];
        assert_eq!(reader.read(&inode, 0, &mut data).unwrap(), data.len());
        data
    }

    /// The content of a file as text; `None` where there is none.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        Some(String::from_utf8(self.data(&self.at(path)?)).unwrap())
    }

    /// All paths of the image, sorted.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut pending = vec![(String::new(), self.root())];
        while let Some((path, inode)) = pending.pop() {
            for entry in self.public.entries(&inode, 0).unwrap() {
                let entry = entry.unwrap();
                let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
                if entry.kind == FileKind::Directory {
                    pending.push((path.clone(), self.public.inode(entry.nid).unwrap()));
                }
                paths.push(path);
            }
        }
        paths.sort();
        paths
    }
}

/// Compares every file of an image with the tree that it was made of: kind, mode, owner, time, digest of the data, target,
/// device, names of the same inode, and attributes.
pub(crate) fn check_against_host(image: &StoredImage, host: &Path, with_xattrs: bool) -> usize {
    let opened = Opened::new(image);
    let mut links = BTreeMap::new();
    let mut count = 0;
    let mut pending = vec![(opened.root(), host.to_path_buf())];
    while let Some((inode, path)) = pending.pop() {
        count += 1;
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(u32::from(inode.mode), meta.mode(), "{path:?}");
        assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()), "{path:?}");
        assert_eq!(inode.mtime, meta.mtime(), "{path:?}");
        if inode.kind != FileKind::Directory {
            assert_eq!(u64::from(inode.nlink), meta.nlink(), "{path:?}");
            assert_eq!(*links.entry(meta.ino()).or_insert(inode.nid), inode.nid, "{path:?}");
        }
        match inode.kind {
            FileKind::Directory => {
                let entries = opened.public.entries(&inode, 0).unwrap().map(Result::unwrap);
                let entries = entries.collect::<Vec<_>>();
                assert_eq!(entries.len(), fs::read_dir(&path).unwrap().count(), "{path:?}");
                for entry in entries {
                    let child = path.join(OsStr::from_bytes(&entry.name));
                    pending.push((opened.public.inode(entry.nid).unwrap(), child));
                }
            }
            FileKind::Regular => {
                assert_eq!(sha256(&opened.data(&inode)), sha256(&fs::read(&path).unwrap()), "{path:?}");
                assert_eq!(
                    inode.private_nid().is_some(),
                    meta.mode() & 4 == 0 && meta.size() > 0,
                    "{path:?}"
                );
            }
            FileKind::Symlink => {
                let target = opened.public.symlink_target(&inode).unwrap();
                assert_eq!(target, fs::read_link(&path).unwrap().as_os_str().as_bytes(), "{path:?}");
            }
            FileKind::CharDevice | FileKind::BlockDevice => {
                assert_eq!(rustix::fs::makedev(inode.rdev.0, inode.rdev.1), meta.rdev(), "{path:?}");
            }
            FileKind::Fifo | FileKind::Socket => {}
        }
        if with_xattrs {
            let found = opened.public.xattrs(&inode).unwrap();
            let found = found.into_iter().map(|xattr| (xattr.name, xattr.value)).collect::<BTreeMap<_, _>>();
            assert_eq!(found, host_xattrs(&path), "{path:?}");
        }
    }
    count
}

fn host_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let count = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            (name.to_vec(), value[..count].to_vec())
        })
        .collect()
}
