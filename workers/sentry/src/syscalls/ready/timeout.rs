//! Time-outs and masks of calls that wait.

use std::time::{Duration, Instant};

use crate::errno::Errno;
use crate::kernel::{Ctx, SigSet};

/// Reads a `struct timespec` (or a timeval with `unit` nanoseconds in a fraction) as a duration.
///
/// # Errors
/// EFAULT, EINVAL for a negative or unnormalised value.
pub(super) fn read_duration(cx: &Ctx<'_>, address: u64, unit: u32) -> Result<Duration, Errno> {
    let [seconds, fraction]: [i64; 2] = cx.memory.read_value(address)?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let most = 1_000_000_000 / i64::from(unit);
    if !(0..most).contains(&fraction) {
        return Err(Errno::EINVAL);
    }
    Ok(Duration::new(seconds, fraction as u32 * unit))
}

/// Limits the call to `timeout`; answers whether it may wait at all.
pub(super) fn limit(cx: &mut Ctx<'_>, timeout: Option<Duration>) -> bool {
    match timeout {
        None => true,
        Some(timeout) if timeout.is_zero() => false,
        Some(timeout) => {
            cx.call.wait_at_most(timeout);
            !cx.call.timed_out()
        }
    }
}

/// As [`limit`] for poll and select, which a signal ends with EINTR even if they may not wait and if their time is up.
pub(super) fn limit_after_signals(cx: &mut Ctx<'_>, timeout: Option<Duration>) -> bool {
    let may_wait = limit(cx, timeout);
    if !may_wait && cx.has_attention() {
        // If no handler runs, the call is made again at once.
        cx.call.wait_at_most(Duration::ZERO);
        return true;
    }
    may_wait
}

/// Writes back how much of a time-out is left, as select and ppoll do. That it can't be written does not matter.
pub(super) fn write_left(cx: &Ctx<'_>, address: u64, unit: u32) {
    if address == 0 {
        return;
    }
    let left = match cx.call.deadline() {
        Some(deadline) => deadline.saturating_duration_since(Instant::now()),
        // It was not waited for: all of it is left, and stands there.
        None => return,
    };
    let value = [left.as_secs() as i64, i64::from(left.subsec_nanos() / unit)];
    let _ = cx.memory.write_value(address, &value);
}

/// Applies a signal mask for the duration of the call; address 0 is none.
///
/// # Errors
/// EFAULT, EINVAL for a wrong size.
pub(super) fn apply_mask(cx: &mut Ctx<'_>, address: u64, size: u64) -> Result<(), Errno> {
    if address == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = cx.memory.read_value(address)?;
    cx.set_temporary_mask(SigSet(mask));
    Ok(())
}
