//! A program that calls all the time, beside programs that compute all the time.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::super::row::median;
use super::micro::{PEERS_LIMIT, PROGRAM};
use super::party::{How, Party, Place};
use super::{Measured, Unit};

/// The row's name.
pub(super) const ROW: &str = "calls_under_load";

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
    let how = How { row_ms: 150, at_most: PEERS_LIMIT, ..How::default() };
    let rate = |party: &Party| -> Result<f64> {
        let printed = party.output(place, &[PROGRAM, "calls_1"], how)?;
        let value = printed.split_whitespace().nth(1).context("the guest program printed nothing")?;
        value.parse().context("the guest program printed no figure")
    };
    let once = |party: &Party| -> Result<f64> {
        let alone = rate(party)?;
        let _load = Load::start(place)?;
        Ok(rate(party)? / alone)
    };
    let mut kept: Vec<Vec<f64>> = vec![Vec::new(); parties.len()];
    let note =
        format!("calls a second beside {BUSY} busy processes, as a share of those alone; {FAIR} x native's");
    let mut notes = vec![note; parties.len()];
    for _ in 0..rounds {
        for ((party, kept), note) in parties.iter().zip(&mut kept).zip(&mut notes) {
            match once(party) {
                Ok(share) => kept.push(share),
                Err(error) if party.is_peer() => *note = format!("{error:#}"),
                Err(error) => return Err(error),
            }
        }
    }
    let values: Vec<Option<f64>> =
        kept.iter_mut().map(|kept| (!kept.is_empty()).then(|| median(kept))).collect();
    Ok(Measured {
        name: ROW.into(),
        unit: Unit::Share,
        goal: values[0].map(|native| native * FAIR),
        notes,
        values,
    })
}
