use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use bulkhead_types::glob::Pattern;

use super::unpack::unpack_into;
use super::{FileError, Owner, archive, collect, directory};

fn open(path: &Path) -> OwnedFd {
    directory(path.as_os_str().as_encoded_bytes()).expect("a directory")
}

fn tar(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().expect("a vector takes it")
}

fn header(name: &str, kind: tar::EntryType, size: u64, link: &str) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    // By hand: the library refuses the names that matter here.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_mtime(1_000_000_000);
    header.set_cksum();
    header
}

fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, data: &[u8], link: &str) {
    builder.append(&header(name, kind, data.len() as u64, link), data).expect("a vector takes it");
}

#[test]
fn an_archive_is_unpacked_and_packed_again() {
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let folder = tempfile::tempdir().expect("a folder");
    let long = "n".repeat(120);
    let bytes = tar(|builder| {
        add(builder, "dir/", Directory, b"", "");
        add(builder, "dir/a", Regular, b"one", "");
        add(builder, "dir/b", Link, b"", "dir/a");
        add(builder, "soft", Symlink, b"", "/etc/passwd");
        add(builder, "pipe", Fifo, b"", "");
        let mut long_header = header("x", Regular, 4, "");
        builder.append_data(&mut long_header, &long, &b"long"[..]).expect("a vector takes it");
        // An absolute name stays inside.
        add(builder, "/absolute", Regular, b"in", "");
    });
    unpack_into(open(folder.path()), Owner(7, 8), &bytes[..]).expect("it is unpacked");
    let path = |name: &str| folder.path().join(name);
    let meta = fs::metadata(path("dir/a")).expect("it is there");
    assert_eq!((meta.nlink(), meta.uid(), meta.gid(), meta.mtime()), (2, 7, 8, 1_000_000_000));
    assert_eq!(fs::read(path("dir/b")).expect("the link"), b"one");
    assert_eq!(fs::read(path(&long)).expect("the long name"), b"long");
    assert_eq!(fs::read(path("absolute")).expect("the absolute name"), b"in");
    let mut packed = Vec::new();
    archive::write(open(folder.path()), &mut packed).expect("it is packed");
    let mut archive = tar::Archive::new(&packed[..]);
    let mut names: Vec<String> = Vec::new();
    for entry in archive.entries().expect("entries") {
        names.push(entry.expect("an entry").path().expect("a path").display().to_string());
    }
    assert_eq!(names, ["absolute", "dir", "dir/a", "dir/b", &long, "soft"]);
}

#[test]
fn nothing_leaves_the_directory() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let outside = tempfile::tempdir().expect("a folder");
    let folder = outside.path().join("in");
    let refused: [&[(&str, tar::EntryType, &str)]; 5] = [
        &[("../out", Regular, "")],
        &[("a/../../out", Regular, "")],
        &[("link", Symlink, ".."), ("link/out", Regular, "")],
        &[("link", Symlink, ".."), ("link/sub/out", Regular, "")],
        &[("hard", Link, "../secret")],
    ];
    fs::write(outside.path().join("secret"), "secret").expect("a file");
    for entries in refused {
        fs::create_dir_all(&folder).expect("a folder");
        let bytes =
            tar(|builder| entries.iter().for_each(|(name, kind, link)| add(builder, name, *kind, b"", link)));
        let error = unpack_into(open(&folder), Owner(0, 0), &bytes[..]).expect_err("it is refused");
        assert!(matches!(error, FileError::Archive(_) | FileError::File { .. }), "{error}");
        let mut left: Vec<_> =
            fs::read_dir(outside.path()).expect("names").map(|e| e.expect("a name").file_name()).collect();
        left.sort();
        assert_eq!(left, ["in", "secret"], "{entries:?}");
        fs::remove_dir_all(&folder).expect("it is removed");
    }
    fs::create_dir_all(&folder).expect("a folder");
    let device = tar(|builder| add(builder, "null", Char, b"", ""));
    unpack_into(open(&folder), Owner(0, 0), &device[..]).expect("devices are left out");
    assert!(!folder.join("null").exists());
}

#[test]
fn gzip_is_taken_and_other_formats_are_named() {
    use std::io::Write;
    let folder = tempfile::tempdir().expect("a folder");
    let plain = tar(|builder| add(builder, "f", tar::EntryType::Regular, b"data", ""));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).expect("a vector takes it");
    unpack_into(open(folder.path()), Owner(0, 0), &gzip.finish().expect("it ends")[..]).expect("gzip");
    assert_eq!(fs::read(folder.path().join("f")).expect("the file"), b"data");
    let zip = unpack_into(open(folder.path()), Owner(0, 0), &b"PK\x03\x04"[..]).expect_err("no zip");
    assert!(zip.to_string().contains("zip"), "{zip}");
}

#[test]
fn patterns_find_regular_files_and_follow_no_link() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["out/a.txt", "out/.hidden", "out/deep/er/b.txt", "c.txt"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, name).expect("a file");
    }
    fs::set_permissions(folder.path().join("c.txt"), fs::Permissions::from_mode(0o600)).expect("a mode");
    symlink("/etc", folder.path().join("out/etc")).expect("a link");
    symlink("a.txt", folder.path().join("out/link.txt")).expect("a link");
    let root = open(folder.path());
    let search = |pattern: &str| -> Vec<String> {
        let pattern = Pattern::new(pattern.as_bytes()).expect("a pattern");
        let found = collect::search(&root, &pattern).expect("a search");
        found.into_iter().map(|path| String::from_utf8_lossy(&path).into_owned()).collect()
    };
    assert_eq!(search("out/*"), ["out/a.txt"]);
    assert_eq!(search("/out/.*"), ["out/.hidden"]);
    assert_eq!(search("**/*.txt"), ["c.txt", "out/a.txt", "out/deep/er/b.txt"]);
    assert_eq!(search("out/**"), ["out/a.txt", "out/deep/er/b.txt"]);
    assert_eq!(search("out/etc/passwd"), [""; 0]);
    assert_eq!(search("c.txt"), ["c.txt"]);
}

#[test]
fn what_the_kernel_makes_up_is_not_collected() {
    let root = open(Path::new("/"));
    let pattern = Pattern::new(b"proc/version").expect("a pattern");
    assert_eq!(collect::search(&root, &pattern).expect("a search"), [b""; 0]);
}
