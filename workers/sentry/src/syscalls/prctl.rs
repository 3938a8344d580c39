//! prctl.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Signal, Task};
use crate::vfs::{Capability, Credentials, secure};

/// Operations of prctl(2).
mod pr {
    pub(super) const SET_PDEATHSIG: i32 = 1;
    pub(super) const GET_PDEATHSIG: i32 = 2;
    pub(super) const GET_DUMPABLE: i32 = 3;
    pub(super) const SET_DUMPABLE: i32 = 4;
    pub(super) const GET_KEEPCAPS: i32 = 7;
    pub(super) const SET_KEEPCAPS: i32 = 8;
    pub(super) const GET_TIMING: i32 = 13;
    pub(super) const SET_TIMING: i32 = 14;
    pub(super) const SET_NAME: i32 = 15;
    pub(super) const GET_NAME: i32 = 16;
    pub(super) const GET_SECCOMP: i32 = 21;
    pub(super) const CAPBSET_READ: i32 = 23;
    pub(super) const CAPBSET_DROP: i32 = 24;
    pub(super) const GET_TSC: i32 = 25;
    pub(super) const SET_TSC: i32 = 26;
    pub(super) const GET_SECUREBITS: i32 = 27;
    pub(super) const SET_SECUREBITS: i32 = 28;
    pub(super) const SET_TIMERSLACK: i32 = 29;
    pub(super) const GET_TIMERSLACK: i32 = 30;
    pub(super) const MCE_KILL_GET: i32 = 34;
    pub(super) const SET_MM: i32 = 35;
    pub(super) const SET_CHILD_SUBREAPER: i32 = 36;
    pub(super) const GET_CHILD_SUBREAPER: i32 = 37;
    pub(super) const SET_NO_NEW_PRIVS: i32 = 38;
    pub(super) const GET_NO_NEW_PRIVS: i32 = 39;
    pub(super) const GET_TID_ADDRESS: i32 = 40;
    pub(super) const SET_THP_DISABLE: i32 = 41;
    pub(super) const GET_THP_DISABLE: i32 = 42;
    pub(super) const CAP_AMBIENT: i32 = 47;
    pub(super) const SET_IO_FLUSHER: i32 = 57;
    pub(super) const GET_IO_FLUSHER: i32 = 58;
    pub(super) const SET_VMA: i32 = 0x5356_4d41;
    pub(super) const SET_PTRACER: i32 = 0x5961_6d61;
}

pub(super) fn sys_prctl(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let process = cx.task.process.clone();
    let value = args.u64(1);
    match args.int(0) {
        pr::SET_PDEATHSIG => {
            if value != 0 {
                Signal::new(value as i32)?;
            }
            process.parent_death_signal.store(value as i32, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_PDEATHSIG => put(cx, value, process.parent_death_signal.load(Ordering::Relaxed)),
        pr::GET_DUMPABLE => Ok(process.dumpable.load(Ordering::Relaxed) as u64),
        pr::SET_DUMPABLE if value <= 1 => {
            process.dumpable.store(value as i32, Ordering::Relaxed);
            Ok(0)
        }
        pr::SET_NAME => {
            let name = cx.memory.read_string(value, Task::NAME_LENGTH - 1, Errno::ENAMETOOLONG);
            let mut cut = [0; Task::NAME_LENGTH - 1];
            match name {
                Ok(name) => cx.task.set_name(&name),
                Err(Errno::ENAMETOOLONG) => {
                    cx.memory.read(value, &mut cut)?;
                    cx.task.set_name(&cut);
                }
                Err(errno) => return Err(errno.into()),
            }
            Ok(0)
        }
        pr::GET_NAME => {
            cx.memory.write(value, &cx.task.name())?;
            Ok(0)
        }
        pr::SET_CHILD_SUBREAPER => {
            process.is_subreaper.store(value != 0, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_CHILD_SUBREAPER => put(cx, value, i32::from(process.is_subreaper.load(Ordering::Relaxed))),
        pr::SET_NO_NEW_PRIVS if value == 1 && args.0[2..5] == [0; 3] => {
            process.no_new_privs.store(true, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_NO_NEW_PRIVS => Ok(process.no_new_privs.load(Ordering::Relaxed).into()),
        pr::GET_TIMERSLACK => Ok(cx.task.scheduling.lock().timer_slack_ns),
        pr::SET_TIMERSLACK => {
            let mut scheduling = cx.task.scheduling.lock();
            scheduling.timer_slack_ns = if value == 0 { scheduling.default_slack_ns } else { value };
            Ok(0)
        }
        pr::SET_THP_DISABLE if args.0[2..5] == [0; 3] => {
            process.no_huge_pages.store(value != 0, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_THP_DISABLE if args.0[1..5] == [0; 4] => {
            Ok(process.no_huge_pages.load(Ordering::Relaxed).into())
        }
        pr::GET_TIMING | pr::GET_SECCOMP => Ok(0),
        // Memory errors are the host's affair: the default policy.
        pr::MCE_KILL_GET if args.0[1..5] == [0; 4] => Ok(2),
        pr::GET_TSC => put(cx, value, 1),
        pr::SET_TSC if value == 1 => Ok(0),
        pr::SET_IO_FLUSHER | pr::GET_IO_FLUSHER => Err(Errno::EPERM.into()),
        pr::GET_KEEPCAPS | pr::SET_KEEPCAPS | pr::GET_SECUREBITS | pr::SET_SECUREBITS => {
            secure_bits(cx, args)
        }
        pr::GET_TID_ADDRESS => {
            cx.memory.write_value(value, &cx.task.clear_tid.load(Ordering::Relaxed))?;
            Ok(0)
        }
        pr::CAPBSET_READ | pr::CAPBSET_DROP | pr::CAP_AMBIENT => capabilities(cx, args),
        // Hints without an effect here.
        pr::SET_VMA | pr::SET_PTRACER => Ok(0),
        pr::SET_TIMING if value == 0 => Ok(0),
        pr::SET_MM => Err(Errno::EPERM.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn put(cx: &Ctx<'_>, address: u64, value: i32) -> SysResult {
    cx.memory.write_value(address, &value)?;
    Ok(0)
}

fn capabilities(cx: &Ctx<'_>, args: &Args) -> SysResult {
    const LAST: u64 = 40;
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR: u64 = 4;
    let own = cx.credentials();
    let change = |new: Credentials| {
        cx.task.set_credentials(Arc::new(new));
        Ok(0)
    };
    let bit = |capability: u64| if capability > LAST { Err(Errno::EINVAL) } else { Ok(1 << capability) };
    match args.int(0) {
        pr::CAPBSET_READ => Ok(u64::from(own.bounding & bit(args.u64(1))? != 0)),
        pr::CAPBSET_DROP => {
            if !own.can(Capability::Setpcap) {
                return Err(Errno::EPERM.into());
            }
            let bit = bit(args.u64(1))?;
            change(Credentials { bounding: own.bounding & !bit, ..(*own).clone() })
        }
        _ => match args.u64(1) {
            CLEAR => change(Credentials { ambient: 0, ..(*own).clone() }),
            IS_SET => Ok(u64::from(own.ambient & bit(args.u64(2))? != 0)),
            LOWER => change(Credentials { ambient: own.ambient & !bit(args.u64(2))?, ..(*own).clone() }),
            RAISE => {
                let bit = bit(args.u64(2))?;
                if own.permitted & own.inheritable & bit == 0 || own.secure_bits & secure::NO_AMBIENT != 0 {
                    return Err(Errno::EPERM.into());
                }
                change(Credentials { ambient: own.ambient | bit, ..(*own).clone() })
            }
            _ => Err(Errno::EINVAL.into()),
        },
    }
}

fn secure_bits(cx: &Ctx<'_>, args: &Args) -> SysResult {
    let own = cx.credentials();
    let change = |bits: u32| {
        cx.task.set_credentials(Arc::new(Credentials { secure_bits: bits, ..(*own).clone() }));
        Ok(0)
    };
    match args.int(0) {
        pr::GET_KEEPCAPS => Ok(u64::from(own.secure_bits & secure::KEEP != 0)),
        pr::SET_KEEPCAPS => match args.u64(1) {
            0 => change(own.secure_bits & !secure::KEEP),
            1 if own.secure_bits & secure::KEEP << 1 != 0 => Err(Errno::EPERM.into()),
            1 => change(own.secure_bits | secure::KEEP),
            _ => Err(Errno::EINVAL.into()),
        },
        pr::GET_SECUREBITS => Ok(own.secure_bits.into()),
        _ => {
            let wanted = args.uint(1);
            // What is locked stays, and so do locks.
            let locked = (own.secure_bits & secure::LOCKS) >> 1 | own.secure_bits & secure::LOCKS;
            let allowed = (own.secure_bits ^ wanted) & locked == 0 && own.can(Capability::Setpcap);
            if args.u64(1) & !u64::from(secure::ALL) != 0 || !allowed {
                return Err(Errno::EPERM.into());
            }
            change(wanted)
        }
    }
}
