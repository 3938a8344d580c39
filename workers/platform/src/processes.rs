//! The host processes that are the sentry's children, under one lock: who may be claimed, who may be reaped, and whose
//! end it is that the reaper sees.
//!
//! A child is a stub (from its claim to its reaping), a stub that is being warmed, the zygote, or a forked stub that
//! has not said yet that it is there. Only of the last kind an end means that a fork is lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::host;
use crate::stub::Stub;

#[derive(Default)]
pub(crate) struct Processes {
    table: Mutex<Table>,
    /// The zygote has told the pid of a stub that it was asked for.
    told: Condvar,
}

#[derive(Default)]
struct Table {
    /// By host pid, until reaped.
    stubs: HashMap<i32, Arc<Stub>>,
    /// Made by the zygote, and not yet warm.
    warming: HashSet<i32>,
    /// The zygote was asked for a stub, whose pid nobody knows yet.
    asked: bool,
    /// Forked stubs that had died when they were about to be claimed: their fork is accounted for.
    answered_for: HashSet<i32>,
}

/// Whose end it is.
pub(crate) enum Ended {
    Stub(Arc<Stub>),
    /// A stub that nothing has run in, or a fork that somebody has answered for. It is reaped.
    Nobody,
    /// A forked stub that had not arrived. It is reaped.
    Newborn,
}

impl Processes {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here until `told` nobody knows whether an unknown child is a stub of the zygote's.
    pub(crate) fn asking(&self) {
        self.lock().asked = true;
    }

    /// The zygote has answered: with a pid, or with none.
    pub(crate) fn told(&self, pid: Option<i32>) {
        let mut table = self.lock();
        table.asked = false;
        table.warming.extend(pid);
        self.told.notify_all();
    }

    /// A stub is warm; false if it has died meanwhile.
    pub(crate) fn add_warm(&self, stub: &Arc<Stub>) -> bool {
        let mut table = self.lock();
        let known = table.warming.remove(&stub.pid());
        if known {
            table.stubs.insert(stub.pid(), stub.clone());
        }
        known
    }

    /// Kills a stub that is being warmed; its pid, if there is one.
    pub(crate) fn kill_warming(&self) -> Option<i32> {
        let table = self.lock();
        let pid = *table.warming.iter().next()?;
        host::kill(pid, libc::SIGKILL);
        Some(pid)
    }

    /// Kills a stub that is no good, unless it has become somebody else's affair.
    pub(crate) fn kill_if_warming(&self, pid: i32) {
        // Under the lock nobody reaps it.
        let table = self.lock();
        if table.warming.contains(&pid) {
            host::kill(pid, libc::SIGKILL);
        }
    }

    /// Stubs that are being warmed.
    pub(crate) fn warming(&self) -> Vec<i32> {
        self.lock().warming.iter().copied().collect()
    }

    /// Enters a forked child, if it is a living child of ours that nobody has claimed (`checked` is false only in
    /// tests). If it is not, its fork is lost, and the caller says so.
    pub(crate) fn claim(&self, stub: &Arc<Stub>, checked: bool) -> bool {
        let pid = stub.pid();
        let mut table = self.lock();
        let known = table.stubs.contains_key(&pid) || table.warming.contains(&pid);
        if checked && (known || !host::is_child(pid)) {
            if !known && host::is_ended_child(pid) {
                table.answered_for.insert(pid);
            }
            return false;
        }
        table.stubs.insert(pid, stub.clone());
        true
    }

    /// Kills a process that made a call but is nobody that was expected, unless it is reaped already.
    pub(crate) fn kill_stranger(&self, tid: i32) {
        // Under the lock nobody reaps, so that the number can't become another process's.
        let _table = self.lock();
        host::kill(tid, libc::SIGKILL);
    }

    /// Says whose end it is. A stub is still to be reaped; all others are.
    pub(crate) fn ended(&self, pid: i32, zygote: i32) -> Ended {
        let mut table = self.lock();
        loop {
            if let Some(stub) = table.stubs.remove(&pid) {
                return Ended::Stub(stub);
            }
            let nobody = pid == zygote || table.warming.remove(&pid) || table.answered_for.remove(&pid);
            if nobody || !table.asked {
                host::reap(pid);
                return if nobody { Ended::Nobody } else { Ended::Newborn };
            }
            // The zygote answers at once, or its end closes its socket.
            table = self.told.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether any child is neither a known stub nor the zygote: a forked stub may still be on its way.
    pub(crate) fn any_unclaimed(&self, zygote: i32) -> bool {
        let table = self.lock();
        if table.asked {
            return true;
        }
        let Ok(entries) = std::fs::read_dir("/proc") else { return true };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let own = std::process::id();
        pids.filter(|pid| *pid as u32 != own && *pid != zygote).any(|pid| {
            let known = table.stubs.contains_key(&pid) || table.warming.contains(&pid);
            !known && host::is_any_child(pid)
        })
    }
}
