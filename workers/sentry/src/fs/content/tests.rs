//! Content against a model: a plain vector, and what it must have cost.

use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Allocate, Content};
use crate::errno::Errno;
use crate::fs::budget::Budget;
use crate::fs::scratch::{BLOCK, Scratch};
use crate::fs::testing::image;
use crate::vfs::{Storage, Vfs};

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize),
    Append(usize),
    Truncate(u64),
    Punch(u64, u64),
    Zero(u64, u64),
    Fill(u64, u64),
    Map(bool),
    Read(u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Small files in the arena, and some that outgrow it.
    let offset = || prop_oneof![4 => 0..40_000u64, 1 => 0..2_000_000u64];
    prop_oneof![
        5 => (offset(), 0..20_000usize).prop_map(|(o, l)| Step::Write(o, l)),
        2 => (0..9_000usize).prop_map(Step::Append),
        2 => offset().prop_map(Step::Truncate),
        1 => (offset(), 1..30_000u64).prop_map(|(o, l)| Step::Punch(o, l)),
        1 => (offset(), 1..30_000u64).prop_map(|(o, l)| Step::Zero(o, l)),
        1 => (offset(), 1..30_000u64).prop_map(|(o, l)| Step::Fill(o, l)),
        1 => any::<bool>().prop_map(Step::Map),
        3 => (offset(), 0..30_000usize).prop_map(|(o, l)| Step::Read(o, l)),
    ]
}

fn scratch(limit: u64) -> (Arc<Scratch>, Arc<Budget>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let fd = rustix::fs::open(directory.path(), flags, rustix::fs::Mode::empty()).unwrap();
    let budget = Budget::new(limit);
    (Scratch::new(fd, budget.clone()), budget, directory)
}

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    (0..length).map(|n| (n as u64 * 7 + seed + 1) as u8 | 1).collect()
}

fn grow(model: &mut Vec<u8>, end: usize) {
    if model.len() < end {
        model.resize(end, 0);
    }
}

fn apply(content: &Content, model: &mut Vec<u8>, step: &Step, seed: u64) {
    match *step {
        Step::Write(offset, length) => {
            let data = bytes(length, seed);
            assert_eq!(content.write_at(offset, &data), Ok(length));
            if length > 0 {
                let start = offset as usize;
                grow(model, start + length);
                model[start..start + length].copy_from_slice(&data);
            }
        }
        Step::Append(length) => {
            let data = bytes(length, seed);
            assert_eq!(content.append(&data), Ok((length, (model.len() + length) as u64)));
            model.extend_from_slice(&data);
        }
        Step::Truncate(size) => {
            content.truncate(size).unwrap();
            model.resize(size as usize, 0);
        }
        Step::Punch(offset, length) | Step::Zero(offset, length) => {
            let how = if matches!(step, Step::Zero(..)) { Allocate::Zero } else { Allocate::Punch };
            content.allocate(offset, length, how, true).unwrap();
            let end = (offset + length).min(model.len() as u64) as usize;
            if (offset as usize) < end {
                model[offset as usize..end].fill(0);
            }
        }
        Step::Fill(offset, length) => {
            content.allocate(offset, length, Allocate::Fill, false).unwrap();
            grow(model, (offset + length) as usize);
        }
        Step::Map(shared) => {
            let mapping = content.mapping(0, shared).unwrap();
            assert_eq!(mapping.length_available, (model.len() as u64).next_multiple_of(BLOCK));
            // The host's file has the same bytes, and can be written only if it may be.
            let mut seen = vec![0; model.len()];
            let mut done = 0;
            while done < seen.len() {
                let at = mapping.host_offset + done as u64;
                match rustix::io::pread(&mapping.host_file, &mut seen[done..], at).unwrap() {
                    0 => break,
                    count => done += count,
                }
            }
            assert!(seen == *model, "the mapped file differs");
            let writable = rustix::io::pwrite(mapping.host_file.as_fd(), &[], 0).is_ok();
            assert_eq!(writable, mapping.stub_may_write);
        }
        Step::Read(offset, length) => {
            let mut into = vec![0xee; length];
            let count = content.read_at(offset, &mut into).unwrap();
            let start = (offset as usize).min(model.len());
            let end = (start + length).min(model.len());
            assert!(into[..count] == model[start..end], "read at {offset}");
        }
    }
}

/// Blocks that hold a byte that is not zero must exist; what is charged is what exists.
fn check_cost(content: &Content, model: &[u8], budget: &Budget) {
    let blocks = content.blocks() / (BLOCK / 512);
    assert_eq!(budget.used(), blocks * BLOCK);
    let needed = model.chunks(BLOCK as usize).filter(|block| block.iter().any(|byte| *byte != 0)).count();
    assert!(blocks >= needed as u64, "{blocks} blocks for {needed}");
}

fn run(content: Content, mut model: Vec<u8>, steps: &[Step], budget: &Budget) {
    for (n, step) in steps.iter().enumerate() {
        apply(&content, &mut model, step, n as u64);
        assert_eq!(content.size(), model.len() as u64);
    }
    let mut all = vec![0; model.len() + 10];
    assert_eq!(content.read_at(0, &mut all), Ok(model.len()));
    assert!(all[..model.len()] == model[..], "content differs from the model");
    check_cost(&content, &model, budget);
    drop(content);
    assert_eq!(budget.used(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_on_disk_keep_their_bytes(steps in prop::collection::vec(step(), 1..40)) {
        let (scratch, budget, _directory) = scratch(1 << 30);
        // A neighbour in the same arena, whose bytes must stay.
        let storage = Storage::Scratch(scratch);
        let neighbour = Content::empty(&storage);
        neighbour.write_at(0, &bytes(5000, 99)).unwrap();
        let content = Content::empty(&storage);
        let mut model = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            apply(&content, &mut model, step, n as u64);
            let mut seen = vec![0; 5000];
            neighbour.read_at(0, &mut seen).unwrap();
            prop_assert!(seen == bytes(5000, 99));
        }
        drop(neighbour);
        run(content, model, &[], &budget);
    }

    #[test]
    fn files_in_memory_keep_their_bytes(steps in prop::collection::vec(step(), 1..40)) {
        let budget = Budget::new(1 << 30);
        run(Content::empty(&Storage::Memory(budget.clone())), Vec::new(), &steps, &budget);
    }
}

#[test]
fn recycled_blocks_show_nothing_of_their_last_owner() {
    let (scratch, budget, _directory) = scratch(1 << 20);
    let storage = Storage::Scratch(scratch);
    let secret = Content::empty(&storage);
    secret.write_at(0, &[0xaa; 100_000]).unwrap();
    drop(secret);
    let content = Content::empty(&storage);
    for n in 0..20 {
        content.write_at(n * BLOCK + 100, b"x").unwrap();
    }
    let mut seen = vec![0; 20 * BLOCK as usize];
    let count = content.read_at(0, &mut seen).unwrap();
    assert_eq!(seen[..count].iter().filter(|byte| **byte == 0xaa).count(), 0);
    content.truncate(10).unwrap();
    content.truncate(50_000).unwrap();
    content.read_at(0, &mut seen).unwrap();
    assert_eq!(seen[10..200].iter().filter(|byte| **byte != 0).count(), 0);
    drop(content);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (scratch, budget, _directory) = scratch(10 * BLOCK);
    let storage = Storage::Scratch(scratch);
    let content = Content::empty(&storage);
    assert_eq!(content.write_at(0, &vec![1; 100_000]), Ok(10 * BLOCK as usize));
    assert_eq!(content.write_at(10 * BLOCK, b"x"), Err(Errno::ENOSPC));
    assert_eq!(content.write_at(5, b"over"), Ok(4));
    assert_eq!(content.allocate(0, 20 * BLOCK, Allocate::Fill, false), Err(Errno::ENOSPC));
    assert_eq!(budget.used(), 10 * BLOCK);
    content.truncate(0).unwrap();
    // A hole costs nothing until a shared mapping could fill it unseen.
    content.truncate(100 * BLOCK).unwrap();
    assert_eq!(content.mapping(0, true).map(|_| ()).err(), Some(Errno::ENOSPC));
    assert!(content.mapping(0, false).is_ok());
    assert_eq!(budget.used(), 0);
    assert!(budget.hits() >= 4);
}

#[test]
fn what_a_shared_mapping_can_fill_is_paid_for() {
    let (scratch, budget, _directory) = scratch(20 * BLOCK);
    for storage in [Storage::Scratch(scratch), Storage::Memory(budget.clone())] {
        let content = Content::empty(&storage);
        content.write_at(0, &[1; BLOCK as usize]).unwrap();
        content.truncate(4 * BLOCK).unwrap();
        let used = budget.used();
        let mapping = content.mapping(3 * BLOCK, true).unwrap();
        assert_eq!(budget.used() - used, 3 * BLOCK);
        // The guest has mapped more than the file has: growing is what makes it usable.
        assert_eq!(content.truncate(1 << 40), Err(Errno::ENOSPC));
        assert_eq!(content.write_at(1 << 40, b"x"), Err(Errno::ENOSPC));
        assert_eq!(content.allocate(1 << 40, 1, Allocate::Fill, false), Err(Errno::ENOSPC));
        assert_eq!(rustix::fs::fstat(&mapping.host_file).unwrap().st_size as u64, 4 * BLOCK);
        content.truncate(10 * BLOCK).unwrap();
        content.write_at(15 * BLOCK, b"x").unwrap();
        assert_eq!(content.blocks(), 16 * (BLOCK / 512));
        // What is punched can be filled again through the mapping.
        content.allocate(0, 8 * BLOCK, Allocate::Punch, true).unwrap();
        assert_eq!(budget.used() - used, 15 * BLOCK);
        content.truncate(2 * BLOCK).unwrap();
        assert_eq!(budget.used() - used, BLOCK);
        drop(content);
        assert_eq!(budget.used(), used - BLOCK);
    }
}

#[test]
fn seals_bind() {
    let budget = Budget::new(1 << 20);
    let content = Content::empty(&Storage::Memory(budget));
    assert_eq!(content.add_seals(2), Err(Errno::EPERM));
    content.allow_sealing();
    content.write_at(0, b"sealed").unwrap();
    assert_eq!(content.add_seals(0x100), Err(Errno::EINVAL));
    content.add_seals(2 | 4).unwrap();
    assert_eq!(content.truncate(3), Err(Errno::EPERM));
    assert_eq!(content.write_at(4, b"more"), Err(Errno::EPERM));
    assert_eq!(content.write_at(0, b"SEALED"), Ok(6));
    content.add_seals(8).unwrap();
    assert_eq!(content.write_at(0, b"x"), Err(Errno::EPERM));
    assert_eq!(content.mapping(0, true).map(|_| ()).err(), Some(Errno::EPERM));
    assert!(content.mapping(0, false).is_ok());
    content.add_seals(1).unwrap();
    assert_eq!(content.add_seals(2), Err(Errno::EPERM));
}

#[test]
fn files_that_not_all_may_read_are_never_mapped_from_the_image() {
    use bulkhead_erofs::{Content as C, Meta, Node, Tree};
    let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    let data = bytes(9000, 3);
    for (name, mode) in [("open", 0o644), ("secret", 0o600)] {
        let meta = Meta { mode, ..Meta::default() };
        let id = tree.add(Node { meta, content: C::Regular { offset: 0, size: 9000 } }).unwrap();
        let root = tree.root();
        tree.children_mut(root).unwrap().insert(name.as_bytes().into(), id);
    }
    let image = image(&tree, &data);
    let test = crate::fs::testing::TestVfs::over(Some(image.clone()), 1 << 20);
    let map = |name: &str| {
        let dentry = crate::vfs::child(test.root(), name.as_bytes()).unwrap().unwrap();
        let file = Vfs::open_unchecked(&dentry, 0).unwrap();
        let mut seen = vec![0; 9000];
        file.pread(0, &mut seen).unwrap();
        assert!(seen == data, "{name}");
        file.mapping(4096, 4904, false).unwrap()
    };
    let open = map("open");
    assert!(Arc::ptr_eq(&open.host_file, image.public_file()) && !open.own_file);
    let secret = map("secret");
    assert!(!Arc::ptr_eq(&secret.host_file, image.public_file()) && secret.own_file);
    let mut seen = vec![0; 4904];
    rustix::io::pread(&secret.host_file, &mut seen[..], 4096).unwrap();
    assert!(seen == data[4096..]);
}
