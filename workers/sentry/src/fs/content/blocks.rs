//! A small file: blocks of the scratch's arena.

use std::collections::BTreeMap;

use super::block_range;
use crate::errno::Errno;
use crate::fs::scratch::{BLOCK, Scratch};

/// A block of zeros.
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Which block of the file is which block of the arena. Blocks that are not listed are holes.
#[derive(Default)]
pub(super) struct Blocks {
    /// First block of the file: first block of the arena and how many.
    runs: BTreeMap<u64, (u64, u64)>,
    count: u64,
}

impl Blocks {
    /// Blocks that exist.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The run that holds `block`, as (arena block, blocks from there); or how far the hole reaches.
    fn find(&self, block: u64) -> Result<(u64, u64), u64> {
        if let Some((start, (arena, count))) = self.runs.range(..=block).next_back()
            && block < start + count
        {
            return Ok((arena + (block - start), count - (block - start)));
        }
        let next = self.runs.range(block..).next().map_or(u64::MAX, |(start, _)| *start);
        Err(next - block)
    }

    /// Reads exactly; holes are zeros.
    pub(super) fn read_at(&self, scratch: &Scratch, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let left = (into.len() - done) as u64;
            match self.find(at / BLOCK) {
                Ok((arena, count)) => {
                    let want = (count * BLOCK - at % BLOCK).min(left) as usize;
                    let target = &mut into[done..done + want];
                    read_full(scratch, arena * BLOCK + at % BLOCK, target)?;
                    done += want;
                }
                Err(hole) => {
                    let want = hole.saturating_mul(BLOCK).saturating_sub(at % BLOCK).min(left) as usize;
                    into[done..done + want].fill(0);
                    done += want;
                }
            }
        }
        Ok(())
    }

    /// Writes as much of the front as there is room for.
    pub(super) fn write_at(&mut self, scratch: &Scratch, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let left = (from.len() - done) as u64;
            let (arena, count) = match self.find(at / BLOCK) {
                Ok(found) => found,
                Err(hole) => {
                    let want = (at % BLOCK + left).div_ceil(BLOCK).min(hole);
                    match self.add(scratch, at / BLOCK, want, at..at + left) {
                        Ok(found) => found,
                        Err(_) if done > 0 => return Ok(done),
                        Err(errno) => return Err(errno),
                    }
                }
            };
            let want = (count * BLOCK - at % BLOCK).min(left) as usize;
            write_full(scratch, arena * BLOCK + at % BLOCK, &from[done..done + want])?;
            done += want;
        }
        Ok(done)
    }

    /// Gives a hole blocks, at most `want`. Recycled blocks are made zero where `written` does not cover them.
    fn add(
        &mut self,
        scratch: &Scratch,
        block: u64,
        want: u64,
        written: std::ops::Range<u64>,
    ) -> Result<(u64, u64), Errno> {
        let extent = match scratch.allocate(want) {
            Ok(extent) => extent,
            // Not room for all: perhaps for one.
            Err(_) if want > 1 => scratch.allocate(1)?,
            Err(errno) => return Err(errno),
        };
        if !extent.fresh {
            let zeroed = self.zero_around(scratch, extent.start, extent.count, block, &written);
            if let Err(errno) = zeroed {
                scratch.release(extent.start, extent.count);
                return Err(errno);
            }
        }
        self.count += extent.count;
        let before = self.runs.range_mut(..block).next_back();
        match before {
            Some((start, (arena, count))) if *start + *count == block && *arena + *count == extent.start => {
                *count += extent.count;
            }
            _ => {
                self.runs.insert(block, (extent.start, extent.count));
            }
        }
        Ok((extent.start, extent.count))
    }

    fn zero_around(
        &self,
        scratch: &Scratch,
        arena: u64,
        count: u64,
        block: u64,
        written: &std::ops::Range<u64>,
    ) -> Result<(), Errno> {
        for n in 0..count {
            let start = (block + n) * BLOCK;
            let end = start + BLOCK;
            let place = (arena + n) * BLOCK;
            let (from, to) = (written.start.clamp(start, end), written.end.clamp(start, end));
            if from >= to {
                write_full(scratch, place, &ZEROS)?;
                continue;
            }
            write_full(scratch, place, &ZEROS[..(from - start) as usize])?;
            write_full(scratch, place + (to - start), &ZEROS[..(end - to) as usize])?;
        }
        Ok(())
    }

    /// Frees what lies behind `size`, and makes the rest of its last block zero.
    pub(super) fn truncate(&mut self, scratch: &Scratch, size: u64) -> Result<(), Errno> {
        self.remove(scratch, size.div_ceil(BLOCK)..u64::MAX);
        self.zero(scratch, size, size.next_multiple_of(BLOCK))
    }

    /// Makes bytes within one block zero, if the block exists.
    fn zero(&self, scratch: &Scratch, from: u64, to: u64) -> Result<(), Errno> {
        if from < to
            && let Ok((arena, _)) = self.find(from / BLOCK)
        {
            write_full(scratch, arena * BLOCK + from % BLOCK, &ZEROS[..(to - from) as usize])?;
        }
        Ok(())
    }

    /// Makes bytes a hole.
    pub(super) fn punch(&mut self, scratch: &Scratch, offset: u64, length: u64) -> Result<(), Errno> {
        let end = offset + length;
        let (first, last) = (offset.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        if first > last {
            return self.zero(scratch, offset, end);
        }
        self.zero(scratch, offset, first)?;
        self.zero(scratch, last, end)?;
        self.remove(scratch, first / BLOCK..last / BLOCK);
        Ok(())
    }

    /// Gives all holes of a range blocks; none, if there is not room for all.
    pub(super) fn fill(&mut self, scratch: &Scratch, offset: u64, length: u64) -> Result<(), Errno> {
        let mut added = Vec::new();
        let range = block_range(offset, length);
        let mut block = range.start;
        while block < range.end {
            match self.find(block) {
                Ok((_, count)) => block += count,
                Err(hole) => match self.add(scratch, block, hole.min(range.end - block), 0..0) {
                    Ok((_, count)) => {
                        added.push(block..block + count);
                        block += count;
                    }
                    Err(errno) => {
                        added.into_iter().for_each(|blocks| self.remove(scratch, blocks));
                        return Err(errno);
                    }
                },
            }
        }
        Ok(())
    }

    fn remove(&mut self, scratch: &Scratch, range: std::ops::Range<u64>) {
        let first = self.runs.range(..range.start).next_back().map_or(range.start, |(start, _)| *start);
        let touched: Vec<(u64, u64, u64)> = self
            .runs
            .range(first..range.end)
            .map(|(start, (arena, count))| (*start, *arena, *count))
            .collect();
        for (start, arena, count) in touched {
            let (from, to) = (start.max(range.start), (start + count).min(range.end));
            if from >= to {
                continue;
            }
            self.runs.remove(&start);
            if start < from {
                self.runs.insert(start, (arena, from - start));
            }
            if to < start + count {
                self.runs.insert(to, (arena + (to - start), start + count - to));
            }
            self.count -= to - from;
            scratch.release(arena + (from - start), to - from);
        }
    }

    /// Gives all blocks back.
    pub(super) fn clear(&mut self, scratch: &Scratch) {
        self.remove(scratch, 0..u64::MAX);
    }

    /// The next data or hole at or after `offset`.
    pub(super) fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        let mut block = offset / BLOCK;
        loop {
            match self.find(block) {
                Ok(_) if !hole => return Some(offset.max(block * BLOCK)),
                Err(_) if hole => return Some(offset.max(block * BLOCK)),
                Ok((_, count)) | Err(count) => block = block.checked_add(count).filter(|b| *b < u64::MAX)?,
            }
        }
    }
}

fn read_full(scratch: &Scratch, mut offset: u64, mut into: &mut [u8]) -> Result<(), Errno> {
    let arena = scratch.arena()?;
    while !into.is_empty() {
        match rustix::io::pread(&arena, &mut *into, offset)? {
            0 => {
                // Filled but never written: behind the end of the host's file.
                into.fill(0);
                return Ok(());
            }
            count => {
                into = &mut into[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

fn write_full(scratch: &Scratch, mut offset: u64, mut from: &[u8]) -> Result<(), Errno> {
    let arena = scratch.arena()?;
    while !from.is_empty() {
        let count = rustix::io::pwrite(&arena, from, offset)?;
        from = &from[count..];
        offset += count as u64;
    }
    Ok(())
}
