//! A program that calls all the time, beside programs that compute all the time.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::super::row::median;
use super::micro::PROGRAM;
use super::party::{How, Party, Place};
use super::{Measured, Unit};

/// Busy processes beside the one that is measured.
const BUSY: usize = 4;
/// How much of what a bare process keeps of its speed ours must keep.
const FAIR: f64 = 0.9;

/// Processes that compute until they are dropped.
struct Load(Vec<Child>);

impl Load {
    fn start(place: &Place) -> Result<Self> {
        let mut load = Self(Vec::new());
        for _ in 0..BUSY {
            let mut busy = Command::new(place.root.join(PROGRAM.trim_start_matches('/')));
            busy.arg("busy").stdin(Stdio::null()).stdout(Stdio::null());
            load.0.push(busy.spawn().context("a busy process can't be started")?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It can only have ended already.
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

/// What each party keeps of its calls a second while others are busy, `rounds` times, interleaved.
pub(super) fn measure(place: &Place, parties: &[Party], rounds: usize) -> Result<Measured> {
    let how = How { row_ms: 150, ..How::default() };
    let rate = |party: &Party| -> Result<f64> {
        let printed = party.output(place, &[PROGRAM, "calls_1"], how)?;
        let value = printed.split_whitespace().nth(1).context("the guest program printed nothing")?;
        value.parse().context("the guest program printed no figure")
    };
    let mut kept: Vec<Vec<f64>> = vec![Vec::new(); parties.len()];
    for _ in 0..rounds {
        for (party, kept) in parties.iter().zip(&mut kept) {
            let alone = rate(party)?;
            let load = Load::start(place)?;
            let beside = rate(party)?;
            drop(load);
            kept.push(beside / alone);
        }
    }
    let values: Vec<Option<f64>> = kept.iter_mut().map(|kept| Some(median(kept))).collect();
    let note =
        format!("calls a second beside {BUSY} busy processes, as a share of those alone; {FAIR} x native's");
    Ok(Measured {
        name: "calls_under_load".into(),
        unit: Unit::Share,
        goal: values[0].map(|native| native * FAIR),
        notes: vec![note; parties.len()],
        values,
    })
}
