//! What virtual machines need beyond sentries. All of it is optional: sentries do without.

use std::fs;
use std::path::Path;

use bulkhead_sandbox::microvm::{Device, PROGRAM_NAME, Survey};
use bulkhead_sandbox::{Backend, CreateRequest, MicrovmBackend, MicrovmOptions, chain};
use bulkhead_types::{Limits, SandboxId};

use super::checks::Check;

/// Looks at what there is, and makes a machine up to where its image comes.
pub(super) fn examine(data_dir: &Path, guest_dir: Option<&Path>) -> Vec<Check> {
    let survey = Survey::read();
    let mut checks = vec![processor(&survey), device(&survey), memory(), program()];
    if survey.problem().is_none() {
        checks.push(machine(data_dir, guest_dir));
    }
    checks
}

fn processor(survey: &Survey) -> Check {
    let check = Check::new("virtualisation", "microVMs run at the hardware's speed with it").optional();
    match survey.extension {
        Some(extension) if survey.guest => check.found(format!("nested {}", extension.name())),
        Some(extension) => check.found(extension.name()),
        None if survey.is_software() => check.missing(
            survey.kind(),
            "microVMs work here, and boot in seconds; for more use a machine with vmx or svm, or a virtual one with \
             nested virtualisation",
        ),
        None => {
            let missing = Survey { device: Device::Missing, ..survey.clone() };
            let fix = missing.problem().map(|problem| problem.fix).unwrap_or_default();
            check.missing("neither vmx nor svm in /proc/cpuinfo", fix)
        }
    }
}

fn device(survey: &Survey) -> Check {
    let check = Check::new("/dev/kvm", "microVMs; sentries do without").optional();
    match survey.problem() {
        None => check.found(format!("can be opened: {}", survey.kind())),
        Some(problem) => check.missing(problem.found, problem.fix),
    }
}

fn memory() -> Check {
    let check = Check::new("memory for a microVM", "its kernel needs some beyond the job's").optional();
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    });
    let limit = Limits::default().memory_bytes;
    let needed = limit + bulkhead_sandbox::microvm::OVERHEAD.beside(limit);
    let mib = |bytes: u64| bytes >> 20;
    let available = available.unwrap_or(0) << 10;
    let detail = format!("{} MiB available, a usual one takes {} MiB", mib(available), mib(needed));
    if available >= needed {
        check.found(detail)
    } else {
        check.missing(detail, "free some, or run jobs with a smaller limit")
    }
}

fn program() -> Check {
    let path = std::env::current_exe().unwrap_or_default().with_file_name(PROGRAM_NAME);
    let check = Check::new(format!("program {PROGRAM_NAME}"), "the process of each microVM").optional();
    if path.is_file() {
        check.found(path.display().to_string())
    } else {
        let fix = "install it beside bulkhead (from source: cargo xtask setup)";
        check.missing(format!("{} is not there", path.display()), fix)
    }
}

/// Jail, limits, KVM's machine with its memory, system-call lists: all as for a job, up to its image.
fn machine(data_dir: &Path, guest_dir: Option<&Path>) -> Check {
    let check =
        Check::new("a microVM", "all of the above together: a machine is jailed and ready for an image");
    let tried = MicrovmOptions::beside_current_executable(data_dir, guest_dir)
        .map_err(|e| e.to_string())
        .and_then(|mut options| {
            options.scratch_root = std::env::temp_dir();
            let backend = MicrovmBackend::new(options).map_err(|e| chain(&e))?;
            let started = std::time::Instant::now();
            let request = CreateRequest { id: SandboxId::generate(), limits: Limits::default() };
            drop(backend.create(&request).map_err(|e| chain(&e))?);
            Ok(format!("made and removed in {:.1} ms", started.elapsed().as_secs_f64() * 1000.0))
        });
    check.optional().judged(tried, "see what is missing above")
}

#[cfg(test)]
mod tests {
    use bulkhead_sandbox::microvm::Extension;

    use super::*;

    fn survey(device: Device, extension: Option<Extension>, modules: &[&str]) -> Survey {
        let modules = modules.iter().map(|&m| m.to_owned()).collect();
        Survey { device, extension, guest: true, modules }
    }

    #[test]
    fn software_kvm_is_told_from_none() {
        let software = survey(Device::Usable, None, &["kvm_pvm"]);
        let check = processor(&software);
        assert!(
            !check.ok && check.detail.contains("software") && check.fix.contains("work here"),
            "{check:?}"
        );
        assert!(device(&software).ok);
        let none = survey(Device::Missing, None, &[]);
        assert!(processor(&none).fix.contains("nested") && device(&none).fix.contains("nested"));
        let nested = survey(Device::Usable, Some(Extension::Svm), &["kvm_amd"]);
        assert_eq!(processor(&nested).detail, "nested svm");
    }
}
