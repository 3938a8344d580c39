//! Sparse files: GNU's own entries, and the three versions of PAX records.

use std::io::Read;

use super::super::bounds;
use super::super::error::ArchiveError;
use super::super::spool::Run;
use super::extension::{Extension, parse};
use super::header::{BLOCK, Header, number};
use super::{Entry, TarReader};

/// Bytes of one run in a GNU header: offset and size.
const GNU_RUN: usize = 24;
/// Bytes of a GNU header's block of further runs that hold runs; the next byte says if more follow.
const GNU_RUNS: usize = 21 * GNU_RUN;

impl<R: Read> TarReader<R> {
    /// Finds out whether `entry` has holes, and where.
    pub(super) fn add_holes(
        &mut self,
        entry: &mut Entry,
        header: &Header,
        extension: &Extension,
    ) -> Result<(), ArchiveError> {
        let (runs, size) = if header.type_flag() == b'S' {
            self.gnu_runs(entry, header)?
        } else if extension.sparse.map_in_data {
            (self.pax_runs(entry)?, extension.sparse.size.unwrap_or(entry.size))
        } else if let Some(numbers) = &extension.sparse.numbers {
            (pair_up(entry, numbers)?, extension.sparse.size.unwrap_or(entry.size))
        } else {
            return Ok(());
        };
        let mut end = 0;
        let mut stored = 0u64;
        for run in &runs {
            let next = run.offset.checked_add(run.size);
            match next {
                Some(next) if run.offset >= end && next <= size => end = next,
                _ => return Err(ArchiveError::damaged(&entry.path, "its map of holes contradicts itself")),
            }
            stored = stored.saturating_add(run.size);
        }
        if stored > self.left {
            return Err(ArchiveError::damaged(&entry.path, "its data are shorter than its map of holes"));
        }
        entry.size = size;
        entry.runs = Some(runs);
        Ok(())
    }

    fn gnu_runs(&mut self, entry: &Entry, header: &Header) -> Result<(Vec<Run>, u64), ArchiveError> {
        let (field, mut more, size) = header.gnu_sparse()?;
        let mut runs = Vec::new();
        let mut block = [0; BLOCK];
        take_gnu(entry, field, &mut runs)?;
        // The further blocks lie between header and data, and are not counted in the size.
        while more {
            if self.fill(&mut block)? < BLOCK {
                return Err(ArchiveError::Truncated { what: "within a map of holes".into() });
            }
            take_gnu(entry, &block[..GNU_RUNS], &mut runs)?;
            more = block[GNU_RUNS] != 0;
        }
        Ok((runs, size))
    }

    /// PAX 1.0: decimal lines at the head of the data: how many runs, and two numbers for each.
    fn pax_runs(&mut self, entry: &Entry) -> Result<Vec<Run>, ArchiveError> {
        let refuse = || ArchiveError::damaged(&entry.path, "its map of holes is malformed");
        let mut numbers = Vec::new();
        let mut line = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 {
                return Err(refuse());
            }
            if self.fill(&mut block)? < BLOCK {
                return Err(ArchiveError::Truncated { what: "within a map of holes".into() });
            }
            self.left -= BLOCK as u64;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let value = parse(&line).ok_or_else(refuse)?;
                line.clear();
                if wanted.is_some() {
                    numbers.push(value);
                } else {
                    let runs = usize::try_from(value).ok().filter(|runs| *runs <= bounds::MAX_SPARSE_RUNS);
                    wanted = Some(2 * runs.ok_or_else(too_many)?);
                }
            }
            if line.len() > BLOCK {
                return Err(refuse());
            }
        }
        pair_up(entry, &numbers)
    }
}

fn too_many() -> ArchiveError {
    ArchiveError::too_much(bounds::MAX_SPARSE_RUNS as u64, "runs of data in one sparse file")
}

fn take_gnu(entry: &Entry, field: &[u8], runs: &mut Vec<Run>) -> Result<(), ArchiveError> {
    for raw in field.chunks_exact(GNU_RUN) {
        if raw[0] == 0 {
            break;
        }
        let read = |field| number(field).and_then(|value| u64::try_from(value).ok());
        let (offset, size) = read(&raw[..12])
            .zip(read(&raw[12..]))
            .ok_or_else(|| ArchiveError::damaged(&entry.path, "its map of holes is malformed"))?;
        runs.push(Run { offset, size });
    }
    if runs.len() > bounds::MAX_SPARSE_RUNS { Err(too_many()) } else { Ok(()) }
}

fn pair_up(entry: &Entry, numbers: &[u64]) -> Result<Vec<Run>, ArchiveError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(ArchiveError::damaged(&entry.path, "its map of holes is malformed"));
    }
    if pairs.len() > bounds::MAX_SPARSE_RUNS {
        return Err(too_many());
    }
    Ok(pairs.iter().map(|[offset, size]| Run { offset: *offset, size: *size }).collect())
}
