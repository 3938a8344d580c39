//! /proc/PID/maps and smaps.

use std::fmt::Write;

use super::MapLine;
use super::process::View;

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;

fn line(view: &View, map: &MapLine, out: &mut Vec<u8>) {
    let flag = |bit: u32, letter: char| if map.protection & bit != 0 { letter } else { '-' };
    let (device, inode) = map.file.as_ref().map_or((0, 0), |file| {
        let inode = file.inode();
        (inode.fs.device, inode.number)
    });
    let mut text = String::new();
    let _infallible = write!(
        text,
        "{:08x}-{:08x} {}{}{}{} {:08x} 00:{device:02x} {inode} ",
        map.start,
        map.end,
        flag(PROT_READ, 'r'),
        flag(PROT_WRITE, 'w'),
        flag(PROT_EXEC, 'x'),
        if map.shared { 's' } else { 'p' },
        map.offset,
    );
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    let name = match (&map.file, view.process.fs()) {
        (Some(file), Some(fs)) => file.path(&fs.root()),
        _ => map.name.as_bytes().to_vec(),
    };
    if !name.is_empty() {
        /// Column of the name.
        const COLUMN: usize = 73;
        while out.len() - start < COLUMN {
            out.push(b' ');
        }
        for byte in name {
            // A newline would forge a line.
            if byte == b'\n' { out.extend_from_slice(b"\\012") } else { out.push(byte) }
        }
    }
    out.push(b'\n');
}

/// /proc/PID/maps.
pub(super) fn maps(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    for map in view.process.maps() {
        line(view, &map, &mut out);
    }
    out
}

fn sizes(size: u64, resident: u64, private: bool, out: &mut Vec<u8>) {
    let (private_dirty, shared_clean) = if private { (resident, 0) } else { (0, resident) };
    let rows = [
        ("Rss", resident),
        ("Pss", resident),
        ("Pss_Dirty", private_dirty),
        ("Shared_Clean", shared_clean),
        ("Shared_Dirty", 0),
        ("Private_Clean", 0),
        ("Private_Dirty", private_dirty),
        ("Referenced", resident),
        ("Anonymous", private_dirty),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", 0),
    ];
    let mut text = String::new();
    if size > 0 {
        let _infallible = write!(
            text,
            "Size:           {:8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n",
            size / 1024
        );
    }
    for (name, bytes) in rows {
        let _infallible = writeln!(text, "{:<16}{:8} kB", format!("{name}:"), bytes / 1024);
    }
    out.extend_from_slice(text.as_bytes());
}

/// /proc/PID/smaps.
pub(super) fn smaps(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    for map in view.process.maps() {
        line(view, &map, &mut out);
        sizes(map.end - map.start, map.resident_bytes, !map.shared, &mut out);
        out.extend_from_slice(b"THPeligible:           0\nVmFlags: ");
        let flags = [(PROT_READ, "rd "), (PROT_WRITE, "wr "), (PROT_EXEC, "ex ")].into_iter();
        for (_, name) in flags.filter(|(bit, _)| map.protection & bit != 0) {
            out.extend_from_slice(name.as_bytes());
        }
        out.extend_from_slice(if map.shared { b"sh mr mw me ms sd \n" } else { b"mr mw me sd \n" });
    }
    out
}

/// /proc/PID/smaps_rollup.
pub(super) fn smaps_rollup(view: &View) -> Vec<u8> {
    let maps = view.process.maps();
    let (start, end) = (maps.first().map_or(0, |map| map.start), maps.last().map_or(0, |map| map.end));
    let mut out = format!("{start:08x}-{end:08x} ---p 00000000 00:00 0 ").into_bytes();
    out.resize(73, b' ');
    out.extend_from_slice(b"[rollup]\n");
    let resident = view.process.status(view.tid).map_or(0, |status| status.resident_bytes);
    sizes(0, resident, true, &mut out);
    out
}
