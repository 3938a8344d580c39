//! The list of robust futexes that a dying thread leaves behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Process;
use super::Task;
use super::signal::nudge;

/// Links that are followed, at most: Linux's ROBUST_LIST_LIMIT.
const LINKS_MAX: usize = 2048;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_WAITERS: u32 = 0x8000_0000;

/// Marks the futexes that the thread holds as left behind, and returns those that someone waits for: at each of
/// them one waiter is to be woken.
pub(crate) fn walk(task: &Arc<Task>) -> Vec<u64> {
    let head = task.robust_list.swap(0, Ordering::Relaxed);
    let mut waited_for = Vec::new();
    if head == 0 {
        return waited_for;
    }
    let memory = task.memory();
    let Ok([first, offset, pending]) = memory.read_value::<[u64; 3]>(head) else { return waited_for };
    let mut at = first;
    for _ in 0..LINKS_MAX {
        // The lowest bit marks priority inheritance futexes, which the sentry refuses.
        let link = at & !1;
        if link == head || link == 0 {
            break;
        }
        let next = memory.read_value::<u64>(link);
        if link != pending {
            waited_for.extend(leave(task, link.wrapping_add(offset)));
        }
        match next {
            Ok(next) => at = next,
            Err(_) => break,
        }
    }
    if pending & !1 != 0 {
        waited_for.extend(leave(task, (pending & !1).wrapping_add(offset)));
    }
    waited_for
}

/// The same for all threads of a process that ends at once, and whose own host threads can wake nobody any more:
/// so whoever waits natively looks at its futex again.
pub(super) fn walk_all(process: &Arc<Process>) {
    let tasks = process.tasks();
    // All lists are walked, not only up to the first that somebody waits for.
    let waited_for = tasks.iter().filter(|task| !walk(task).is_empty()).count();
    if waited_for == 0 {
        return;
    }
    let others: Vec<Arc<Process>> = {
        let kernel = process.kernel();
        let tree = kernel.tree.lock();
        tree.nodes().map(|node| node.process.clone()).filter(|other| !Arc::ptr_eq(other, process)).collect()
    };
    for task in others.iter().flat_map(|other| other.tasks()) {
        nudge(&task);
    }
}

fn leave(task: &Arc<Task>, futex: u64) -> Option<u64> {
    let memory = task.memory();
    let word = memory.read_value::<u32>(futex).ok()?;
    if word & FUTEX_TID_MASK != task.tid() as u32 {
        return None;
    }
    let left = (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
    memory.write_value(futex, &left).ok()?;
    (word & FUTEX_WAITERS != 0).then_some(futex)
}
