//! The converter: a jailed process that reads one archive and writes the image's two files.
//!
//! ```text
//! caller (root)                                 bulkhead-convert (own host uid, empty root, no network,
//!   archive file, or a thread that pumps          no capabilities, seccomp list, rlimits)
//!   a stream into a pipe  ------------- fd 0 -->  tar, gzip, zstd, JSON: everything hostile
//!   public and private file  ------- fds 3, 4 <-- EROFS
//!   spool (unlinked)  ------------------ fd 5 <->  data of files
//!   report, at most 2 MiB  <------------ fd 6 --   `Report` as JSON
//! ```
//! The caller believes the report only as far as it can check it: it reads a bounded number of bytes, validates the
//! configuration, and makes the digests itself. A converter that was taken over can write a senseless image, which can
//! hurt only those who asked for it.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use bulkhead_jail::spawn::{Child, Ended, Program, spawn};
use bulkhead_jail::uid::{UidError, UidRange};
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveError, ArchiveKind};
use crate::config::{ConfigError, ImageConfig};
use crate::pack::pack;

/// The converter's file name, beside the program that uses it.
const PROGRAM: &str = "bulkhead-convert";
/// Longest report in bytes: a configuration has at most three lists of 1 MiB, mostly escapes at worst.
const MAX_REPORT: u64 = 16 << 20;
/// Bytes that are copied at once.
const COPY_BUFFER: usize = 128 * 1024;
/// Bytes of the converter's last words that an error shows.
const MAX_SAID: u64 = 4096;

/// Descriptors of the converter: see the module's picture.
pub mod descriptor {
    /// The public image.
    pub const PUBLIC: i32 = 3;
    /// The private image.
    pub const PRIVATE: i32 = 4;
    /// The data of files, before they are sorted into images.
    pub const SPOOL: i32 = 5;
    /// Where the report goes.
    pub const REPORT: i32 = 6;
}

/// What the converter says at its end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The files are written.
    Done(Converted),
    /// The archive is no image.
    Failed(ArchiveError),
    /// The jail could not be entered, so that nothing was read.
    NoJail {
        /// The step and its cause.
        why: String,
    },
}

/// What an archive became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    /// What the archive was.
    pub kind: ArchiveKind,
    /// Defaults for jobs.
    pub config: ImageConfig,
    /// Whether a private image was needed.
    pub has_private: bool,
    /// Entries that were read.
    pub entries: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The archive is to blame.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The image's configuration is to blame.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stream broke off.
    #[error("the archive's stream failed")]
    Stream(#[source] io::Error),
    /// The converter's program is not there.
    #[error("{PROGRAM} is not in {directory}; install it beside the program that imports images")]
    NoProgram {
        /// Where it was looked for.
        directory: String,
    },
    /// It could not be jailed.
    #[error("the converter can't be locked in, so it does not run: {why}")]
    NoJail {
        /// The step and its cause.
        why: String,
    },
    /// There is no host uid for it.
    #[error("the converter has no host uid")]
    NoUid(#[from] UidError),
    /// It could not be started, or its files not be handed over.
    #[error("could not start the converter")]
    Start(#[source] io::Error),
    /// It ended without a report: out of memory or time, most likely.
    #[error("the converter {how} without a result: {said}")]
    Died {
        /// Status or signal.
        how: Ended,
        /// The end of its standard error.
        said: String,
    },
}

/// Where an archive comes from.
pub enum Archive<'a> {
    /// A file or pipe, from its current position; the converter reads it directly.
    File(File),
    /// Anything else.
    Stream(&'a mut (dyn Read + Send)),
    /// The tree below a directory of this machine, which the caller trusts: see [`crate::pack`].
    Directory(&'a Path),
}

/// Bounds of one conversion.
#[derive(Clone, Copy, Debug)]
pub struct ConvertLimits {
    /// Bytes of the archive, of what it decompresses to, and of all files in it: each.
    pub max_bytes: u64,
    /// Address space of the converter in bytes.
    pub memory_bytes: u64,
    /// CPU time of the converter in seconds.
    pub cpu_seconds: u64,
}

impl Default for ConvertLimits {
    /// Generous for images of tens of gigabytes; memory goes with the number of entries only.
    fn default() -> Self {
        Self { max_bytes: crate::archive::bounds::DEFAULT_MAX_BYTES, memory_bytes: 2 << 30, cpu_seconds: 900 }
    }
}

/// Files that a conversion writes.
pub struct Outputs<'a> {
    /// Empty; becomes the public image.
    pub public: &'a File,
    /// Empty; becomes the private image, or stays empty.
    pub private: &'a File,
    /// Empty, without a name; its content is of no use afterwards.
    pub spool: &'a File,
}

/// The converter's program.
#[derive(Clone, Debug)]
pub struct Converter {
    program: PathBuf,
}

impl Converter {
    /// The converter beside the running executable.
    ///
    /// # Errors
    /// [`ConvertError::NoProgram`].
    pub fn find() -> Result<Self, ConvertError> {
        let mut directory = std::env::current_exe().unwrap_or_default();
        directory.pop();
        let mut program = directory.join(PROGRAM);
        // Cargo puts tests one directory below the programs that they use.
        if !program.is_file() && directory.ends_with("deps") {
            program = directory.with_file_name(PROGRAM);
        }
        if !program.is_file() {
            return Err(ConvertError::NoProgram { directory: directory.display().to_string() });
        }
        Ok(Self { program })
    }

    /// The converter at an absolute path.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// Converts one archive. Blocks until the archive is read; needs root.
    ///
    /// # Errors
    /// [`ConvertError`]; the outputs are then worthless.
    pub fn convert(
        &self,
        archive: Archive<'_>,
        outputs: &Outputs<'_>,
        limits: &ConvertLimits,
    ) -> Result<Converted, ConvertError> {
        match archive {
            Archive::File(file) => self.run(file, outputs, limits),
            Archive::Stream(stream) => self.pumped(|pipe| copy(stream, pipe), outputs, limits),
            Archive::Directory(path) => {
                let pump =
                    |pipe: &mut io::PipeWriter| pack(path, &mut BufWriter::with_capacity(COPY_BUFFER, pipe));
                self.pumped(pump, outputs, limits)
            }
        }
    }

    /// Runs the converter on what another thread writes into a pipe.
    fn pumped(
        &self,
        pump: impl FnOnce(&mut io::PipeWriter) -> io::Result<()> + Send,
        outputs: &Outputs<'_>,
        limits: &ConvertLimits,
    ) -> Result<Converted, ConvertError> {
        let (reader, mut writer) = io::pipe().map_err(ConvertError::Start)?;
        std::thread::scope(|scope| {
            let pump = scope.spawn(move || pump(&mut writer));
            let result = self.run(File::from(OwnedFd::from(reader)), outputs, limits);
            match pump.join() {
                // A converter that reads no further has ended, and says why itself.
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => result,
                // What the converter made of half a stream does not matter.
                Ok(Err(error)) => Err(ConvertError::Stream(error)),
                Ok(Ok(())) => result,
                Err(_) => Err(ConvertError::Stream(io::Error::other("its reader panicked"))),
            }
        })
    }

    fn run(
        &self,
        archive: File,
        outputs: &Outputs<'_>,
        limits: &ConvertLimits,
    ) -> Result<Converted, ConvertError> {
        let uid = UidRange::system().claim()?;
        let (report, report_writer) = io::pipe().map_err(ConvertError::Start)?;
        let (said, said_writer) = io::pipe().map_err(ConvertError::Start)?;
        let null = File::options().write(true).open("/dev/null").map_err(ConvertError::Start)?;
        let numbers = [u64::from(uid.get()), limits.max_bytes, limits.memory_bytes, limits.cpu_seconds];
        let argv = [PROGRAM.to_owned()].into_iter().chain(numbers.map(|number| number.to_string()));
        let program = Program {
            path: c_string(self.program.clone().into()).map_err(ConvertError::Start)?,
            argv: argv
                .map(|text| c_string(text.into()))
                .collect::<Result<_, _>>()
                .map_err(ConvertError::Start)?,
            env: Vec::new(),
            descriptors: vec![
                (archive.as_fd(), 0),
                (null.as_fd(), 1),
                (said_writer.as_fd(), 2),
                (outputs.public.as_fd(), descriptor::PUBLIC),
                (outputs.private.as_fd(), descriptor::PRIVATE),
                (outputs.spool.as_fd(), descriptor::SPOOL),
                (report_writer.as_fd(), descriptor::REPORT),
            ],
            pid_namespace: true,
        };
        let child = Reaped(spawn(&program).map_err(ConvertError::Start)?);
        drop(program);
        // The converter has its own: without ours, its end is the end of the pipes. The archive's too, so that a
        // pump finds out that nobody reads any more.
        drop((archive, report_writer, said_writer));
        let mut text = Vec::new();
        report.take(MAX_REPORT).read_to_end(&mut text).map_err(ConvertError::Start)?;
        let mut words = Vec::new();
        said.take(MAX_SAID).read_to_end(&mut words).map_err(ConvertError::Start)?;
        let how = child.0.wait().map_err(ConvertError::Start)?;
        drop(uid);
        match serde_json::from_slice(&text) {
            Ok(Report::Done(converted)) if how == Ended::Exited(0) => {
                converted.config.validate()?;
                Ok(converted)
            }
            Ok(Report::Failed(error)) => Err(error.into()),
            Ok(Report::NoJail { why }) => Err(ConvertError::NoJail { why }),
            _ => {
                let said = String::from_utf8_lossy(&words).trim().escape_debug().to_string();
                Err(ConvertError::Died { how, said })
            }
        }
    }
}

/// Kills and reaps the converter on every way out.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        self.0.kill();
        // It has been reaped already where all went well.
        let _ = self.0.wait();
    }
}

fn copy(stream: &mut (dyn Read + Send), pipe: &mut io::PipeWriter) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => pipe.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Not the pipe's own broken end.
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A file without a name in `directory`, for the spool.
///
/// # Errors
/// What the host says.
pub fn unnamed_file(directory: &Path) -> io::Result<File> {
    let path = directory.join("spool");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
