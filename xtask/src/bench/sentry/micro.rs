//! Single operations, and several threads that call at once.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::party::{How, Party, Place};
use super::{Measured, Unit, Wanted};

/// What a row promises.
#[derive(Clone, Copy)]
pub(super) enum Goal {
    /// So many of the row's unit.
    Value(f64),
    /// So many times what the operation costs natively.
    Native(f64),
}

/// An operation, in nanoseconds.
struct Operation {
    name: &'static str,
    goal: Goal,
    /// Two sides take turns: measured on one core for all, because cores far apart make any figure.
    two_party: bool,
    note: &'static str,
}

const fn operation(name: &'static str, goal: Goal, note: &'static str) -> Operation {
    Operation { name, goal, two_party: false, note }
}

const OPERATIONS: [Operation; 15] = [
    operation("getppid", Goal::Value(4_500.0), "through libc's syscall()"),
    operation("read_dev_zero_1", Goal::Value(6_000.0), "1 byte"),
    operation("pread_4k_tmpfs", Goal::Value(6_000.0), "a file in /dev/shm"),
    operation("pread_4k_image", Goal::Value(6_000.0), "a file of the image"),
    operation("open_close_tmpfs", Goal::Value(10_000.0), "both calls"),
    operation("open_close_image", Goal::Value(10_000.0), "both calls"),
    operation("stat_image", Goal::Value(6_500.0), "two folders deep"),
    Operation {
        two_party: true,
        ..operation("futex_pingpong", Goal::Native(1.1), "two threads, a round trip")
    },
    operation("page_fault", Goal::Native(1.1), "anonymous memory, a page"),
    Operation {
        two_party: true,
        ..operation("pipe_pingpong", Goal::Value(25_000.0), "two processes, a round trip")
    },
    operation("fork_wait", Goal::Value(260_000.0), "fork, _exit, waitpid"),
    operation("fork_exec_wait", Goal::Value(1_000_000.0), "fork, exec of /bin/true (dynamic), waitpid"),
    operation("thread_create_join", Goal::Value(100_000.0), "of pthreads"),
    operation("signal_self", Goal::Value(30_000.0), "kill, handler, return"),
    operation("mmap_munmap", Goal::Value(4_000.0), "one anonymous page, touched"),
];

/// Rows of calls a second of the whole machine: threads, and how many times one thread's rate they promise.
const RATES: [(&str, usize, f64); 2] = [("calls_2_threads", 2, 1.7), ("calls_8_threads", 8, 1.4)];

/// Most time that a peer's run may take: one that hangs is named, not waited for.
pub(super) const PEERS_LIMIT: Duration = Duration::from_secs(60);

/// The guest program in the root.
pub(super) const PROGRAM: &str = "/bench/bench";

/// Figures of one party.
#[derive(Default)]
struct Figures {
    /// By row; several rounds each.
    rows: HashMap<String, Vec<f64>>,
    /// Why a peer has none.
    refused: HashMap<String, String>,
}

impl Figures {
    /// Runs rows in one go. What a peer refuses or crashes at is found by running its rows one by one, and not tried
    /// again.
    fn take(&mut self, party: &Party, place: &Place, rows: &[&str], how: How, suffix: &str) -> Result<()> {
        let rows: Vec<&str> = rows.iter().copied().filter(|row| !self.refused.contains_key(*row)).collect();
        let run = |rows: &[&str]| party.output(place, &[&[PROGRAM], rows].concat(), how);
        if rows.is_empty() {
            return Ok(());
        }
        match run(&rows) {
            Ok(printed) => return self.add(&printed, suffix),
            Err(error) if !party.is_peer() => return Err(error),
            Err(_) => {}
        }
        for row in rows {
            match run(&[row]) {
                Ok(printed) => self.add(&printed, suffix)?,
                Err(error) => {
                    self.refused.insert(row.to_owned(), format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    /// A row's note, and why there is no figure.
    fn note(&self, name: &str, note: String) -> String {
        match self.refused.get(name) {
            Some(why) => format!("{note}; {why}"),
            None => note,
        }
    }

    fn add(&mut self, printed: &str, suffix: &str) -> Result<()> {
        let mut seen = HashMap::new();
        for line in printed.lines() {
            let (name, value) = line.split_once(' ').with_context(|| format!("odd line: {line}"))?;
            let value = value.parse().with_context(|| format!("odd figure: {line}"))?;
            // The second time in one run: the program has been there before.
            let times = seen.entry(name.to_owned()).and_modify(|times| *times += 1).or_insert(1);
            let again = if *times > 1 { ":again" } else { "" };
            self.rows.entry(format!("{name}{suffix}{again}")).or_default().push(value);
        }
        Ok(())
    }

    fn median(&self, name: &str) -> Option<f64> {
        let mut values = self.rows.get(name)?.clone();
        Some(super::super::row::median(&mut values))
    }
}

/// Whether any of the rows is wanted.
pub(super) fn any(wanted: &Wanted) -> bool {
    let rates = RATES.iter().map(|(name, ..)| *name);
    OPERATIONS.iter().map(|o| o.name).chain(rates).any(|name| wanted.wants(name))
}

/// Measures the wanted rows with every party, `rounds` times, interleaved.
pub(super) fn measure(
    place: &Place,
    parties: &[Party],
    rounds: usize,
    wanted: &Wanted,
) -> Result<Vec<Measured>> {
    let mut figures: Vec<Figures> = parties.iter().map(|_| Figures::default()).collect();
    let how = How { row_ms: 50, at_most: PEERS_LIMIT, ..How::default() };
    let operations: Vec<&Operation> = OPERATIONS.iter().filter(|o| wanted.wants(o.name)).collect();
    let all: Vec<&str> = operations.iter().map(|o| o.name).collect();
    let pinned: Vec<&str> = operations.iter().filter(|o| o.two_party).map(|o| o.name).collect();
    let rates: Vec<_> = RATES.iter().filter(|(name, ..)| wanted.wants(name)).collect();
    for _ in 0..rounds {
        for (party, figures) in parties.iter().zip(&mut figures) {
            figures.take(party, place, &all, how, "")?;
            figures.take(party, place, &pinned, How { one_core: true, ..how }, ":pinned")?;
            for (name, ..) in &rates {
                // A sandbox that has seen a program with many threads serves its next run better: twice in one.
                let again = format!("again:{name}").replace("_threads", "");
                let rows = ["calls_1", &again, &again];
                figures.take(party, place, &rows, How { large: true, ..how }, "")?;
            }
        }
    }
    let mut measured: Vec<Measured> = operations.iter().map(|o| o.measured(&figures)).collect();
    measured.extend(rates.iter().map(|rate| rate_row(rate, &figures)));
    Ok(measured)
}

impl Operation {
    fn measured(&self, figures: &[Figures]) -> Measured {
        let key = |suffix: &str| format!("{}{suffix}", self.name);
        let (shown, other) =
            if self.two_party { (key(":pinned"), key("")) } else { (key(""), key(":pinned")) };
        let values: Vec<Option<f64>> = figures.iter().map(|f| f.median(&shown)).collect();
        let goal = match self.goal {
            Goal::Value(value) => Some(value),
            Goal::Native(times) => values[0].map(|native| native * times),
        };
        let notes = figures.iter().map(|f| {
            let note = match f.median(&other) {
                Some(other) => format!("{}; one core for all; unpinned {other:.0}", self.note),
                None => self.note.to_owned(),
            };
            f.note(self.name, note)
        });
        Measured { name: self.name.into(), unit: Unit::Nanoseconds, goal, notes: notes.collect(), values }
    }
}

fn rate_row((name, threads, times): &(&str, usize, f64), figures: &[Figures]) -> Measured {
    let row = format!("calls_{threads}");
    let first: Vec<Option<f64>> = figures.iter().map(|f| f.median(&row)).collect();
    let again: Vec<Option<f64>> = figures.iter().map(|f| f.median(&format!("{row}:again"))).collect();
    let one: Vec<Option<f64>> = figures.iter().map(|f| f.median("calls_1")).collect();
    let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    Measured {
        name: (*name).into(),
        unit: Unit::PerSecond,
        goal: one[1].map(|one| one * times),
        notes: one
            .iter()
            .zip(&first)
            .zip(figures)
            .map(|((one, first), figures)| {
                let (one, first) = (show(*one), show(*first));
                let note = format!("getppid of all threads, 2 cpus, 2nd run; 1st {first}; one thread {one}");
                figures.note(&format!("again:{row}"), note)
            })
            .collect(),
        values: again,
    }
}
