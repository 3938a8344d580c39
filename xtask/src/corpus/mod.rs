//! `cargo xtask corpus`: real programs, each on the host's kernel and in a sentry. Both must end the same, print the
//! same and leave the same files.

mod normal;
mod program;
mod side;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{build, run, setup};
use normal::normal;
use program::Program;
use side::Ran;

/// Differing lines that are printed.
const SHOWN_LINES: usize = 12;
/// System calls that are printed of a program that hangs.
const SHOWN_CALLS: usize = 60;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these programs; without names, all of them.
    names: Vec<String>,
    /// Only those that `cargo xtask test` runs.
    #[arg(long)]
    light: bool,
    /// Runs in the sentry of each program.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// List the programs instead of running them.
    #[arg(long)]
    list: bool,
    /// Take the product as it is, without building it first.
    #[arg(long)]
    built: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut programs = chosen(&arguments.names)?;
    programs.retain(|program| program.light || !arguments.light);
    if arguments.list {
        for program in &programs {
            let weight = if program.light { "light" } else { "heavy" };
            println!("{:<28} {:<10} {weight}", program.name, program.image.name);
        }
        println!("{} programs", programs.len());
        return Ok(());
    }
    if !arguments.built {
        setup::packages()?;
        build::product()?;
    }
    compare_all(&programs, arguments.repeat).map(|_| ())
}

/// Runs the light programs, or all of them; says how many passed.
pub(crate) fn test(all: bool) -> Result<u64> {
    if !run::is_root()? {
        println!("skipped: corpus: not root: neither side can have namespaces of its own");
        return Ok(0);
    }
    let mut programs = program::all()?;
    programs.retain(|program| all || program.light);
    compare_all(&programs, 1)
}

fn chosen(names: &[String]) -> Result<Vec<Program>> {
    let mut programs = program::all()?;
    for name in names {
        if !programs.iter().any(|program| program.name == *name) {
            bail!("there is no program {name:?}: `cargo xtask corpus --list` shows them");
        }
    }
    programs.retain(|program| names.is_empty() || names.contains(&program.name));
    Ok(programs)
}

fn compare_all(programs: &[Program], repeat: u32) -> Result<u64> {
    for program in programs {
        program.image.unpacked()?;
        program.image.stored()?;
    }
    println!("{:<28} {:>9} {:>9} {:>6}", "program", "native", "sentry", "ratio");
    let (mut total, mut failed) = (Duration::ZERO, Vec::new());
    for program in programs {
        let native = side::native(program)?;
        total += native.took;
        for _ in 0..repeat {
            let sentry = side::finish(&mut side::sentry(program)?, program.timeout)?;
            total += sentry.took;
            let differences = differences(&native, &sentry);
            let (name, ratio) = (&program.name, sentry.took.as_secs_f64() / native.took.as_secs_f64());
            let verdict = if differences.is_empty() { "" } else { "  FAILED" };
            println!(
                "{name:<28} {:>7.2} s {:>7.2} s {ratio:>6.2}{verdict}",
                seconds(&native),
                seconds(&sentry)
            );
            if !differences.is_empty() {
                print!("{differences}");
                if sentry.status.is_none() {
                    last_calls(program)?;
                }
                failed.push(name.as_str());
                break;
            }
        }
    }
    let passed = programs.len() - failed.len();
    println!(
        "corpus: {passed} of {} programs are as on Linux, in {:.1} s",
        programs.len(),
        total.as_secs_f64()
    );
    if !failed.is_empty() {
        bail!("not as on Linux: {}", failed.join(", "));
    }
    Ok(passed as u64)
}

fn seconds(ran: &Ran) -> f64 {
    ran.took.as_secs_f64()
}

/// What differs between the two runs, for a person to read; nothing if they are equal.
fn differences(native: &Ran, sentry: &Ran) -> String {
    let mut text = String::new();
    let status = |ran: &Ran| match ran.status {
        Some(status) => status.to_string(),
        None => "none: it hung".to_owned(),
    };
    if native.status != sentry.status || native.status.is_none() {
        text += &format!("    status: native {}, sentry {}\n", status(native), status(sentry));
    }
    for (name, native, sentry) in
        [("stdout", &native.stdout, &sentry.stdout), ("stderr", &native.stderr, &sentry.stderr)]
    {
        let (native, sentry) = (normal(native), normal(sentry));
        if native != sentry {
            text += &format!("    {name}:\n{}", lines(&native, &sentry));
        }
    }
    text
}

/// The first lines that differ, `-` for the native side's and `+` for the sentry's.
fn lines(native: &str, sentry: &str) -> String {
    let (native, sentry): (Vec<&str>, Vec<&str>) = (native.lines().collect(), sentry.lines().collect());
    let same = native.iter().zip(&sentry).take_while(|(a, b)| a == b).count();
    let tail =
        native[same..].iter().rev().zip(sentry[same..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    for (sign, lines) in [('-', &native), ('+', &sentry)] {
        for line in lines[same..lines.len() - tail].iter().take(SHOWN_LINES) {
            text += &format!("    {sign} {}\n", line.trim_end());
        }
    }
    if text.is_empty() { "    only in line ends\n".to_owned() } else { text }
}

/// Runs a program that hung once more, and prints the calls that it made last.
fn last_calls(program: &Program) -> Result<()> {
    let mut command = side::sentry_with(program, &["--log-calls"])?;
    let again = side::finish(&mut command, program.timeout)?;
    let text = String::from_utf8_lossy(&again.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let outcome = if again.status.is_some() { "ended this time" } else { "hung again" };
    println!("    once more with its calls: it {outcome}; the last ones:");
    for line in &lines[lines.len().saturating_sub(SHOWN_CALLS)..] {
        println!("    {line}");
    }
    Ok(())
}
