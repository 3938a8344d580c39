//! `bulkhead sandbox microvm`: a job in a virtual machine of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_sandbox::{MachineStatistics, MicrovmBackend, MicrovmOptions};

use super::job::JobArgs;
use super::{AnyError, run_in};

/// Run a command in a virtual machine
#[derive(Debug, clap::Args)]
pub(super) struct MicrovmArgs {
    #[command(flatten)]
    pub(super) job: JobArgs,
    /// Directory with the guest's vmlinux and initramfs [default: guest, beside this program]
    #[arg(long, value_name = "DIR", env = "BULKHEAD_GUEST_DIR")]
    guest_dir: Option<PathBuf>,
    /// Copy the guest's console to standard error
    #[arg(long)]
    console: bool,
    /// Say on standard error how the machine ran: its start, exits, memory
    #[arg(long)]
    statistics: bool,
}

pub(super) fn run(args: MicrovmArgs) -> Result<ExitCode, AnyError> {
    let MicrovmArgs { job, guest_dir, console, statistics } = args;
    let report = job.report.is_some();
    run_in(job, statistics, |data_dir| {
        let mut options = MicrovmOptions::beside_current_executable(data_dir, guest_dir.as_deref())?;
        options.console = console;
        // The report has them too.
        options.statistics = statistics || report;
        Ok(Box::new(MicrovmBackend::new(options)?))
    })
}

/// What a machine counted, for a person.
pub(super) fn lines(machine: &MachineStatistics) -> Vec<String> {
    let mut lines =
        vec![format!("guest ready {:.3} s after power-on", machine.power_on_to_ready_us as f64 / 1e6)];
    let million = |n: u64| n as f64 / 1e6;
    if let (Some(boot), Some(all)) = (machine.boot_instructions, machine.emulated_instructions) {
        let text = format!(
            "{:.2} million instructions emulated until then, {:.2} in all",
            million(boot),
            million(all)
        );
        lines.push(text);
    }
    lines.push(format!("VMM's own memory {:.1} MiB", machine.own_memory_bytes as f64 / f64::from(1 << 20)));
    let total = |pick: fn(&bulkhead_sandbox::ExitCount) -> u64| machine.exits.iter().map(pick).sum::<u64>();
    lines.push(format!("exits {} until ready, {} in all", total(|e| e.boot), total(|e| e.total)));
    for exit in &machine.exits {
        let device = exit.device.as_deref().map(|d| format!(" {d}")).unwrap_or_default();
        lines.push(format!("  {}{device}: {}, {}", exit.reason, exit.boot, exit.total));
    }
    lines
}

#[cfg(test)]
mod tests {
    use bulkhead_sandbox::ExitCount;

    use super::*;

    #[test]
    fn statistics_are_readable() {
        let exit = ExitCount { reason: "mmio".into(), device: Some("block".into()), boot: 3, total: 5 };
        let machine = MachineStatistics {
            power_on_to_ready_us: 6_100_000,
            boot_instructions: Some(9_870_000),
            emulated_instructions: Some(12_000_000),
            own_memory_bytes: 3 << 20,
            exits: vec![exit],
        };
        assert_eq!(
            lines(&machine),
            [
                "guest ready 6.100 s after power-on",
                "9.87 million instructions emulated until then, 12.00 in all",
                "VMM's own memory 3.0 MiB",
                "exits 3 until ready, 5 in all",
                "  mmio block: 3, 5",
            ]
        );
    }
}
