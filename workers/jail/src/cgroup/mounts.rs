//! What the host has mounted: read from /proc, judged without touching anything.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::{CgroupError, Version};

/// A controller that the service needs. `Freezer` and `CpuAcct` are part of the unified hierarchy itself in v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Hard memory limit, peak, OOM events.
    Memory,
    /// CPU quota.
    Cpu,
    /// CPU time used.
    CpuAcct,
    /// Number of processes.
    Pids,
    /// Stops all of a sandbox at once, so that it can be killed without a race.
    Freezer,
}

impl Controller {
    /// All, in the order in which groups are made.
    pub const ALL: [Controller; 5] =
        [Controller::Memory, Controller::Cpu, Controller::CpuAcct, Controller::Pids, Controller::Freezer];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::CpuAcct => "cpuacct",
            Controller::Pids => "pids",
            Controller::Freezer => "freezer",
        }
    }

    /// What the service can't do without it.
    pub fn purpose(self) -> &'static str {
        match self {
            Controller::Memory => "hard memory limits and their peaks",
            Controller::Cpu => "cpu quotas",
            Controller::CpuAcct => "cpu time limits and accounting",
            Controller::Pids => "limits on processes and threads",
            Controller::Freezer => "killing a sandbox without a race",
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// In v2 these two come with every group.
    fn built_into_v2(self) -> bool {
        matches!(self, Controller::CpuAcct | Controller::Freezer)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One line for `doctor`.
#[derive(Debug, Clone)]
pub struct ControllerState {
    /// Which controller.
    pub controller: Controller,
    /// Where it was found, if it was.
    pub place: Option<PathBuf>,
    /// What the operator can do, if it was not.
    pub fix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Path of the group that is the mount's root, in the hierarchy.
    pub(super) root: String,
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// Controllers of a v1 mount; for v2 those in its root's cgroup.controllers.
    pub(super) controllers: Vec<Controller>,
    /// This process's own group, below `root`, as a relative path.
    pub(super) own: PathBuf,
}

/// The control groups of this host as found in /proc.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    pub(super) v1: Vec<Mount>,
    pub(super) v2: Option<Mount>,
}

impl Survey {
    /// Reads /proc/self/mountinfo, /proc/self/cgroup and the v2 root's controllers.
    ///
    /// # Errors
    /// If /proc can't be read.
    pub fn read() -> Result<Self, CgroupError> {
        let get = |path| read(path).map_err(|source| CgroupError::Survey { path, source });
        let mut survey = Self::parse(&get("/proc/self/mountinfo")?, &get("/proc/self/cgroup")?);
        if let Some(v2) = &mut survey.v2 {
            let text = fs::read_to_string(v2.point.join("cgroup.controllers")).unwrap_or_default();
            v2.controllers = text.split_whitespace().filter_map(Controller::by_name).collect();
        }
        Ok(survey)
    }

    /// The pure part of [`Survey::read`].
    fn parse(mountinfo: &str, own_groups: &str) -> Self {
        let mut survey = Survey::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(root), Some(point), Some(kind)) = (left.get(3), left.get(4), right.first()) else {
                continue;
            };
            let options = right.get(2).copied().unwrap_or_default();
            let mut mount = Mount {
                root: unescape(root),
                point: PathBuf::from(unescape(point)),
                controllers: Vec::new(),
                own: PathBuf::new(),
            };
            match *kind {
                "cgroup2" if survey.v2.is_none() => {
                    mount.own = own_group(own_groups, "", &mount.root);
                    survey.v2 = Some(mount);
                }
                "cgroup" => {
                    mount.controllers = options.split(',').filter_map(Controller::by_name).collect();
                    if let Some(first) = mount.controllers.first() {
                        mount.own = own_group(own_groups, first.name(), &mount.root);
                        survey.v1.push(mount);
                    }
                }
                _ => {}
            }
        }
        survey
    }

    /// Where `controller` is mounted as v1.
    pub(super) fn v1_mount(&self, controller: Controller) -> Option<&Mount> {
        self.v1.iter().find(|m| m.controllers.contains(&controller))
    }

    fn v2_has(&self, controller: Controller) -> bool {
        self.v2.as_ref().is_some_and(|m| controller.built_into_v2() || m.controllers.contains(&controller))
    }

    fn version(&self) -> Version {
        // A v2 mount without controllers beside v1 ones is systemd's hybrid layout: the limits are in v1 there.
        let all_v2 = Controller::ALL.into_iter().all(|c| self.v2_has(c));
        if all_v2 || self.v1.is_empty() { Version::V2 } else { Version::V1 }
    }

    /// Which interface to use.
    ///
    /// # Errors
    /// [`CgroupError::Missing`] if neither has everything.
    pub(super) fn chosen(&self) -> Result<Version, CgroupError> {
        match self.states().into_iter().find_map(|s| s.fix.map(|fix| (s.controller, fix))) {
            Some((controller, fix)) => Err(CgroupError::Missing { controller, fix }),
            None => Ok(self.version()),
        }
    }

    /// Every controller, found or not, with the fix.
    pub fn states(&self) -> Vec<ControllerState> {
        let version = self.version();
        Controller::ALL
            .into_iter()
            .map(|controller| {
                let place = match version {
                    Version::V1 => self.v1_mount(controller).map(|m| m.point.clone()),
                    Version::V2 if self.v2_has(controller) => self.v2.as_ref().map(|m| m.point.clone()),
                    Version::V2 => None,
                };
                let fix = place.is_none().then(|| missing_fix(controller, version, self.v2.is_some()));
                ControllerState { controller, place, fix }
            })
            .collect()
    }
}

/// Reads a file of /proc, whose size is told as zero: in few large parts instead of many that double.
fn read(path: &str) -> io::Result<String> {
    /// Bytes; most machines' mount tables fit.
    const USUAL: usize = 32 * 1024;
    let mut text = String::with_capacity(USUAL);
    fs::File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

fn missing_fix(controller: Controller, version: Version, v2_mounted: bool) -> String {
    match version {
        Version::V1 => format!(
            "mkdir /sys/fs/cgroup/{controller} && mount -t cgroup -o {controller} {controller} /sys/fs/cgroup/{controller}, \
             or boot with systemd.unified_cgroup_hierarchy=1"
        ),
        Version::V2 if v2_mounted => format!(
            "the unified hierarchy here has no {controller}: boot without cgroup_disable={controller}, or, inside a container or \
             a systemd unit, delegate it (Delegate={controller})"
        ),
        Version::V2 => "mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
    }
}

/// This process's group of one hierarchy, relative to the mount's root; empty if it lies outside of it.
fn own_group(own_groups: &str, controller: &str, mount_root: &str) -> PathBuf {
    let path = own_groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        names.split(',').any(|n| n == controller).then_some(path)
    });
    let Some(path) = path else { return PathBuf::new() };
    Path::new(path)
        .strip_prefix(mount_root)
        .ok()
        // In a cgroup namespace groups outside of it show as /.. paths.
        .filter(|p| !p.components().any(|c| matches!(c, std::path::Component::ParentDir)))
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
39 31 0:36 / /sys/fs/cgroup/pi\\040ds rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    const OWN: &str = "8:pids:/\n4:memory:/docker/abc/worker\n2:cpu,cpuacct:/a\n0::/init.scope\n";

    #[test]
    fn hybrid_hosts_use_v1() {
        let s = Survey::parse(HYBRID, OWN);
        assert_eq!(s.chosen().expect("all there"), Version::V1);
        let memory = s.v1_mount(Controller::Memory).expect("mounted");
        assert_eq!(memory.own, Path::new("worker"));
        assert_eq!(
            s.v1_mount(Controller::Cpu).map(|m| &m.point),
            s.v1_mount(Controller::CpuAcct).map(|m| &m.point)
        );
        assert_eq!(
            s.v1_mount(Controller::Pids).map(|m| m.point.clone()),
            Some("/sys/fs/cgroup/pi ds".into())
        );
        assert_eq!(s.v2.as_ref().map(|m| m.own.clone()), Some("init.scope".into()));
    }

    #[test]
    fn a_missing_controller_is_named_with_its_fix() {
        let without: String = HYBRID.lines().filter(|l| !l.contains("pids")).collect::<Vec<_>>().join("\n");
        match Survey::parse(&without, OWN).chosen() {
            Err(CgroupError::Missing { controller: Controller::Pids, fix }) => {
                assert!(fix.contains("mount -t cgroup -o pids"), "{fix}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unified_hosts_use_v2_when_it_has_all() {
        let mut s =
            Survey::parse("29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate", "0::/x\n");
        assert!(matches!(s.chosen(), Err(CgroupError::Missing { controller: Controller::Memory, .. })));
        if let Some(v2) = &mut s.v2 {
            v2.controllers = vec![Controller::Memory, Controller::Cpu, Controller::Pids];
        }
        assert_eq!(s.chosen().expect("all there"), Version::V2);
    }

    #[test]
    fn nothing_mounted_is_an_error_with_a_fix() {
        assert!(matches!(Survey::parse("", "").chosen(), Err(CgroupError::Missing { .. })));
    }

    #[test]
    fn odd_lines_never_panic() {
        for text in
            ["\\", "a - ", " - cgroup2", "1 2 3 4 \\04 - cgroup x cpu", "\u{e9}\\1\u{e9} - cgroup2 a b"]
        {
            let _ = Survey::parse(text, ":\n::\nx");
        }
        assert_eq!(unescape("a\\134b\\"), "a\\b\\");
    }
}
