//! The needs, each tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_jail::cgroup::{GroupLimits, Hierarchy, SandboxGroups, Survey};
use bulkhead_jail::probe;
use bulkhead_sandbox::{
    Backend, CreateRequest, PROGRAM_NAME, SandboxError, SentryBackend, SentryOptions, chain,
};
use bulkhead_types::{Limits, SandboxId};

use super::checks::Check;
use super::machines;

/// Oldest kernel with everything that the sentry can't do without (seccomp ADDFD with flags, cgroup.kill, close_range).
const KERNEL_LEAST: (u32, u32) = (5, 14);
/// From here on a notified call wakes its server on the same core.
const KERNEL_GOOD: (u32, u32) = (6, 6);
/// Bytes; room for a few images and what jobs write.
const DISK_LEAST: u64 = 2 << 30;
/// The image converter's executable.
const CONVERTER_NAME: &str = "bulkhead-convert";
/// Where Debian keeps PostgreSQL's server programs, by version.
const POSTGRES_DEBIAN: &str = "/usr/lib/postgresql";

/// Looks at everything; takes some tens of milliseconds.
pub(super) fn examine(data_dir: &Path, guest_dir: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![privilege(), kernel(), processor()];
    checks.extend(seccomp());
    checks.push(remote_memory());
    checks.extend(namespaces());
    checks.extend(controllers());
    checks.push(groups());
    checks.extend(programs());
    checks.push(sandbox(data_dir));
    checks.push(disk(data_dir));
    checks.push(postgres());
    checks.extend(machines::examine(&existing(data_dir), guest_dir));
    checks
}

fn privilege() -> Check {
    let check = Check::new("root", "each sandbox gets namespaces, control groups and a host uid of its own");
    if rustix::process::geteuid().is_root() {
        check.found("uid 0")
    } else {
        check.missing(
            format!("uid {}", rustix::process::geteuid().as_raw()),
            "run as root (sudo bulkhead ...)",
        )
    }
}

fn kernel() -> Check {
    let check = Check::new("kernel", "the sentry is built on seccomp user notification and close_range");
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = parse_version(&release);
    if version >= KERNEL_LEAST {
        check.found(release)
    } else {
        let (major, minor) = KERNEL_LEAST;
        check.missing(
            release,
            format!("boot Linux {major}.{minor} or newer, better {}.{}", KERNEL_GOOD.0, KERNEL_GOOD.1),
        )
    }
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn processor() -> Check {
    let check = Check::new("processor", "guest threads switch their FS and GS bases without a system call");
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    if cfg!(target_arch = "x86_64") && flags.split_whitespace().any(|f| f == "fsgsbase") {
        let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
        check.found(format!("x86-64 with fsgsbase ({})", name.map_or("unnamed", |(_, n)| n.trim())))
    } else {
        check.missing(
            "no fsgsbase",
            "use an x86-64 processor from 2013 on (Ivy Bridge, Zen), without nofsgsbase",
        )
    }
}

fn seccomp() -> [Check; 2] {
    let found = probe::notification();
    let works = Check::new("seccomp notification", "every system call of a job reaches the sentry this way").judged(
        found.works.map(|()| "a call was received and answered".to_owned()),
        "use a kernel with CONFIG_SECCOMP_FILTER; inside another sandbox or container, run with seccomp=unconfined",
    );
    let wake =
        Check::new("seccomp SYNC_WAKE_UP", "without it each system call of a job takes 44 us instead of 4")
            .optional()
            .judged(
                found.sync_wake_up.map(|()| "calls wake their server on the same core".to_owned()),
                "boot Linux 6.6 or newer",
            );
    [works, wake]
}

fn remote_memory() -> Check {
    let check = Check::new("process_vm_readv", "the sentry reads and writes the memory of its own stubs");
    match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) if matches!(scope.trim(), "2" | "3") => check.missing(
            format!("kernel.yama.ptrace_scope is {}", scope.trim()),
            "sysctl kernel.yama.ptrace_scope=1 (3 needs a reboot)",
        ),
        Ok(scope) => {
            check.found(format!("kernel.yama.ptrace_scope is {}, which allows descendants", scope.trim()))
        }
        Err(_) => check.found("no Yama"),
    }
}

fn namespaces() -> Vec<Check> {
    probe::namespaces()
        .into_iter()
        .map(|(name, result)| {
            let fix = match name {
                "user" => "sysctl user.max_user_namespaces=100000, and a kernel with CONFIG_USER_NS",
                _ => "run as root outside of a container without CAP_SYS_ADMIN; raise user.max_*_namespaces",
            };
            Check::new(format!("{name} namespace"), "a sandbox sees nothing of the host")
                .judged(result.map(|()| "can be made".to_owned()), fix)
        })
        .collect()
}

fn controllers() -> Vec<Check> {
    let survey = match Survey::read() {
        Ok(survey) => survey,
        Err(error) => {
            let fix = "mount /proc and the control groups (mount -t cgroup2 none /sys/fs/cgroup)";
            return vec![Check::new("control groups", "hard limits").missing(chain(&error), fix)];
        }
    };
    survey
        .states()
        .into_iter()
        .map(|state| {
            let check = Check::new(format!("cgroup {}", state.controller), state.controller.purpose());
            match (state.place, state.fix) {
                (Some(place), _) => check.found(place.display().to_string()),
                (None, fix) => check.missing("not available", fix.unwrap_or_default()),
            }
        })
        .collect()
}

/// Makes a sandbox's groups with all their limits, and removes them.
fn groups() -> Check {
    let check = Check::new("cgroup limits", "a job whose limits can't be enforced does not start");
    let limits = GroupLimits {
        memory_bytes: 64 << 20,
        reserve_bytes: 16 << 20,
        cpu_milli: 500,
        job_tasks: 16,
        sentry_tasks: 16,
    };
    let name = format!("doctor-{}", std::process::id());
    let tried = Hierarchy::detect().and_then(|hierarchy| {
        let groups = SandboxGroups::create(&hierarchy, &name, &limits)?;
        groups.meter()?.read()?;
        groups.remove(Duration::from_secs(2))?;
        let root = hierarchy.roots().first().map(|r| r.display().to_string()).unwrap_or_default();
        Ok(format!("set and removed below {root} ({})", hierarchy.version()))
    });
    let fix =
        "run as root; in a container mount the control groups writable, in a systemd unit set Delegate=yes";
    check.judged(tried.map_err(|e| chain(&e)), fix)
}

fn programs() -> [Check; 2] {
    [
        (PROGRAM_NAME, "the kernel of each sandbox"),
        (CONVERTER_NAME, "images are made by it, in a jail of its own"),
    ]
    .map(|(name, why)| {
        let path = std::env::current_exe().unwrap_or_default().with_file_name(name);
        let check = Check::new(format!("program {name}"), why);
        if path.is_file() {
            check.found(path.display().to_string())
        } else {
            check.missing(
                format!("{} is not there", path.display()),
                "install it beside bulkhead (from source: cargo xtask setup)",
            )
        }
    })
}

/// Starts a sentry to where it waits for its job: jail, limits, seccomp, stubs, all as for a job.
fn sandbox(data_dir: &Path) -> Check {
    let check = Check::new("a sandbox", "all of the above together: a sentry is jailed and ready for a job");
    let tried = SentryOptions::beside_current_executable(&existing(data_dir))
        .map_err(|e| e.to_string())
        .and_then(|options| SentryBackend::new(temporary(options)).map_err(|e| chain(&e)))
        .and_then(|backend| {
            let started = std::time::Instant::now();
            let request = CreateRequest { id: SandboxId::generate(), limits: Limits::default() };
            let sandbox = backend.create(&request).map_err(|e: SandboxError| chain(&e))?;
            let took = started.elapsed();
            drop(sandbox);
            Ok(format!("ready in {:.1} ms", took.as_secs_f64() * 1000.0))
        });
    check.judged(tried, "see what is missing above")
}

/// A doctor leaves no scratch directory in a data directory that was not there.
fn temporary(mut options: SentryOptions) -> SentryOptions {
    options.scratch_root = std::env::temp_dir();
    options
}

fn disk(data_dir: &Path) -> Check {
    let place = existing(data_dir);
    let check = Check::new("disk", "images, blobs and what jobs write");
    match rustix::fs::statvfs(&place) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let detail = format!("{:.1} GiB free in {}", free as f64 / (1u64 << 30) as f64, place.display());
            if free >= DISK_LEAST {
                check.found(detail)
            } else {
                check.missing(detail, "free some space, or choose another --data-dir")
            }
        }
        Err(error) => check.missing(format!("{}: {error}", place.display()), "choose another --data-dir"),
    }
}

/// The nearest directory that exists.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute.ancestors().find(|p| p.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

fn postgres() -> Check {
    let check = Check::new(
        "PostgreSQL",
        "bulkhead serve runs its own private one, unless --database-url names another",
    )
    .optional();
    let has = |dir: &Path| dir.join("postgres").is_file() && dir.join("initdb").is_file();
    let by_version =
        fs::read_dir(POSTGRES_DEBIAN).into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let found = by_version.chain(std::env::split_paths(&on_path)).find(|dir| has(dir));
    match found {
        Some(dir) => check.found(dir.display().to_string()),
        None => check.missing(
            format!("no postgres and initdb in {POSTGRES_DEBIAN}/*/bin or PATH"),
            "apt-get install postgresql (cargo xtask setup does, without Debian's automatic cluster)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        assert_eq!(parse_version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(parse_version("5.14"), (5, 14));
        assert_eq!(parse_version("x"), (0, 0));
    }

    #[test]
    fn the_nearest_directory_is_judged() {
        assert_eq!(existing(Path::new("/proc/self/nowhere/at/all")), PathBuf::from("/proc/self"));
    }
}
