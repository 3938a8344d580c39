//! A sandbox from nothing: exec of the command to its exit, limits and seccomp on, as in a job.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::contender::{Contender, Place};
use super::row::{Row, median};
use super::{idle, phases};
use crate::{image, run};

struct Program {
    name: &'static str,
    argv: &'static [&'static str],
    prints: &'static str,
    /// In milliseconds.
    goal: f64,
}

/// The row that says what a sandbox costs by itself.
pub(super) const COLD: &str = "cold true";

/// What a cold sandbox may cost by the sentry's own goals, in milliseconds.
const SENTRY_GOAL: f64 = 8.0;

const PROGRAMS: [Program; 2] = [
    Program { name: COLD, argv: &["/bin/true"], prints: "", goal: 10.0 },
    Program {
        name: "cold python3 hello",
        argv: &["/usr/bin/python3", "-c", "print('hello')"],
        prints: "hello",
        goal: 60.0,
    },
];

/// A temporary folder that goes when it is dropped.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new(what: &str) -> Result<Self> {
        let path = PathBuf::from(format!("/var/tmp/bulkhead-bench-{what}.{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} can't be removed: {error}", self.0.display());
        }
    }
}

/// Measures every contender, interleaved, `runs` times each.
pub(super) fn measure(runs: usize) -> Result<Vec<Row>> {
    let folder = Folder::new("start")?;
    let place = place(&folder)?;
    let mut rows = Vec::new();
    for program in &PROGRAMS {
        let measured = program.rows(&place, runs)?;
        if program.name == COLD {
            rows.extend(measured.iter().map(in_sentry_table));
        }
        rows.extend(measured);
        if program.name == COLD {
            rows.extend(phases::measure(&place, program.argv, runs)?);
        }
    }
    rows.extend(idle::measure(&place)?);
    Ok(rows)
}

/// The rows of the sentry's own table: `cold_true`, `idle_pss`, `idle_cpu`.
pub(super) fn sentry_rows(runs: usize) -> Result<Vec<Row>> {
    let folder = Folder::new("start")?;
    let place = place(&folder)?;
    let mut rows: Vec<Row> = PROGRAMS[0].rows(&place, runs)?.iter().map(in_sentry_table).collect();
    rows.extend(idle::measure(&place)?.into_iter().filter(|row| row.name.starts_with("idle_")));
    Ok(rows)
}

/// The same figures under the name and the goal of the sentry's own table.
fn in_sentry_table(row: &Row) -> Row {
    Row { name: "cold_true".to_owned(), goal: Some(SENTRY_GOAL), ..row.clone() }
}

fn place(folder: &Folder) -> Result<Place> {
    let place =
        Place { root: folder.0.join("root"), scratch: folder.0.join("scratch"), data: folder.0.join("data") };
    for path in [&place.root, &place.scratch, &place.data] {
        fs::create_dir(path).with_context(|| format!("{} can't be made", path.display()))?;
    }
    run::checked(Command::new("tar").arg("-xpf").arg(image::archive()?).arg("-C").arg(&place.root))?;
    image::import(&place.data)?;
    Ok(place)
}

impl Program {
    fn rows(&self, place: &Place, runs: usize) -> Result<Vec<Row>> {
        let mut missing = Vec::new();
        let mut peers = Vec::new();
        for peer in Contender::PEERS {
            // The first run also warms the peer's files.
            match peer.time(place, self.argv, 0, self.prints) {
                Ok(_) => peers.push(peer),
                Err(error) => missing.push(self.row(peer, None, None, None, &format!("missing: {error:#}"))),
            }
        }
        let everyone: Vec<Contender> =
            [Contender::Native, Contender::Ours].into_iter().chain(peers).collect();
        let mut times = vec![Vec::with_capacity(runs); everyone.len()];
        for round in 1..=runs {
            for (contender, times) in everyone.iter().zip(&mut times) {
                times.push(contender.time(place, self.argv, round, self.prints)?);
            }
        }
        let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
        let note = format!("median of {runs}; exec to exit");
        let measured = everyone.iter().zip(&medians).skip(2);
        let mut rows: Vec<Row> = measured
            .map(|(peer, time)| self.row(*peer, Some(medians[1]), Some(medians[0]), Some(*time), &note))
            .collect();
        rows.extend(missing.into_iter().map(|row| Row {
            ours: Some(medians[1]),
            native: Some(medians[0]),
            ..row
        }));
        Ok(rows)
    }

    fn row(
        &self,
        peer: Contender,
        ours: Option<f64>,
        native: Option<f64>,
        time: Option<f64>,
        note: &str,
    ) -> Row {
        Row {
            name: self.name.to_owned(),
            unit: "ms",
            ours,
            native,
            peer: time,
            peer_name: Some(peer.name().to_owned()),
            ratio: time.zip(ours).map(|(peer, ours)| peer / ours),
            goal: Some(self.goal),
            note: note.to_owned(),
        }
    }
}
