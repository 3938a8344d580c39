//! Archives that want more of something than there is.

use std::io::{self, Read, Write};

use bulkhead_image::archive::{ArchiveError, bounds};

use crate::archives::{Oci, Tar};
use crate::{load, load_bounded};

/// `count` copies of a piece of an archive, and then its end.
struct Repeat {
    piece: Vec<u8>,
    count: u64,
    at: usize,
}

impl Read for Repeat {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && self.count > 0 {
            (self.count, self.at) = (self.count - 1, 0);
            if self.count == 0 {
                self.piece = vec![0; 1024];
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn repeat(piece: Tar, count: u64) -> Repeat {
    Repeat { at: piece.0.len(), piece: piece.0, count: count + 1 }
}

fn too_much(error: &ArchiveError, what: &str) -> bool {
    matches!(error, ArchiveError::TooMuch { what: found, .. } if found.contains(what))
}

/// A file of so many zeros, as the head of an archive.
fn zeros(size: u64) -> impl Read {
    let mut tar = Tar::new();
    tar.header(b'0', b"zeros", b"", 0o644, size);
    io::Cursor::new(tar.0).chain(io::repeat(0).take(size + 1024))
}

#[test]
fn compressed_zeros_stop_at_the_bound() {
    let size = 256 << 20;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::copy(&mut zeros(size), &mut gzip).unwrap();
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    io::copy(&mut zeros(size), &mut zstd).unwrap();
    for bomb in [gzip.finish().unwrap(), zstd.finish().unwrap()] {
        assert!(bomb.len() < 2 << 20);
        let error = load(&bomb[..]).unwrap_err();
        assert!(too_much(&error, "bytes"), "{error}");
        // The same as a layer.
        let error = load(&Oci::new(vec![bomb.clone()]).archive()[..]).unwrap_err();
        assert!(too_much(&error, "bytes"), "{error}");
        // Within its bound the zeros take no room on the disk.
        let loaded = load_bounded(&bomb[..], size + (4 << 20)).unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&loaded.spool.metadata().unwrap());
        assert!(blocks * 512 < 1 << 20, "{blocks}");
    }
}

#[test]
fn zeros_behind_the_end_count_too() {
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zstd.write_all(&Tar::new().file("a", b"").end()).unwrap();
    io::copy(&mut io::repeat(0).take(64 << 20), &mut zstd).unwrap();
    let error = load(&zstd.finish().unwrap()[..]).unwrap_err();
    assert!(too_much(&error, "bytes"), "{error}");
}

#[test]
fn a_window_of_gigabytes_is_refused() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(31).unwrap();
    encoder.write_all(&Tar::new().file("a", b"").end()).unwrap();
    let error = load(&encoder.finish().unwrap()[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Compression { .. }), "{error}");
}

#[test]
fn a_million_entries_are_the_bound() {
    let piece = || Tar::new().file("a", b"");
    let loaded = load_bounded(repeat(piece(), bounds::MAX_ENTRIES), 1 << 40).unwrap();
    assert_eq!(loaded.paths(), ["a"]);
    let error = load_bounded(repeat(piece(), bounds::MAX_ENTRIES + 1), 1 << 40).unwrap_err();
    assert!(too_much(&error, "entries"), "{error}");
}

#[test]
fn names_in_memory_are_bounded() {
    // Each directory of the path is a node of its own, and each entry a kilobyte of attributes.
    let value = vec![b'v'; 60_000];
    let piece = Tar::new().pax(&[("SCHILY.xattr.user.a", &value)]).file("a", b"");
    let error = load_bounded(repeat(piece, 5000), 1 << 40).unwrap_err();
    assert!(too_much(&error, "names and attributes"), "{error}");
}

#[test]
fn implied_directories_count_as_entries() {
    let mut tar = Vec::new();
    for number in 0..4200 {
        let path = format!("{number}/{}", vec!["d"; 250].join("/"));
        tar.extend(Tar::new().pax(&[("path", path.as_bytes())]).file("x", b"").0);
    }
    let error = load_bounded(&Tar(tar).end()[..], 1 << 40).unwrap_err();
    assert!(too_much(&error, "entries"), "{error}");
}

#[test]
fn huge_headers_are_refused_before_they_are_read() {
    for kind in [b'x', b'L', b'K'] {
        let mut tar = Tar::new();
        tar.header(kind, b"header", b"", 0o644, bounds::MAX_EXTENSION + 1);
        let error = load(&tar.0[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    }
    let value = vec![0; bounds::MAX_XATTRS];
    let tar = Tar::new().pax(&[("SCHILY.xattr.user.a", &value)]).file("a", b"");
    assert!(too_much(&load(&tar.end()[..]).unwrap_err(), "attributes"));
    // A global header may be large: it is skipped.
    let tar = Tar::new().entry(b'g', b"pax_global_header", b"", 0o644, &vec![b'x'; 2 << 20]).file("a", b"");
    assert_eq!(load(&tar.end()[..]).unwrap().paths(), ["a"]);
}

#[test]
fn sparse_files_count_with_their_holes() {
    let bomb = Tar::new().pax(&[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.map", b"0,5"),
        ("GNU.sparse.size", b"1099511627776"),
    ]);
    let error = load(&bomb.file("a", b"12345").end()[..]).unwrap_err();
    assert!(too_much(&error, "bytes"), "{error}");
    let maps: [&[u8]; 6] =
        [b"5,5,0,5", b"0,6", b"0,5,1", b"x", b"18446744073709551615,5", b"0,5,5,18446744073709551615"];
    for map in maps {
        let tar = Tar::new().pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", b"10")]).file("a", b"12345");
        let error = load(&tar.end()[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Damaged { .. }), "{}: {error}", map.escape_ascii());
    }
    let good = Tar::new().pax(&[("GNU.sparse.map", b"2,5"), ("GNU.sparse.size", b"9")]).file("a", b"12345");
    assert_eq!(load(&good.end()[..]).unwrap().text("a").unwrap(), "\0\x0012345\0\0");
    let runs = Tar::new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")]);
    let error = load(&runs.file("a", &[&b"99999999\n"[..], &[0; 503][..]].concat()).end()[..]).unwrap_err();
    assert!(too_much(&error, "runs of data"), "{error}");
}

#[test]
fn absurd_sizes_are_truncations_or_refused() {
    for field in
        [b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
    {
        let mut header = Tar::new().file("a", b"").0;
        header[124..136].copy_from_slice(field);
        header[148..156].fill(b' ');
        let sum = header.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let error = load(&header[..]).unwrap_err();
        assert!(too_much(&error, "bytes") || matches!(error, ArchiveError::Damaged { .. }), "{error}");
    }
    let tar = Tar::new().pax(&[("size", b"9223372036854775807")]).file("a", b"");
    let error = load(&tar.end()[..]).unwrap_err();
    assert!(too_much(&error, "bytes"), "{error}");
    assert!(load(&Tar::new().pax(&[("size", b"18446744073709551615")]).dir("a").end()[..]).is_ok());
}
