//! The sentry beside no sandbox at all and beside its peers: single operations and whole programs.

mod load;
mod micro;
mod party;
mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use super::row::Row;
use super::start::{self, Folder};
use crate::{image, run};
use party::{Party, Place};

/// The rows that are to be measured; all of them if none is named.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wanted {
    /// With `sentry`: only these rows, by their names, with commas between them.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
}

impl Wanted {
    fn wants(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| row == name)
    }
}

/// The unit of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Nanoseconds,
    Milliseconds,
    PerSecond,
    Share,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::PerSecond => "1/s",
            Self::Share => "share",
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Share)
    }
}

/// A row's figures, one a party: native, ours, the peers.
struct Measured {
    name: String,
    unit: Unit,
    goal: Option<f64>,
    values: Vec<Option<f64>>,
    notes: Vec<String>,
}

/// Measures: `rounds` rounds, and `runs` runs of what starts a sandbox.
pub(super) fn measure(wanted: &Wanted, rounds: usize, runs: usize, peers: &[String]) -> Result<Vec<Row>> {
    let (peers, missing) = parties(peers)?;
    let parties: Vec<Party> = [Party::Native, Party::Ours].into_iter().chain(peers).collect();
    let mut measured = Vec::new();
    if micro::any(wanted) || wanted.wants(load::ROW) {
        let folder = Folder::new("sentry")?;
        let place = place(&folder.0, &image::archive()?, |_| Ok(()))?;
        measured.extend(micro::measure(&place, &parties, rounds, wanted)?);
        if wanted.wants(load::ROW) {
            measured.push(load::measure(&place, &parties, rounds)?);
        }
    }
    if programs::any(wanted) {
        let folder = Folder::new("sentry-programs")?;
        let place = place(&folder.0, &programs::archive()?, programs::prepare)?;
        measured.extend(programs::measure(&place, &parties, rounds, wanted)?);
    }
    let mut rows: Vec<Row> = measured.iter().flat_map(|measured| measured.rows(&parties, &missing)).collect();
    if START_ROWS.iter().any(|name| wanted.wants(name)) {
        let all = start::sentry_rows(runs)?;
        rows.extend(all.into_iter().filter(|row| wanted.wants(&row.name)));
    }
    if rows.is_empty() {
        bail!("there is no row of these names: {}", wanted.rows.join(", "));
    }
    Ok(rows)
}

/// Rows that `bench start` measures too.
const START_ROWS: [&str; 3] = ["cold_true", "idle_pss", "idle_cpu"];

/// The peers that are here, and the names of those that are not.
fn parties(given: &[String]) -> Result<(Vec<Party>, Vec<String>)> {
    let mut binary = None;
    for peer in given {
        match peer.split_once('=') {
            Some(("runsc", path)) => binary = Some(PathBuf::from(path)),
            _ => bail!("--peer takes runsc=PATH, not {peer}"),
        }
    }
    let found = |party: Party, program: &str| match party::is_installed(program) {
        true => Ok(party),
        false => Err(party.name()),
    };
    let runsc = match binary {
        Some(path) if path.is_file() => Ok(Party::Runsc(Some(path))),
        Some(path) => bail!("{} is no file", path.display()),
        None => found(Party::Runsc(None), "runsc"),
    };
    let all = [runsc, found(Party::Bubblewrap, "bwrap"), found(Party::Syd, "syd")];
    let (here, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    Ok((here.into_iter().flatten().collect(), missing.into_iter().filter_map(Result::err).collect()))
}

/// A root with the benchmark's program and files in it, as a folder and as an image.
fn place(folder: &Path, archive: &Path, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Place> {
    let place =
        Place { root: folder.join("root"), data: folder.join("data"), scratch: folder.join("scratch") };
    for path in [&place.root, &place.data, &place.scratch, &place.root.join("bench")] {
        fs::create_dir(path).with_context(|| format!("{} can't be made", path.display()))?;
    }
    run::checked(Command::new("tar").arg("-xpf").arg(archive).arg("-C").arg(&place.root))?;
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut compile = Command::new(compiler);
    compile.args(["-O2", "-static", "-pthread", "-o"]).arg(place.root.join("bench/bench"));
    run::checked(compile.arg(run::root().join("workers/sentry/guests/bench.c")))?;
    fs::write(place.root.join("bench/data"), vec![b'x'; 65536])
        .context("a file for the rows can't be written")?;
    prepare(&place.root)?;
    let packed = folder.join("root.tar");
    run::checked(Command::new("tar").arg("-cf").arg(&packed).arg("-C").arg(&place.root).arg("."))?;
    let mut import = Command::new(run::product("bulkhead")?);
    import.args(["image", "import", "--name", party::IMAGE, "--data-dir"]).arg(&place.data).arg(&packed);
    run::output(&mut import)?;
    fs::remove_file(&packed).context("the packed root can't be removed")?;
    Ok(place)
}

impl Measured {
    fn rows(&self, parties: &[Party], missing: &[String]) -> Vec<Row> {
        let (native, ours) = (self.values[0], self.values[1]);
        let row = |name: String, peer: Option<f64>, note: String| Row {
            name: self.name.clone(),
            unit: self.unit.name(),
            ours,
            native,
            peer,
            peer_name: Some(name),
            ratio: peer.zip(ours).map(
                |(peer, ours)| {
                    if self.unit.more_is_better() { ours / peer } else { peer / ours }
                },
            ),
            goal: self.goal,
            note,
        };
        let met = match (ours, self.goal) {
            (Some(ours), Some(goal)) if self.unit.more_is_better() => ours >= goal,
            (Some(ours), Some(goal)) => ours <= goal,
            _ => false,
        };
        let goal = if met { "goal met" } else { "MISSES its goal" };
        let separator = if self.notes[1].is_empty() { "" } else { "; " };
        let note = format!("{goal}{separator}{}", self.notes[1]);
        let here = parties.iter().enumerate().skip(2).map(|(at, party)| {
            let own = if self.values[at].is_none() { format!("; {}", self.notes[at]) } else { String::new() };
            row(party.name(), self.values[at], format!("{note}{own}"))
        });
        let gone =
            missing.iter().map(|name| row(name.clone(), None, format!("{note}; {name} is not installed")));
        here.chain(gone).collect()
    }
}
