//! Single operations, and several threads that call at once.

use std::collections::HashMap;

use anyhow::{Context, Result};

use super::party::{How, Party, Place};
use super::{Measured, Unit};

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

/// The guest program in the root.
pub(super) const PROGRAM: &str = "/bench/bench";

/// Figures of one party by row; several rounds each.
#[derive(Default)]
struct Figures(HashMap<String, Vec<f64>>);

impl Figures {
    fn add(&mut self, printed: &str, suffix: &str) -> Result<()> {
        let mut seen = HashMap::new();
        for line in printed.lines() {
            let (name, value) = line.split_once(' ').with_context(|| format!("odd line: {line}"))?;
            let value = value.parse().with_context(|| format!("odd figure: {line}"))?;
            // The second time in one run: the program has been there before.
            let times = seen.entry(name.to_owned()).and_modify(|times| *times += 1).or_insert(1);
            let again = if *times > 1 { ":again" } else { "" };
            self.0.entry(format!("{name}{suffix}{again}")).or_default().push(value);
        }
        Ok(())
    }

    fn median(&self, name: &str) -> Option<f64> {
        let mut values = self.0.get(name)?.clone();
        Some(super::super::row::median(&mut values))
    }
}

/// Measures every row with every party, `rounds` times, interleaved.
pub(super) fn measure(place: &Place, parties: &[Party], rounds: usize) -> Result<Vec<Measured>> {
    let mut figures: Vec<Figures> = parties.iter().map(|_| Figures::default()).collect();
    let how = How { row_ms: 50, ..How::default() };
    let all: Vec<&str> = std::iter::once(PROGRAM).chain(OPERATIONS.iter().map(|o| o.name)).collect();
    let two_party = OPERATIONS.iter().filter(|o| o.two_party).map(|o| o.name);
    let pinned: Vec<&str> = std::iter::once(PROGRAM).chain(two_party).collect();
    // A sandbox that has seen a program with many threads serves its next run better: twice in one sandbox.
    let rates = [PROGRAM, "calls_1", "again:calls_2", "again:calls_2", "again:calls_8", "again:calls_8"];
    for _ in 0..rounds {
        for (party, figures) in parties.iter().zip(&mut figures) {
            figures.add(&party.output(place, &all, how)?, "")?;
            figures.add(&party.output(place, &pinned, How { one_core: true, ..how })?, ":pinned")?;
            figures.add(&party.output(place, &rates, How { large: true, ..how })?, "")?;
        }
    }
    let mut rows: Vec<Measured> = OPERATIONS.iter().map(|o| o.measured(&figures)).collect();
    rows.extend(RATES.iter().map(|rate| rate_row(rate, &figures)));
    Ok(rows)
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
        let others = figures.iter().map(|f| f.median(&other));
        Measured {
            name: self.name.into(),
            unit: Unit::Nanoseconds,
            goal,
            notes: others
                .map(|other| match other {
                    Some(other) => format!("{}; one core for all; unpinned {other:.0}", self.note),
                    None => self.note.to_owned(),
                })
                .collect(),
            values,
        }
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
            .map(|(one, first)| {
                format!(
                    "getppid of all threads, 2 cpus, 2nd run; 1st {}; one thread {}",
                    show(*first),
                    show(*one)
                )
            })
            .collect(),
        values: again,
    }
}
