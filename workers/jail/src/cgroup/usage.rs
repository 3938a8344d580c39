//! What a sandbox has used: read from descriptors that are opened once, so that a poll costs a few microseconds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CgroupError, files};

/// A reading of a sandbox's groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of job and sentry, exact.
    pub cpu: Duration,
    /// How much of it was in user mode; on v1 counted in ticks, so good for the proportion only.
    pub cpu_user: Duration,
    /// How much of it was in the kernel; as `cpu_user`.
    pub cpu_system: Duration,
    /// Memory of the job now, in bytes.
    pub memory_bytes: u64,
    /// Highest memory of the job, in bytes. On kernels without `memory.peak` (v2 before 5.19) the current one.
    pub memory_peak_bytes: u64,
    /// Processes of the job that the kernel killed for memory.
    pub oom_kills: u64,
    /// 1 if the kernel killed the sentry for memory: what the job made it hold went over the sandbox's total.
    pub sentry_oom_kills: u64,
}

impl Usage {
    /// User and system time since `before`: the exact total, split in proportion to the ticks.
    pub fn cpu_since(&self, before: &Usage) -> (Duration, Duration) {
        let total = self.cpu.saturating_sub(before.cpu);
        let user = self.cpu_user.saturating_sub(before.cpu_user).as_nanos();
        let ticks = user + self.cpu_system.saturating_sub(before.cpu_system).as_nanos();
        // Shorter than a tick: nothing is known of the proportion.
        let share = total.as_nanos().saturating_mul(user).checked_div(ticks).unwrap_or(total.as_nanos());
        let user = Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX)).min(total);
        (user, total - user)
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
    V1 { total: Source, user: Source, system: Source },
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
    sentry_events: Source,
}

impl Meter {
    pub(super) fn open_v1(memory: &Path, cpuacct: &Path, counted: &str) -> Result<Self, CgroupError> {
        let job = memory.join(counted);
        Ok(Meter {
            cpu: Cpu::V1 {
                total: Source::open(cpuacct.join("cpuacct.usage"))?,
                user: Source::open(cpuacct.join("cpuacct.usage_user"))?,
                system: Source::open(cpuacct.join("cpuacct.usage_sys"))?,
            },
            current: Source::open(job.join("memory.usage_in_bytes"))?,
            peak: Some(Source::open(job.join("memory.max_usage_in_bytes"))?),
            events: Source::open(job.join("memory.oom_control"))?,
            sentry_events: Source::open(memory.join("sentry/memory.oom_control"))?,
        })
    }

    pub(super) fn open_v2(group: &Path, counted: &str) -> Result<Self, CgroupError> {
        let job = group.join(counted);
        Ok(Meter {
            cpu: Cpu::V2 { stat: Source::open(group.join("cpu.stat"))? },
            current: Source::open(job.join("memory.current"))?,
            peak: Source::open(job.join("memory.peak")).ok(),
            events: Source::open(job.join("memory.events"))?,
            sentry_events: Source::open(group.join("sentry/memory.events"))?,
        })
    }

    /// CPU time of job and sentry so far, exact.
    ///
    /// # Errors
    /// Names the file that can't be read.
    pub fn cpu(&self) -> Result<Duration, CgroupError> {
        match &self.cpu {
            Cpu::V1 { total, .. } => Ok(Duration::from_nanos(total.number()?)),
            Cpu::V2 { stat } => Ok(Duration::from_micros(stat.keyed(&stat.read()?, "usage_usec")?)),
        }
    }

    fn cpu_parts(&self) -> Result<(Duration, Duration), CgroupError> {
        match &self.cpu {
            Cpu::V1 { user, system, .. } => {
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
        let (cpu_user, cpu_system) = self.cpu_parts()?;
        let memory_bytes = self.current.number()?;
        let memory_peak_bytes = match &self.peak {
            Some(peak) => peak.number()?,
            None => memory_bytes,
        };
        Ok(Usage {
            cpu: self.cpu()?,
            cpu_user,
            cpu_system,
            memory_bytes,
            memory_peak_bytes,
            oom_kills: oom_kills(&self.events)?,
            sentry_oom_kills: oom_kills(&self.sentry_events)?,
        })
    }
}

fn oom_kills(events: &Source) -> Result<u64, CgroupError> {
    // The same key in v1's memory.oom_control (since 4.13) and v2's memory.events.
    events.keyed(&events.read()?, "oom_kill")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_exact_and_its_split_proportional() {
        let ms = Duration::from_millis;
        let before = Usage { cpu: ms(100), cpu_user: ms(50), cpu_system: ms(40), ..Usage::default() };
        let after = Usage { cpu: ms(200), cpu_user: ms(80), cpu_system: ms(50), ..before };
        assert_eq!(after.cpu_since(&before), (ms(75), ms(25)));
        let short = Usage { cpu: ms(103), ..before };
        assert_eq!(short.cpu_since(&before), (ms(3), ms(0)));
        assert_eq!(before.cpu_since(&after), (ms(0), ms(0)));
    }
}
