//! Reading ELF headers. The file is hostile: everything is checked, nothing is trusted to be in range.

use crate::errno::Errno;

/// Program headers that are read, at most: Linux bounds them by 64 KiB; real programs have 15.
const HEADERS_MAX: usize = 64;
/// Loadable segments: each takes up to three of a stub's 64 commands at the start.
const SEGMENTS_MAX: usize = 16;
/// sizeof(Elf64_Ehdr).
pub(super) const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// PATH_MAX, for the interpreter's name.
const INTERPRETER_MAX: u64 = 4096;
/// User addresses end here.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// PF_X, PF_W, PF_R of a program header.
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// A segment to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Offset in the file.
    pub(super) offset: u64,
    /// Address, relative to the base.
    pub(super) address: u64,
    /// Bytes in the file.
    pub(super) file_size: u64,
    /// Bytes in memory.
    pub(super) memory_size: u64,
    /// PROT_* bits.
    pub(super) prot: i32,
}

impl Segment {
    /// Whether code may run in it.
    pub(super) const fn is_code(&self) -> bool {
        self.prot & 4 != 0
    }
}

/// What the loader needs of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    /// Whether its addresses are fixed.
    pub(super) fixed: bool,
    /// Where it begins, relative to the base.
    pub(super) entry: u64,
    /// Address of the program headers, relative to the base; 0 if no segment has them.
    pub(super) headers: u64,
    /// How many program headers there are.
    pub(super) header_count: u16,
    /// Ascending, not overlapping.
    pub(super) segments: Vec<Segment>,
    /// The interpreter's path.
    pub(super) interpreter: Option<Vec<u8>>,
    /// Whether the stack is to be executable.
    pub(super) executable_stack: bool,
}

impl Elf {
    /// The first and the last address, page-aligned.
    pub(super) fn extent(&self) -> (u64, u64) {
        const PAGE: u64 = 4096;
        let first = self.segments.first().map_or(0, |segment| segment.address);
        let last = self.segments.last().map_or(0, |segment| segment.address + segment.memory_size);
        (first & !(PAGE - 1), last.next_multiple_of(PAGE))
    }
}

/// Reads bytes of a file at an offset; short only at its end.
pub(super) type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<usize, Errno>;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Reads the headers of an ELF file.
///
/// # Errors
/// ENOEXEC if it is not one for this machine; ENOMEM if its addresses can't be; EIO.
pub(super) fn parse(read_at: ReadAt<'_>) -> Result<Elf, Errno> {
    let mut header = [0; HEADER_SIZE];
    if read_at(0, &mut header)? < HEADER_SIZE || !is_for_this_machine(&header) {
        return Err(Errno::ENOEXEC);
    }
    let kind = u16_at(&header, 16);
    let (headers_offset, count) = (u64_at(&header, 32), u16_at(&header, 56));
    let count_known = (1..=HEADERS_MAX).contains(&usize::from(count));
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_SIZE || !count_known {
        return Err(Errno::ENOEXEC);
    }
    let mut table = vec![0; usize::from(count) * PROGRAM_HEADER_SIZE];
    if read_at(headers_offset, &mut table)? < table.len() {
        return Err(Errno::ENOEXEC);
    }
    let mut elf = Elf {
        fixed: kind == ET_EXEC,
        entry: u64_at(&header, 24),
        headers: 0,
        header_count: count,
        segments: Vec::new(),
        interpreter: None,
        executable_stack: true,
    };
    for entry in table.chunks_exact(PROGRAM_HEADER_SIZE) {
        match u32_at(entry, 0) {
            PT_LOAD => add_segment(&mut elf, entry, headers_offset)?,
            PT_INTERP if elf.interpreter.is_none() => elf.interpreter = Some(interpreter(entry, read_at)?),
            PT_GNU_STACK => elf.executable_stack = u32_at(entry, 4) & PF_X != 0,
            _ => {}
        }
    }
    if elf.segments.is_empty() {
        return Err(Errno::ENOEXEC);
    }
    Ok(elf)
}

/// Whether a file starts as a 64-bit x86 program or library does.
pub(super) fn is_for_this_machine(header: &[u8]) -> bool {
    header.len() >= HEADER_SIZE
        && header.starts_with(b"\x7fELF\x02\x01")
        && matches!(u16_at(header, 16), ET_EXEC | ET_DYN)
        && u16_at(header, 18) == EM_X86_64
}

fn add_segment(elf: &mut Elf, entry: &[u8], headers_offset: u64) -> Result<(), Errno> {
    const PAGE_MASK: u64 = 4095;
    let flags = u32_at(entry, 4);
    let prot =
        i32::from(flags & PF_R != 0) | i32::from(flags & PF_W != 0) << 1 | i32::from(flags & PF_X != 0) << 2;
    let segment = Segment {
        offset: u64_at(entry, 8),
        address: u64_at(entry, 16),
        file_size: u64_at(entry, 32),
        memory_size: u64_at(entry, 40),
        prot,
    };
    if segment.memory_size == 0 {
        return Ok(());
    }
    let end = segment.address.checked_add(segment.memory_size).ok_or(Errno::ENOMEM)?;
    let file_end = segment.offset.checked_add(segment.file_size).ok_or(Errno::ENOEXEC)?;
    let aligned = segment.address & PAGE_MASK == segment.offset & PAGE_MASK;
    if segment.file_size > segment.memory_size || !aligned || file_end > i64::MAX as u64 {
        return Err(Errno::ENOEXEC);
    }
    if end > TASK_SIZE || elf.segments.len() >= SEGMENTS_MAX {
        return Err(Errno::ENOMEM);
    }
    let previous_end = elf.segments.last().map_or(0, |last| last.address + last.memory_size);
    if segment.address < previous_end {
        return Err(Errno::ENOEXEC);
    }
    if (segment.offset..file_end).contains(&headers_offset) {
        elf.headers = segment.address + (headers_offset - segment.offset);
    }
    elf.segments.push(segment);
    Ok(())
}

fn interpreter(entry: &[u8], read_at: ReadAt<'_>) -> Result<Vec<u8>, Errno> {
    let (offset, size) = (u64_at(entry, 8), u64_at(entry, 32));
    if !(2..=INTERPRETER_MAX).contains(&size) {
        return Err(Errno::ENOEXEC);
    }
    let mut path = vec![0; size as usize];
    if read_at(offset, &mut path)? < path.len() || path.pop() != Some(0) {
        return Err(Errno::ENOEXEC);
    }
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    path.truncate(end);
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn parse_bytes(bytes: &[u8]) -> Result<Elf, Errno> {
        parse(&|offset, into: &mut [u8]| {
            let rest =
                usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
            let length = rest.len().min(into.len());
            into[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        })
    }

    fn program_header(kind: u32, flags: u32, words: [u64; 5]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        let [offset, address, file_size, memory_size, align] = words;
        for word in [offset, address, address, file_size, memory_size, align] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    fn file(kind: u16, headers: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(EM_X86_64.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(0x1040u64.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(64u16.to_le_bytes());
        bytes.extend(56u16.to_le_bytes());
        bytes.extend((headers.len() as u16).to_le_bytes());
        bytes.resize(HEADER_SIZE, 0);
        bytes.extend(headers.concat());
        bytes.extend(b"/lib/ld.so\0");
        bytes
    }

    #[test]
    fn headers_are_understood() {
        let name_offset = 64 + 3 * 56;
        let good = file(
            ET_DYN,
            &[
                program_header(PT_INTERP, PF_R, [name_offset, 0, 11, 11, 1]),
                program_header(PT_LOAD, PF_R | PF_X, [0, 0, 0x200, 0x200, 4096]),
                program_header(PT_LOAD, PF_R | PF_W, [0x100, 0x2100, 0x10, 0x5000, 4096]),
            ],
        );
        let elf = parse_bytes(&good).expect("valid");
        assert_eq!(elf.interpreter.as_deref(), Some(&b"/lib/ld.so"[..]));
        assert_eq!((elf.fixed, elf.headers, elf.extent()), (false, 64, (0, 0x8000)));
        assert_eq!(elf.segments[1].prot, 3);
    }

    #[test]
    fn wrong_files_are_refused() {
        let overlapping = program_header(PT_LOAD, PF_R, [0, 0, 0x2000, 0x2000, 4096]);
        let too_high = program_header(PT_LOAD, PF_R, [0, 0x7fff_ffff_f000, 16, 4096, 4096]);
        let unaligned = program_header(PT_LOAD, PF_R, [1, 0, 16, 16, 4096]);
        let longer = program_header(PT_LOAD, PF_R, [0, 0, 17, 16, 4096]);
        let cases = [
            (file(ET_DYN, &[overlapping.clone(), overlapping]), Errno::ENOEXEC),
            (file(ET_DYN, &[too_high]), Errno::ENOMEM),
            (file(ET_DYN, &[unaligned]), Errno::ENOEXEC),
            (file(ET_DYN, &[longer]), Errno::ENOEXEC),
            (file(1, &[]), Errno::ENOEXEC),
            (b"\x7fELF".to_vec(), Errno::ENOEXEC),
        ];
        for (bytes, errno) in cases {
            assert_eq!(parse_bytes(&bytes), Err(errno));
        }
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(
            words in proptest::collection::vec(any::<[u64; 5]>(), 0..20),
            kinds in proptest::collection::vec(0u32..4, 20),
            cut in 0usize..2000,
        ) {
            let headers: Vec<_> =
                words.iter().zip(kinds).map(|(words, kind)| program_header(kind, 7, *words)).collect();
            let mut bytes = file(ET_DYN, &headers);
            bytes.truncate(cut);
            if let Ok(elf) = parse_bytes(&bytes) {
                prop_assert!(elf.extent().1 <= TASK_SIZE + 4096);
            }
        }

        #[test]
        fn damaged_programs_never_panic(
            flips in proptest::collection::vec((0usize..1024, any::<u8>()), 1..20),
            cut in 0usize..8192,
        ) {
            // A real program's headers: this test's own.
            let program = std::fs::File::open(std::env::current_exe().expect("a path")).expect("a program");
            let mut bytes = Vec::new();
            program.take(cut.max(1024) as u64).read_to_end(&mut bytes).expect("a program");
            for (at, value) in flips {
                bytes[at] = value;
            }
            let _segments_or_refusal = crate::loader::look_at(&bytes);
        }
    }
}
