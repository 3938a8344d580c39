//! The converter's process: locks itself in, then reads an archive and writes an image's files. Started by
//! `bulkhead_image::Converter` only, which also says what its descriptors and arguments are.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use bulkhead_erofs::{Pair, WriteError};
use bulkhead_image::archive::{ArchiveError, import};
use bulkhead_image::convert::{Converted, Report, descriptor};
use bulkhead_jail::rlimit::Rlimits;
use bulkhead_jail::seccomp::{Role, install};
use bulkhead_jail::{JailConfig, enter};

/// Descriptors that are open at once: those that were handed over, twice, and some of the C library.
const OPEN_FILES: u64 = 32;
/// Bytes that padding to pages and metadata may add to an image, for 10^6 entries.
const OVERHEAD: u64 = 8 << 30;
/// Bytes that are written at once.
const BUFFER: usize = 256 * 1024;

struct Arguments {
    uid: u32,
    max_bytes: u64,
    memory_bytes: u64,
    cpu_seconds: u64,
}

struct Files {
    public: File,
    private: File,
    spool: File,
    report: File,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-convert: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let arguments =
        arguments().ok_or_else(|| io::Error::other("started by hand; use `bulkhead image import`"))?;
    let mut files = Files {
        public: open(descriptor::PUBLIC)?,
        private: open(descriptor::PRIVATE)?,
        spool: open(descriptor::SPOOL)?,
        report: open(descriptor::REPORT)?,
    };
    let report = match lock_in(&arguments) {
        Ok(()) => convert(&mut files, arguments.max_bytes),
        Err(why) => Report::NoJail { why },
    };
    let text = serde_json::to_vec(&report)?;
    files.report.write_all(&text)
}

fn arguments() -> Option<Arguments> {
    let mut numbers = std::env::args().skip(1);
    let mut number = || numbers.next()?.parse::<u64>().ok();
    Some(Arguments {
        uid: number()?.try_into().ok()?,
        max_bytes: number()?,
        memory_bytes: number()?,
        cpu_seconds: number()?,
    })
}

/// A descriptor that was handed over, as a file: opened anew by number, which needs no unsafe code. All are files
/// without a cursor of interest, or pipes.
fn open(number: i32) -> io::Result<File> {
    let is_report = number == descriptor::REPORT;
    File::options().read(!is_report).write(true).open(format!("/proc/self/fd/{number}"))
}

fn lock_in(arguments: &Arguments) -> Result<(), String> {
    let rlimits = Rlimits {
        open_files: OPEN_FILES,
        file_bytes: Some(arguments.max_bytes.saturating_add(OVERHEAD)),
        address_space_bytes: Some(arguments.memory_bytes),
        cpu_seconds: Some(arguments.cpu_seconds),
    };
    let (uid, gid) = (arguments.uid, arguments.uid);
    let config = JailConfig { join: Vec::new(), uid, gid, scratch: None, rlimits };
    enter(config).map_err(|error| chain(&error))?;
    install(Role::Convert).map_err(|error| chain(&error))
}

fn convert(files: &mut Files, max_bytes: u64) -> Report {
    match write(files, max_bytes) {
        Ok(converted) => Report::Done(converted),
        Err(error) => Report::Failed(error),
    }
}

fn write(files: &mut Files, max_bytes: u64) -> Result<Converted, ArchiveError> {
    let write_error = |error: io::Error| ArchiveError::Write { why: error.to_string() };
    let spool = files.spool.try_clone().map_err(write_error)?;
    let imported = import(io::stdin().lock(), spool, max_bytes)?;
    let pair = Pair::new(&imported.tree).map_err(refused)?;
    let mut public = BufWriter::with_capacity(BUFFER, &files.public);
    pair.write_public(&files.spool, &mut public).map_err(refused)?;
    let mut private = BufWriter::with_capacity(BUFFER, &files.private);
    let has_private = pair.write_private(&files.spool, &mut private).map_err(refused)?;
    Ok(Converted { kind: imported.kind, config: imported.config, has_private, entries: imported.entries })
}

fn refused(error: WriteError) -> ArchiveError {
    ArchiveError::Write { why: chain(&error) }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
