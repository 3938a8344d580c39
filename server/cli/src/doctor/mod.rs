//! `bulkhead doctor`: what this host can do, found out by doing it; and what killed launchers and services left.

mod checks;
mod host;
mod leftovers;
mod machines;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use checks::Check;

/// Say what this host lacks, and why it matters and the fix; or what is left over
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Where the service keeps its data
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA_DIR", default_value = "/var/lib/bulkhead")]
    data_dir: PathBuf,
    /// Directory with the microVM guest's vmlinux and initramfs [default: guest, beside this program]
    #[arg(long, value_name = "DIR", env = "BULKHEAD_GUEST_DIR")]
    guest_dir: Option<PathBuf>,
    /// Look for what killed sandboxes and services left: exit status 1 if there is anything
    #[arg(long)]
    leftovers: bool,
    /// With --leftovers: remove it
    #[arg(long, requires = "leftovers")]
    clean: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command; exit status 1 if something required is missing, or something is left over.
pub(crate) fn run(args: DoctorArgs) -> ExitCode {
    let good = if args.leftovers {
        leftovers::run(&args.data_dir, args.clean, args.json)
    } else {
        let checks = host::examine(&args.data_dir, args.guest_dir.as_deref());
        print(&if args.json { as_json(&checks) } else { as_text(&checks) });
        checks.iter().all(|c| c.ok || !c.required)
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A reader that has gone (`doctor | head`) needs no more.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn as_json(checks: &[Check]) -> String {
    let mut text = serde_json::to_string_pretty(checks).unwrap_or_default();
    text.push('\n');
    text
}

fn as_text(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let state = match (check.ok, check.required) {
            (true, _) => "ok     ",
            (false, true) => "MISSING",
            (false, false) => "absent ",
        };
        text.push_str(&format!("{state}  {:width$}  {}\n", check.name, check.detail));
        if !check.ok {
            text.push_str(&format!("         why: {}\n         fix: {}\n", check.why, check.fix));
        }
    }
    let missing = checks.iter().filter(|c| c.required && !c.ok).count();
    text.push_str(&match missing {
        0 => "This host can run sandboxes.\n".to_owned(),
        n => format!("{n} required {} missing.\n", if n == 1 { "thing is" } else { "things are" }),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_reason_and_fix() {
        let checks = [
            Check::new("kernel", "isolation").found("6.18"),
            Check::new("cgroup memory", "hard memory limits").missing("not mounted", "mount it"),
            Check::new("/dev/kvm", "microVMs").optional().missing("no such file", "load kvm"),
        ];
        let text = as_text(&checks);
        assert!(text.contains("MISSING  cgroup memory  not mounted\n         why: hard memory limits\n         fix: mount it"), "{text}");
        assert!(text.contains("absent   /dev/kvm"), "{text}");
        assert!(text.ends_with("1 required thing is missing.\n"), "{text}");
        let rows: Vec<serde_json::Value> = serde_json::from_str(&as_json(&checks)).expect("an array");
        assert_eq!(rows[1]["ok"], false);
        assert_eq!(rows[2]["required"], false);
    }

    #[test]
    fn this_host_has_what_it_needs() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: this_host_has_what_it_needs: needs root");
            return;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let checks = host::examine(directory.path(), None);
        // The programs lie beside the command, not beside its tests.
        let missing: Vec<_> = checks
            .iter()
            .filter(|c| c.required && !c.ok && !c.name.contains("program") && c.name != "a sandbox")
            .collect();
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
