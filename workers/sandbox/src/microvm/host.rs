//! Whether this host can run virtual machines: looked up, not guessed, within a millisecond.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// How user space reaches KVM.
pub(super) const DEVICE: &str = "/dev/kvm";

/// What the processor has for virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// Intel's.
    Vmx,
    /// AMD's.
    Svm,
}

impl Extension {
    /// As /proc/cpuinfo calls it.
    pub fn name(self) -> &'static str {
        match self {
            Extension::Vmx => "vmx",
            Extension::Svm => "svm",
        }
    }

    /// KVM's module for it.
    pub fn module(self) -> &'static str {
        match self {
            Extension::Vmx => "kvm_intel",
            Extension::Svm => "kvm_amd",
        }
    }
}

/// What became of opening /dev/kvm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// It can be used.
    Usable,
    /// There is none.
    Missing,
    /// This user may not open it.
    Denied,
    /// Something else, for a person.
    Broken(String),
}

/// What this host has for virtual machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// /dev/kvm.
    pub device: Device,
    /// What the processor shows.
    pub extension: Option<Extension>,
    /// Whether this host is a virtual machine itself.
    pub guest: bool,
    /// KVM's modules that are there: `kvm_intel`, `kvm_amd`, `kvm_pvm`.
    pub modules: Vec<String>,
}

/// What is missing, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What was found.
    pub found: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found, self.fix)
    }
}

impl Survey {
    /// Looks at this host.
    pub fn read() -> Self {
        let device = match fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
            Ok(_) => Device::Usable,
            Err(e) => match e.kind() {
                io::ErrorKind::NotFound => Device::Missing,
                io::ErrorKind::PermissionDenied => Device::Denied,
                // The node is there and nothing is behind it.
                _ => Device::Broken(e.to_string()),
            },
        };
        let modules = ["kvm_intel", "kvm_amd", "kvm_pvm"]
            .into_iter()
            .filter(|name| Path::new("/sys/module").join(name).is_dir())
            .map(str::to_owned)
            .collect();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo.lines().find_map(|l| l.strip_prefix("flags")).unwrap_or_default();
        Self::of(device, flags, modules)
    }

    fn of(device: Device, flags: &str, modules: Vec<String>) -> Self {
        let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
        let extension = match () {
            () if has("vmx") => Some(Extension::Vmx),
            () if has("svm") => Some(Extension::Svm),
            () => None,
        };
        Survey { device, extension, guest: has("hypervisor"), modules }
    }

    /// Whether guests' kernels are emulated, instruction by instruction: slow to boot.
    pub fn is_software(&self) -> bool {
        self.extension.is_none() && self.modules.iter().any(|name| name == "kvm_pvm")
    }

    /// What runs guests here, for a person.
    pub fn kind(&self) -> String {
        let module = self.modules.first().map_or("built into the kernel", String::as_str);
        match (self.extension, self.guest) {
            (None, _) if self.is_software() => {
                format!("{module}: a software KVM that emulates guests' kernels (boots take seconds)")
            }
            (None, _) => format!("{module}, although the processor shows neither vmx nor svm"),
            (Some(extension), true) => format!("{module} with nested {}", extension.name()),
            (Some(extension), false) => format!("{module} with {}", extension.name()),
        }
    }

    /// Why no virtual machine can run here, if none can.
    pub fn problem(&self) -> Option<Problem> {
        let problem = |found: String, fix: String| Some(Problem { found, fix });
        match &self.device {
            Device::Usable => None,
            Device::Denied => problem(
                "/dev/kvm may not be opened by this user".to_owned(),
                "run as root, or join the group that owns it (usermod -aG kvm USER)".to_owned(),
            ),
            Device::Broken(error) => {
                problem(format!("/dev/kvm can't be opened ({error})"), self.how_to_get_a_device())
            }
            Device::Missing => problem("there is no /dev/kvm".to_owned(), self.how_to_get_a_device()),
        }
    }

    fn how_to_get_a_device(&self) -> String {
        match (self.extension, self.guest) {
            (Some(extension), _) if self.modules.is_empty() => format!("modprobe {}", extension.module()),
            (Some(extension), _) => format!(
                "{} is loaded: in a container pass the device on (--device /dev/kvm), else mknod /dev/kvm c 10 232",
                self.modules.first().map_or(extension.module(), String::as_str)
            ),
            (None, true) => "this host is a virtual machine without nested virtualisation: enable it on the machine \
                             below (kvm_intel.nested=1 or kvm_amd.nested=1, processor type host), or use a bare one"
                .to_owned(),
            (None, false) => {
                "the processor shows neither vmx nor svm: enable VT-x or AMD-V in the firmware".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(device: Device, flags: &str, modules: &[&str]) -> Survey {
        Survey::of(device, flags, modules.iter().map(|&m| m.to_owned()).collect())
    }

    #[test]
    fn each_lack_has_its_own_fix() {
        for (host, word) in [
            (host(Device::Missing, ": fpu vmx", &[]), "modprobe kvm_intel"),
            (host(Device::Missing, ": fpu svm hypervisor", &[]), "modprobe kvm_amd"),
            (host(Device::Missing, ": fpu svm", &["kvm_amd"]), "--device /dev/kvm"),
            (host(Device::Missing, ": fpu hypervisor", &[]), "nested"),
            (host(Device::Missing, ": fpu", &[]), "firmware"),
            (host(Device::Denied, ": fpu vmx", &["kvm_intel"]), "group"),
            (host(Device::Broken("no such device".into()), ": fpu vmx", &[]), "modprobe kvm_intel"),
        ] {
            let problem = host.problem().expect("no device").to_string();
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn what_runs_guests_is_named() {
        for (host, want) in [
            (host(Device::Usable, ": vmx", &["kvm_intel"]), "kvm_intel with vmx"),
            (host(Device::Usable, ": svm hypervisor", &["kvm_amd"]), "kvm_amd with nested svm"),
            (host(Device::Usable, ": hypervisor", &["kvm_pvm"]), "kvm_pvm: a software KVM"),
            (host(Device::Usable, ": vmx", &[]), "built into the kernel with vmx"),
        ] {
            assert_eq!(host.problem(), None);
            assert!(host.kind().starts_with(want), "{}", host.kind());
        }
        // vmx alone is no flag of another name.
        assert_eq!(host(Device::Missing, ": vmxnet", &[]).extension, None);
    }
}
