use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};

use super::*;
use crate::devices::mmio::testing::{Buffer, DATA, Driver, readable, writable};

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IO_ERROR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;
const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BODY: u64 = DATA + 0x1000;
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("its bytes");
    file
}

fn disk(bytes: &[u8], kind: DiskKind) -> Driver {
    Driver::started(Box::new(Block::new(file(bytes), kind).expect("a disk")))
}

/// Sends a request; returns its status and how much was written.
fn request(driver: &Driver, kind: u32, sector: u64, body: &[Buffer]) -> (u8, u32) {
    driver.put(HEADER, &kind.to_le_bytes());
    driver.put(HEADER + 8, &sector.to_le_bytes());
    driver.put(STATUS, &[0xee]);
    let mut chain = vec![readable(HEADER, 16)];
    chain.extend(body);
    chain.push(writable(STATUS, 1));
    driver.chain(0, &chain);
    driver.device.serve();
    let (_, written) = *driver.used(0).last().expect("a used chain");
    (driver.bytes(STATUS, 1)[0], written)
}

#[test]
fn an_image_is_read_to_its_ragged_end() {
    let mut bytes = vec![7; 1024];
    bytes.extend(b"end");
    let driver = disk(&bytes, DiskKind::Image);
    let mut capacity = [0; 8];
    driver.device.read(0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 3);
    driver.put(BODY, &[0xaa; 2048]);
    assert_eq!(request(&driver, READ, 0, &[writable(BODY, 1000), writable(BODY + 1000, 536)]), (OK, 1537));
    let read = driver.bytes(BODY, 1536);
    assert!(read[..1024] == bytes[..1024] && &read[1024..1027] == b"end" && read[1027..] == [0; 509]);
    assert_eq!(driver.bytes(BODY + 1536, 1), [0xaa]);
}

#[test]
fn the_ends_of_a_disk_hold() {
    let driver = disk(&[0; 2048], DiskKind::Scratch);
    let body = [writable(BODY, 512)];
    assert_eq!(request(&driver, READ, 3, &body).0, OK);
    for sector in [4, 5, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(request(&driver, READ, sector, &body), (IO_ERROR, 1), "{sector}");
        assert_eq!(request(&driver, WRITE, sector, &[readable(BODY, 512)]), (IO_ERROR, 1), "{sector}");
    }
    assert_eq!(request(&driver, READ, 3, &[writable(BODY, 1024)]).0, IO_ERROR);
    assert_eq!(request(&driver, READ, 0, &[writable(BODY, 511)]).0, IO_ERROR);
    assert_eq!(request(&driver, READ, 4, &[]).0, OK);
}

#[test]
fn what_is_written_is_in_the_file_and_what_is_discarded_is_not() {
    let scratch = file(&[0; 64 << 10]);
    let seen = scratch.try_clone().expect("a second descriptor");
    let driver = Driver::started(Box::new(Block::new(scratch, DiskKind::Scratch).expect("a disk")));
    driver.put(BODY, &[5; 4096]);
    assert_eq!(request(&driver, WRITE, 8, &[readable(BODY, 4000), readable(BODY, 96)]), (OK, 1));
    assert_eq!(request(&driver, FLUSH, 0, &[]), (OK, 1));
    let mut block = [0; 4096];
    seen.read_exact_at(&mut block, 4096).expect("the file");
    assert_eq!(block, [5; 4096]);
    for kind in [DISCARD, ZEROES] {
        request(&driver, WRITE, 8, &[readable(BODY, 4096)]);
        let range = [8u64.to_le_bytes(), 8u64.to_le_bytes()].concat();
        driver.put(BODY + 0x2000, &range);
        assert_eq!(request(&driver, kind, 0, &[readable(BODY + 0x2000, 16)]).0, OK);
        seen.read_exact_at(&mut block, 4096).expect("the file");
        assert_eq!(block, [0; 4096]);
        for (at, range) in [(8, 121), (127, 2), (u64::MAX, 1), (0, u64::from(u32::MAX))] {
            driver.put(BODY + 0x2000, &[at.to_le_bytes(), range.to_le_bytes()].concat());
            assert_eq!(request(&driver, kind, 0, &[readable(BODY + 0x2000, 16)]).0, IO_ERROR, "{at} {range}");
        }
    }
    assert_eq!(seen.metadata().expect("metadata").len(), 64 << 10);
}

#[test]
fn an_image_is_never_written() {
    let image = file(&[1; 1024]);
    let seen = image.try_clone().expect("a second descriptor");
    let driver = Driver::started(Box::new(Block::new(image, DiskKind::Image).expect("a disk")));
    assert_eq!(request(&driver, WRITE, 0, &[readable(BODY, 512)]).0, IO_ERROR);
    assert_eq!(request(&driver, DISCARD, 0, &[readable(BODY, 16)]).0, UNSUPPORTED);
    let mut all = [0; 1024];
    seen.read_exact_at(&mut all, 0).expect("the file");
    assert_eq!(all, [1; 1024]);
}

#[test]
fn unknown_requests_are_answered_so_and_names_told() {
    let driver = disk(&[0; 512], DiskKind::Scratch);
    assert_eq!(request(&driver, 77, 0, &[writable(BODY, 512)]).0, UNSUPPORTED);
    assert_eq!(request(&driver, GET_ID, 0, &[writable(BODY, 20)]), (OK, 21));
    assert_eq!(&driver.bytes(BODY, 8), b"scratch\0");
}

#[test]
fn requests_without_header_or_status_break_the_device() {
    for chain in [
        vec![readable(HEADER, 16)],
        vec![readable(HEADER, 15), writable(STATUS, 1)],
        vec![writable(STATUS, 1)],
    ] {
        let driver = disk(&[0; 512], DiskKind::Image);
        driver.chain(0, &chain);
        driver.device.serve();
        assert!(driver.needs_reset() && driver.used(0).is_empty(), "{chain:?}");
    }
}

#[test]
fn a_saved_disk_is_only_restored_over_its_own() {
    let block = Block::new(file(&[0; 1024]), DiskKind::Scratch).expect("a disk");
    let state = block.state();
    assert!(Block::restore(state, file(&[0; 1024]), DiskKind::Scratch).is_ok());
    assert!(Block::restore(state, file(&[0; 512]), DiskKind::Scratch).is_err());
    assert!(Block::restore(state, file(&[0; 1024]), DiskKind::Image).is_err());
    assert!(Block::new(file(&[0; 1000]), DiskKind::Scratch).is_err());
}

proptest! {
    #[test]
    fn any_request_is_survived_and_the_file_keeps_its_size(
        kind in prop_oneof![any::<u32>(), 0u32..16],
        sector in prop_oneof![any::<u64>(), 0u64..6],
        buffers in proptest::collection::vec(
            (prop_oneof![any::<u64>(), DATA..DATA + 0x2000], prop_oneof![any::<u32>(), 0u32..3000], any::<bool>()), 0..14),
        status in any::<bool>(),
    ) {
        let scratch = file(&[0; 2048]);
        let seen = scratch.try_clone().expect("a second descriptor");
        let driver = Driver::started(Box::new(Block::new(scratch, DiskKind::Scratch).expect("a disk")));
        driver.put(HEADER, &kind.to_le_bytes());
        driver.put(HEADER + 8, &sector.to_le_bytes());
        let mut chain = vec![readable(HEADER, 16)];
        chain.extend(buffers.into_iter().map(|(at, bytes, writable)| Buffer { at, bytes, writable }));
        if status { chain.push(writable(STATUS, 1)) }
        driver.chain(0, &chain);
        driver.device.serve();
        prop_assert!(driver.used(0).len() == 1 || driver.needs_reset());
        prop_assert_eq!(seen.metadata().expect("metadata").len(), 2048);
    }
}
