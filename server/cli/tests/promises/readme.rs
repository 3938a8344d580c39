//! The README's tour does what the README says.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{alone, debian, skipped};

/// The section whose `console` blocks are run.
const SECTION: &str = "## A five-minute tour";
/// In the README: any text.
const ELLIPSIS: char = '…';
/// Printed between commands, so that what each printed can be told apart.
const MARK: &str = "@@tour@@";

struct Step {
    command: String,
    /// Lines that the README shows beneath it.
    shows: Vec<String>,
}

/// The commands of the section, in order. A command goes on in the next line after a backslash.
fn steps(readme: &str) -> Vec<Step> {
    let section = readme.split(SECTION).nth(1).expect("the README has a tour");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    let blocks = section.split("```console\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    for line in blocks.flat_map(str::lines) {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_owned(), shows: Vec::new() }),
            (None, Some(step)) if step.command.ends_with('\\') => {
                step.command.push('\n');
                step.command.push_str(line);
            }
            (None, Some(step)) => step.shows.push(line.to_owned()),
            (None, None) => panic!("the tour begins with output: {line}"),
        }
    }
    steps
}

/// The script: each command as it stands, then a mark with its status.
fn script(steps: &[Step], image: &Path) -> String {
    // Whatever goes wrong, the service that the tour starts ends with it.
    let mut script = "exec 2>&1\ntrap 'kill $(jobs -p) 2> /dev/null; wait' EXIT\n".to_owned();
    for step in steps {
        let command = if step.command.starts_with("cargo xtask image") {
            // The same without building the product, which is what is being tested.
            format!("bulkhead image import --name demo {} > /dev/null", image.display())
        } else {
            step.command.clone()
        };
        // A comment at its end must not swallow what follows.
        writeln!(script, "{command}\nprintf '\\n{MARK} %s\\n' $?").expect("a string");
        if command.contains("&\n") || command.trim_end().ends_with('&') {
            script.push_str("until [ -e \"$BULKHEAD_DATA_DIR/client.json\" ]; do sleep 0.1; done\n");
        }
    }
    script
}

/// Whether a line is what the README shows, where an ellipsis stands for anything.
fn is_like(line: &str, shown: &str) -> bool {
    let mut parts = shown.split(ELLIPSIS);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut open = false;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = part.is_empty();
    }
    rest.is_empty() || open
}

fn check(step: &Step, printed: &str, status: &str) -> Result<(), String> {
    // A refusal is shown as the program says it.
    let refused = step.shows.last().is_some_and(|line| line.starts_with("bulkhead: "));
    if (status == "0") == refused {
        return Err(format!("status {status}"));
    }
    let lines: Vec<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
    let mut at = 0;
    for shown in &step.shows {
        match lines[at..].iter().position(|line| is_like(line, shown)) {
            Some(found) => at += found + 1,
            None => return Err(format!("it did not print {shown:?}")),
        }
    }
    Ok(())
}

#[test]
fn the_tour_works_as_it_is_written() {
    if skipped("the_tour_works_as_it_is_written") {
        return;
    }
    let Some(image) = debian() else {
        println!("skipped: the_tour_works_as_it_is_written: BULKHEAD_TEST_IMAGE names no image");
        return;
    };
    // `doctor --leftovers` looks at the whole host.
    let _host = alone();
    let readme =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).expect("README.md");
    let steps = steps(&readme);
    assert!(steps.len() >= 10, "the tour has {} commands", steps.len());
    let folder = tempfile::Builder::new().prefix("bulkhead-tour.").tempdir_in("/var/tmp").expect("a folder");
    let data = folder.path().join("data");
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("chmod");
    let bin = Path::new(env!("CARGO_BIN_EXE_bulkhead")).parent().expect("a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    // A network of its own: the tour listens on the default ports.
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "bash", "-c"]);
    unshare.arg(format!("ip link set lo up\n{}", script(&steps, &image)));
    unshare.current_dir(folder.path()).env("PATH", path).env("BULKHEAD_DATA_DIR", &data);
    let output = unshare.output().expect("unshare runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parts = printed.split(MARK);
    let mut said = parts.next().unwrap_or_default();
    for step in &steps {
        let part = parts.next().unwrap_or_else(|| panic!("the tour ended at {:?}:\n{printed}", step.command));
        let (status, rest) = part.split_once('\n').unwrap_or((part, ""));
        if let Err(why) = check(step, said, status.trim()) {
            panic!("{}\n{why}; it printed:\n{said}\nThe whole tour:\n{printed}", step.command);
        }
        said = rest;
    }
}

#[test]
fn an_ellipsis_stands_for_anything() {
    for (line, shown, like) in [
        ("tenants/acme", "tenants/acme", true),
        ("tenants/acme2", "tenants/acme", false),
        ("job 12 ended", "job … ended", true),
        ("job 12", "job …", true),
        ("job 12 ended late", "job … ended", false),
        ("other", "job …", false),
    ] {
        assert_eq!(is_like(line, shown), like, "{line} {shown}");
    }
}
