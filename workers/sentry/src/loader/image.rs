//! Mapping a file's segments.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use bulkhead_platform::{FileAccess, HostCall, WarmStub, layout};

use super::elf::{Elf, Segment};
use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::vfs::{Mapping, OpenFile};

const PAGE: u64 = 4096;
const PROT_WRITE: i32 = 2;
const MAP_PRIVATE_FIXED: i32 = 0x2 | 0x10;
const MAP_ANONYMOUS: i32 = 0x20;

/// Where a file was put.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loaded {
    /// Added to the file's own addresses.
    pub(super) base: u64,
    /// Where it begins.
    pub(super) entry: u64,
    /// Address of its program headers.
    pub(super) headers: u64,
    /// How many there are.
    pub(super) header_count: u64,
    /// Lowest and highest address of code.
    pub(super) code: (u64, u64),
    /// Of data.
    pub(super) data: (u64, u64),
    /// Behind everything, page-aligned.
    pub(super) end: u64,
}

/// Adds the commands that map `file` at `base` (which is ignored if its addresses are fixed).
pub(super) fn load(
    kernel: &Kernel,
    elf: &Elf,
    file: &Arc<OpenFile>,
    base: u64,
    stub: &WarmStub,
    commands: &mut Vec<HostCall>,
) -> Result<(Loaded, Vec<Mapping>), Errno> {
    let base = if elf.fixed { 0 } else { base };
    let mut loaded = Loaded {
        base,
        entry: base.wrapping_add(elf.entry),
        headers: if elf.headers == 0 { 0 } else { base + elf.headers },
        header_count: elf.header_count.into(),
        code: (u64::MAX, 0),
        data: (u64::MAX, 0),
        end: base + elf.extent().1,
    };
    let mut injected = Injected::default();
    let mut mappings = Vec::new();
    for segment in &elf.segments {
        let start = base + segment.address;
        let range = if segment.is_code() { &mut loaded.code } else { &mut loaded.data };
        range.0 = range.0.min(start);
        range.1 = range.1.max(start + segment.file_size);
        mappings.extend(map_segment(kernel, segment, file, base, stub, &mut injected, commands)?);
    }
    for (_, fd) in injected.files {
        commands.push(HostCall::close(fd));
    }
    for range in [&mut loaded.code, &mut loaded.data] {
        if range.0 > range.1 {
            *range = (start_of(elf, base), start_of(elf, base) + 1);
        }
    }
    Ok((loaded, mappings))
}

fn start_of(elf: &Elf, base: u64) -> u64 {
    base + elf.extent().0
}

/// Host files that are in the stub already, by the sentry's own descriptor.
#[derive(Default)]
struct Injected {
    files: Vec<(i32, i32)>,
}

impl Injected {
    fn number(&mut self, kernel: &Kernel, mapping: &Mapping, stub: &WarmStub) -> Result<i32, Errno> {
        if kernel.is_public_image(&mapping.host_file) {
            return Ok(layout::IMAGE_FD);
        }
        let own = mapping.host_file.as_raw_fd();
        if let Some((_, fd)) = self.files.iter().find(|(known, _)| *known == own) {
            return Ok(*fd);
        }
        let fd = stub.add_fd(mapping.host_file.as_fd(), FileAccess::ReadOnly)?;
        self.files.push((own, fd));
        Ok(fd)
    }
}

fn map_segment(
    kernel: &Kernel,
    segment: &Segment,
    file: &Arc<OpenFile>,
    base: u64,
    stub: &WarmStub,
    injected: &mut Injected,
    commands: &mut Vec<HostCall>,
) -> Result<Option<Mapping>, Errno> {
    let page = |address: u64| address & !(PAGE - 1);
    let start = page(base + segment.address);
    let file_end = base + segment.address + segment.file_size;
    let end = (base + segment.address + segment.memory_size).next_multiple_of(PAGE);
    let mut anonymous_from = start;
    let mut mapped = None;
    if segment.file_size > 0 {
        let length = file_end.next_multiple_of(PAGE) - start;
        let mapping = file.mapping(page(segment.offset), length, false)?;
        // What a truncated file lacks is not mapped: touching it is a fault, as on Linux.
        let available = length.min(mapping.length_available);
        if available > 0 {
            let fd = injected.number(kernel, &mapping, stub)?;
            let call =
                HostCall::mmap(start, available, segment.prot, MAP_PRIVATE_FIXED, fd, mapping.host_offset);
            commands.push(call);
        }
        anonymous_from = start + length;
        let has_tail = segment.memory_size > segment.file_size && available == length;
        if has_tail && segment.prot & PROT_WRITE != 0 && anonymous_from > file_end {
            commands.push(HostCall::zero(file_end, anonymous_from - file_end));
        }
        mapped = Some(mapping);
    }
    if end > anonymous_from {
        let flags = MAP_PRIVATE_FIXED | MAP_ANONYMOUS;
        commands.push(HostCall::mmap(anonymous_from, end - anonymous_from, segment.prot, flags, -1, 0));
    }
    Ok(mapped)
}
