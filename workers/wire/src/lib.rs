//! The framed, bounded protocol between the worker (the launcher side) and a sentry or a guest agent.
//!
//! A frame is a header of 8 bytes (version, kind, two zero bytes, length of the payload as a little-endian u32)
//! and the payload: JSON for control frames, plain bytes for `Data`. Descriptors travel with `Config` and
//! `Start` only. Either side treats the other's bytes as hostile: lengths are checked before anything is
//! allocated, and an unknown kind or version ends the connection.
//!
//! ```text
//! launcher                                    sentry
//!   Config (+ fds) ─────────────────────────►            once, first
//!            ◄───────────────────────── Ready            jailed, a stub is warm; waits here in the pool
//!   Start (+ image, stdin, stdout, stderr) ──►
//!   Archive|File, Data*, End … ─────────────►            inputs, unpacked by the sentry
//!   Go ─────────────────────────────────────►
//!            ◄─────────────────────── Started            the first instruction is about to run
//!   Signal ─────────────────────────────────►            any time
//!            ◄──────────────────────── Exited            every process of the job is gone
//!   Collect ────────────────────────────────►
//!            ◄─── Output, Data*, End … Collected
//!   (closes) ───────────────────────────────►            the sentry ends
//! ```
//! `Failed` may come from the sentry at any time and is its last word.
//!
//! A VMM stands in the sentry's place: `Machine` comes instead of `Config`, `Ready` means a machine that lacks only its
//! image, `Statistics` may come before `Exited`. Behind it, in the guest, the agent speaks the same protocol over a stream
//! without descriptors ([`encode`], [`Decoder`]): it says `Ready` first, and takes everything from `Start` on.

mod codec;
mod connection;
mod frame;
pub mod fuzz;
mod launcher;

pub use codec::{Decoder, encode};
pub use connection::{Connection, Received, WireError};
pub use frame::{
    Collect, Config, EnvEntry, ExitCount, ExitReport, Failed, FailureStage, Frame, ImageFds, InputStart,
    JobUser, Kind, MachineConfig, MachineStatistics, OutputStart, SignalTarget, Start, bounds, chain,
};
pub use launcher::{Gone, Launcher};
