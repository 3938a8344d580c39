//! Archives, hostile ones included; outputs.

use std::io::Read;

use super::*;
use crate::fs::testing::TestVfs;
use crate::vfs::WalkFlags;

fn tar(build: impl FnOnce(&mut ::tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

/// A header whose name is written without the library's own checks.
fn raw_header(name: &[u8], kind: ::tar::EntryType, size: u64, link: &[u8]) -> ::tar::Header {
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    let raw = header.as_mut_bytes();
    raw[..name.len()].copy_from_slice(name);
    raw[157..157 + link.len()].copy_from_slice(link);
    header.set_cksum();
    header
}

fn unpack(test: &TestVfs, bytes: &[u8]) -> Result<Unpacked, TransferError> {
    unpack_archive(&test.vfs, b"/in/put", (7, 8), bytes)
}

fn content(test: &TestVfs, path: &str) -> Option<Vec<u8>> {
    let dentry = test.vfs.lookup(&test.caller(), test.root(), path.as_bytes(), WalkFlags::NO_FOLLOW).ok()?;
    let file = crate::vfs::Vfs::open_unchecked(&dentry, 0).ok()?;
    let mut bytes = Vec::new();
    FileReader::new(file).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[test]
fn an_archive_comes_in_and_goes_out_again() {
    let test = TestVfs::new(4 << 20);
    let long = format!("deep/{}/end", "x".repeat(150));
    let bytes = tar(|builder| {
        let mut put = |path: &str, mode: u32, data: &[u8]| {
            let mut header = ::tar::Header::new_gnu();
            header.set_mode(mode);
            header.set_size(data.len() as u64);
            header.set_mtime(1_000_000);
            builder.append_data(&mut header, path, data).unwrap();
        };
        put("a.txt", 0o600, b"alpha");
        put("dir/b.log", 0o755, &vec![9; 100_000]);
        put(&long, 0o644, b"long");
        let link = raw_header(b"hard", ::tar::EntryType::Link, 0, b"dir/b.log");
        builder.append(&link, std::io::empty()).unwrap();
        let link = raw_header(b"soft", ::tar::EntryType::Symlink, 0, b"/etc/passwd");
        builder.append(&link, std::io::empty()).unwrap();
    });
    assert_eq!(unpack(&test, &bytes).unwrap(), Unpacked { entries: 5, bytes: 100_009 });
    assert_eq!(content(&test, "/in/put/a.txt").unwrap(), b"alpha");
    assert_eq!(content(&test, "/in/put/hard").unwrap().len(), 100_000);
    assert_eq!(content(&test, &format!("/in/put/{long}")).unwrap(), b"long");
    let a = test.vfs.lookup(&test.caller(), test.root(), b"/in/put/a.txt", WalkFlags::FOLLOW).unwrap();
    let meta = a.inode().meta();
    assert_eq!((meta.uid, meta.gid, meta.mode, meta.mtime.seconds), (7, 8, 0o600, 1_000_000));
    // Out as a tar, and from there into another sandbox.
    let mut out = Vec::new();
    assert_eq!(write_tar(&test.vfs, b"/in/put", &mut out).unwrap(), 8);
    let other = TestVfs::new(4 << 20);
    unpack(&other, &out).unwrap();
    assert_eq!(content(&other, "/in/put/dir/b.log"), content(&test, "/in/put/dir/b.log"));
    assert_eq!(content(&other, &format!("/in/put/{long}")).unwrap(), b"long");
    // Gzipped, it is the same.
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zipped, &bytes).unwrap();
    let third = TestVfs::new(4 << 20);
    assert_eq!(unpack(&third, &zipped.finish().unwrap()).unwrap().entries, 5);
}

#[test]
fn hostile_archives_stay_in_their_directory() {
    use ::tar::EntryType;
    let up = tar(|builder| {
        builder.append(&raw_header(b"../../etc/evil", EntryType::Regular, 1, b""), &b"x"[..]).unwrap();
    });
    let through_link = tar(|builder| {
        let link = raw_header(b"out", EntryType::Symlink, 0, b"/etc");
        builder.append(&link, std::io::empty()).unwrap();
        builder.append(&raw_header(b"out/evil", EntryType::Regular, 1, b""), &b"x"[..]).unwrap();
    });
    let hard_link = tar(|builder| {
        let link = raw_header(b"evil", EntryType::Link, 0, b"../../etc/secret");
        builder.append(&link, std::io::empty()).unwrap();
    });
    for bytes in [up, through_link, hard_link] {
        let test = TestVfs::new(1 << 20);
        write_input_file(&test.vfs, b"/etc/secret", 0o600, (0, 0), &mut &b"secret"[..]).unwrap();
        assert!(unpack(&test, &bytes).is_err());
        assert_eq!(content(&test, "/etc/evil"), None);
        assert_eq!(content(&test, "/in/put/evil"), None);
    }
    // Absolute names are taken as relative ones, and devices left out.
    let test = TestVfs::new(1 << 20);
    let absolute = tar(|builder| {
        builder.append(&raw_header(b"/etc/evil", EntryType::Regular, 1, b""), &b"x"[..]).unwrap();
        builder.append(&raw_header(b"null", EntryType::Char, 0, b""), std::io::empty()).unwrap();
    });
    unpack(&test, &absolute).unwrap();
    assert_eq!(content(&test, "/etc/evil"), None);
    assert_eq!(content(&test, "/in/put/etc/evil").unwrap(), b"x");
    assert_eq!(content(&test, "/in/put/null"), None);
}

#[test]
fn bombs_end_at_the_disk_limit() {
    let test = TestVfs::new(1 << 20);
    // 1 GiB of zeros in a megabyte.
    let header = raw_header(b"bomb", ::tar::EntryType::Regular, 1 << 30, b"");
    let zeros = std::io::repeat(0).take(1 << 30);
    let bomb = header.as_bytes().chain(zeros);
    let result = unpack_archive(&test.vfs, b"/in", (0, 0), bomb);
    assert!(
        matches!(result, Err(TransferError::File { errno: crate::errno::Errno::ENOSPC, .. })),
        "{result:?}"
    );
    assert!(test.vfs.disk().used() <= 1 << 20);
    // A name of a gibibyte is not read into memory.
    let header = raw_header(b"././@LongLink", ::tar::EntryType::GNULongName, 1 << 30, b"");
    let name = header.as_bytes().chain(std::io::repeat(b'a').take(1 << 30));
    assert!(matches!(unpack_archive(&test.vfs, b"/in", (0, 0), name), Err(TransferError::Archive(_))));
    let cut = tar(|builder| {
        builder.append(&raw_header(b"f", ::tar::EntryType::Regular, 5000, b""), &[1u8; 5000][..]).unwrap();
    });
    assert!(unpack(&test, &cut[..3000]).is_err());
    assert!(unpack(&test, b"PK\x03\x04whatever").is_err());
}

#[test]
fn outputs_are_found_by_pattern() {
    let test = TestVfs::new(4 << 20);
    for path in ["/w/a.log", "/w/b.txt", "/w/x/c.log", "/w/x/y/d.log", "/w/.hidden.log"] {
        write_input_file(&test.vfs, path.as_bytes(), 0o640, (1, 1), &mut path.as_bytes()).unwrap();
    }
    let caller = test.caller();
    test.vfs.symlink(&caller, b"/w/a.log", test.root(), b"/w/link.log").unwrap();
    test.vfs.symlink(&caller, b"/w", test.root(), b"/w/x/loop").unwrap();
    let find = |patterns: &[&str]| -> Vec<String> {
        let patterns: Vec<Pattern> =
            patterns.iter().map(|pattern| Pattern::new(pattern.as_bytes()).unwrap()).collect();
        let found = collect(&test.vfs, b"/w", &patterns).unwrap();
        found.iter().map(|file| String::from_utf8(file.path.clone()).unwrap()).collect()
    };
    assert_eq!(find(&["*.log"]), ["w/a.log"]);
    assert_eq!(find(&["**/*.log"]), ["w/a.log", "w/x/c.log", "w/x/y/d.log"]);
    assert_eq!(find(&["*/c.log", "x/*.log", "b.txt"]), ["w/b.txt", "w/x/c.log"]);
    assert_eq!(find(&["nothing/*"]), Vec::<String>::new());
    let one = collect(&test.vfs, b"/w", &[Pattern::new(b"b.txt").unwrap()]).unwrap();
    let mut bytes = Vec::new();
    one[0].reader().read_to_end(&mut bytes).unwrap();
    assert_eq!((one[0].mode, one[0].size, &bytes[..]), (0o640, 8, &b"/w/b.txt"[..]));
}
