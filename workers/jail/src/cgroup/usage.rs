//! What a sandbox has used: read from descriptors that are opened once, so that a poll costs a few microseconds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CgroupError, files};

/// A reading of a sandbox's groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode of job and sentry.
    pub cpu_user: Duration,
    /// CPU time in the kernel of job and sentry.
    pub cpu_system: Duration,
    /// Memory of the job now, in bytes.
    pub memory_bytes: u64,
    /// Highest memory of the job, in bytes. On kernels without `memory.peak` (v2 before 5.19) the current one.
    pub memory_peak_bytes: u64,
    /// Processes of the job that the kernel killed for memory.
    pub oom_kills: u64,
}

impl Usage {
    /// User and system time together.
    pub fn cpu(&self) -> Duration {
        self.cpu_user + self.cpu_system
    }
}

#[derive(Debug)]
struct Source {
    file: File,
    path: PathBuf,
}

impl Source {
    fn open(path: PathBuf) -> Result<Self, CgroupError> {
        let file = File::open(&path).map_err(files::failed("open", &path))?;
        Ok(Source { file, path })
    }

    fn read(&self) -> Result<String, CgroupError> {
        /// Bytes; the longest of these files, cpu.stat, has some 400.
        const LONGEST: usize = 4096;
        let mut buffer = [0; LONGEST];
        let n = self.file.read_at(&mut buffer, 0).map_err(files::failed("read", &self.path))?;
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    }

    fn number(&self) -> Result<u64, CgroupError> {
        self.read()?.trim().parse().map_err(|_| CgroupError::Unreadable { path: self.path.clone() })
    }

    /// The value of one line `key value`.
    fn keyed(&self, text: &str, key: &str) -> Result<u64, CgroupError> {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
            .ok_or_else(|| CgroupError::Unreadable { path: self.path.clone() })
    }
}

#[derive(Debug)]
enum Cpu {
    /// Nanoseconds in a file each.
    V1 { user: Source, system: Source },
    /// Microseconds, keyed.
    V2 { stat: Source },
}

/// Open files of a sandbox's groups.
#[derive(Debug)]
pub struct Meter {
    cpu: Cpu,
    current: Source,
    peak: Option<Source>,
    events: Source,
}

impl Meter {
    pub(super) fn open_v1(memory_job: &Path, cpuacct: &Path) -> Result<Self, CgroupError> {
        Ok(Meter {
            cpu: Cpu::V1 {
                user: Source::open(cpuacct.join("cpuacct.usage_user"))?,
                system: Source::open(cpuacct.join("cpuacct.usage_sys"))?,
            },
            current: Source::open(memory_job.join("memory.usage_in_bytes"))?,
            peak: Some(Source::open(memory_job.join("memory.max_usage_in_bytes"))?),
            events: Source::open(memory_job.join("memory.oom_control"))?,
        })
    }

    pub(super) fn open_v2(group: &Path) -> Result<Self, CgroupError> {
        let job = group.join("job");
        Ok(Meter {
            cpu: Cpu::V2 { stat: Source::open(group.join("cpu.stat"))? },
            current: Source::open(job.join("memory.current"))?,
            peak: Source::open(job.join("memory.peak")).ok(),
            events: Source::open(job.join("memory.events"))?,
        })
    }

    /// CPU time of job and sentry so far: user, system.
    ///
    /// # Errors
    /// Names the file that can't be read.
    pub fn cpu(&self) -> Result<(Duration, Duration), CgroupError> {
        match &self.cpu {
            Cpu::V1 { user, system } => {
                Ok((Duration::from_nanos(user.number()?), Duration::from_nanos(system.number()?)))
            }
            Cpu::V2 { stat } => {
                let text = stat.read()?;
                let us = |key| stat.keyed(&text, key).map(Duration::from_micros);
                Ok((us("user_usec")?, us("system_usec")?))
            }
        }
    }

    /// Everything.
    ///
    /// # Errors
    /// Names the file that can't be read.
    pub fn read(&self) -> Result<Usage, CgroupError> {
        let (cpu_user, cpu_system) = self.cpu()?;
        let memory_bytes = self.current.number()?;
        let memory_peak_bytes = match &self.peak {
            Some(peak) => peak.number()?,
            None => memory_bytes,
        };
        Ok(Usage { cpu_user, cpu_system, memory_bytes, memory_peak_bytes, oom_kills: self.oom_kills()? })
    }

    /// Processes of the job that the kernel killed for memory.
    ///
    /// # Errors
    /// Names the file that can't be read.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        // The same key in v1's memory.oom_control (since 4.13) and v2's memory.events.
        self.events.keyed(&self.events.read()?, "oom_kill")
    }
}
