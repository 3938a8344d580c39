//! Archives that are cut off, changed at random, or no archives.

use std::io::Write;

use bulkhead_image::archive::ArchiveError;
use proptest::prelude::*;

use crate::archives::{Oci, Tar};
use crate::load;

fn archive() -> Vec<u8> {
    let layer = Tar::new()
        .dir("etc")
        .pax(&[("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5"), ("path", b"etc/passwd")])
        .file("x", b"root:x:0:0::/root:/bin/sh\n")
        .symlink("link", "etc")
        .hard_link("hard", "etc/passwd")
        .entry(b'L', b"././@LongLink", b"", 0, &[b'n'; 150])
        .file("short", &[7; 3000])
        .pax(&[("GNU.sparse.map", b"2,5"), ("GNU.sparse.size", b"9")])
        .file("holes", b"12345");
    Oci::new(vec![layer.clone().end(), layer.file("link/.wh.passwd", b"").end()]).archive()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_is_cut_off_is_an_error() {
    let whole = archive();
    assert!(load(&whole[..]).is_ok());
    // The last block of zeros is only the custom.
    for end in (0..whole.len() - 1024).step_by(97) {
        assert!(load(&whole[..end]).is_err(), "cut at {end}");
    }
    for compressed in [gzip(&whole), zstd::encode_all(&whole[..], 3).unwrap()] {
        assert!(load(&compressed[..]).is_ok());
        for end in (0..compressed.len()).step_by(61) {
            assert!(load(&compressed[..end]).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn what_is_no_archive_is_told_so() {
    assert!(matches!(load(&b""[..]).unwrap_err(), ArchiveError::Truncated { .. }));
    let text = b"#!/bin/sh\necho this is no archive\n".repeat(100);
    assert!(matches!(load(&text[..]).unwrap_err(), ArchiveError::NotAnArchive { .. }));
    for magic in [&b"\xfd7zXZ\0 and more"[..], b"BZh91AY&SY"] {
        assert!(matches!(load(magic).unwrap_err(), ArchiveError::Unsupported { .. }));
    }
    let socket = Tar::new().entry(b'Z', b"odd", b"", 0o644, b"").end();
    assert!(matches!(load(&socket[..]).unwrap_err(), ArchiveError::Unsupported { .. }));
    assert!(matches!(load(&vec![0; 10_240][..]).map(|loaded| loaded.paths()), Ok(paths) if paths.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]
    #[test]
    fn random_damage_never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30)) {
        let mut bytes = archive();
        for (at, value) in &flips {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        let _ = load(&bytes[..]);
        let mut compressed = zstd::encode_all(&archive()[..], 3).unwrap();
        for (at, value) in &flips {
            let at = at.index(compressed.len());
            compressed[at] = *value;
        }
        let _ = load(&compressed[..]);
    }

    #[test]
    fn damaged_headers_with_right_checksums_never_panic(
        flips in proptest::collection::vec((0usize..512, any::<u8>()), 1..20),
    ) {
        let mut header = Tar::new().file("name", &[1; 2000]).end();
        for (at, value) in flips {
            header[at] = value;
        }
        header[148..156].fill(b' ');
        let sum = header[..512].iter().map(|byte| u32::from(*byte)).sum::<u32>();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let _ = load(&header[..]);
    }
}
