//! epoll.
//!
//! An item stands on its file's wait queue for as long as it is registered; a wake-up puts it on the list of
//! items that may be ready. What really is ready is asked when somebody waits. Items that are not edge-triggered
//! go back on the list when they have been reported.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::{File, OpenFile, Waiter};
use crate::wait::{Events, WaitQueue, Wake};

/// EPOLLET.
pub const EPOLLET: u32 = 1 << 31;
/// EPOLLONESHOT.
pub const EPOLLONESHOT: u32 = 1 << 30;
/// EPOLLWAKEUP: a hint.
pub const EPOLLWAKEUP: u32 = 1 << 29;
/// EPOLLEXCLUSIVE: allowed to wake more than one.
pub const EPOLLEXCLUSIVE: u32 = 1 << 28;
const FLAGS: u32 = EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE;

/// Epolls in epolls in epolls, at most: wake-ups and questions recurse that deep (EP_MAX_NESTS and itself).
const MAX_NESTING: u32 = 5;
/// Ways from epolls above a new link to those below it, at most: an event takes all of them.
const MAX_WAYS: u32 = 500;
/// Held while an epoll is put into another, so that two such calls can't make a cycle.
static NESTING: Mutex<()> = Mutex::new(());
/// fs.epoll.max_user_watches for one epoll: items are the sentry's memory.
const MAX_ITEMS: usize = 65_536;

/// An epoll.
pub struct Epoll(Arc<Inner>);

#[derive(Default)]
struct Inner {
    items: Mutex<BTreeMap<(i32, u64), Arc<Entry>>>,
    ready: Mutex<VecDeque<Arc<Item>>>,
    queue: WaitQueue,
    /// Epolls that this one is in, and epolls that are in it, once for each item.
    above: Mutex<Vec<Weak<Inner>>>,
    below: Mutex<Vec<Weak<Inner>>>,
}

struct Item {
    epoll: Weak<Inner>,
    file: Weak<OpenFile>,
    /// Requested events and flags, and the user's data.
    wanted: Mutex<(u32, u64)>,
    queued: AtomicBool,
}

/// A reported event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// EPOLL* bits.
    pub events: u32,
    /// The user's data.
    pub data: u64,
}

impl Item {
    fn mask(&self) -> Events {
        interest(self.wanted.lock().0)
    }

    /// What is reported of the file now: nothing if it is gone or the item is disabled.
    fn look(&self) -> Option<(Arc<OpenFile>, u32)> {
        let file = self.file.upgrade()?;
        let mask = self.wanted.lock().0;
        if mask & !FLAGS == 0 {
            return Some((file, 0));
        }
        let events = expand(file.poll(None)).0 & (mask & !FLAGS | Events::ERR.0 | Events::HUP.0);
        Some((file, events))
    }

    fn enqueue(self: &Arc<Self>, epoll: &Inner) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            epoll.ready.lock().push_back(self.clone());
        }
    }
}

/// Readable and writable in all their names.
pub fn expand(events: Events) -> Events {
    const RDNORM: u32 = 0x40;
    const WRNORM: u32 = 0x100;
    let mut all = events.0;
    if events.intersects(Events::IN) {
        all |= RDNORM;
    }
    if events.intersects(Events::OUT) {
        all |= WRNORM;
    }
    Events(all)
}

/// What to register for, so that requested events are not missed.
pub fn interest(requested: u32) -> Events {
    const RD: u32 = 0x40 | 0x80;
    const WR: u32 = 0x100 | 0x200;
    let mut mask = requested & 0x3fff;
    if requested & RD != 0 {
        mask |= Events::IN.0;
    }
    if requested & WR != 0 {
        mask |= Events::OUT.0;
    }
    Events(mask)
}

/// The waker that stands on a file's queue: an item that can hand out itself.
struct Registered(Weak<Item>);

impl Wake for Registered {
    fn wake(&self, _key: u64, _events: Events) {
        let Some(item) = self.0.upgrade() else { return };
        let Some(epoll) = item.epoll.upgrade() else { return };
        item.enqueue(&epoll);
        epoll.queue.wake(Events::IN);
    }
}

struct Entry {
    item: Arc<Item>,
    waker: Arc<dyn Wake>,
}

impl Default for Epoll {
    fn default() -> Self {
        Self::new()
    }
}

impl Epoll {
    /// An empty one.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// EPOLL_CTL_ADD.
    ///
    /// # Errors
    /// EEXIST, EPERM for a file that can't be waited for, ELOOP, EINVAL for itself and for too many ways from epoll
    /// to epoll, ENOSPC.
    pub fn add(&self, fd: i32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<(), Errno> {
        if !file.ops().pollable() {
            return Err(Errno::EPERM);
        }
        let entry = match file.object::<Self>() {
            Some(other) => {
                let _alone = NESTING.lock();
                self.0.admit(&other.0)?;
                let entry = self.insert(fd, file, events, data)?;
                self.0.below.lock().push(Arc::downgrade(&other.0));
                other.0.above.lock().push(Arc::downgrade(&self.0));
                entry
            }
            None => self.insert(fd, file, events, data)?,
        };
        self.watch(&entry, file);
        Ok(())
    }

    fn insert(&self, fd: i32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<Arc<Entry>, Errno> {
        let mut items = self.0.items.lock();
        if items.len().is_power_of_two() {
            items.retain(|_, entry| entry.item.file.strong_count() > 0);
        }
        if items.len() >= MAX_ITEMS {
            return Err(Errno::ENOSPC);
        }
        let key = (fd, file.id());
        if items.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        let entry = Arc::new(Entry::new(&self.0, file, events, data));
        items.insert(key, entry.clone());
        Ok(entry)
    }

    /// EPOLL_CTL_MOD.
    ///
    /// # Errors
    /// ENOENT; EINVAL for an exclusive item.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<(), Errno> {
        let entry = self.0.items.lock().get(&(fd, file.id())).cloned().ok_or(Errno::ENOENT)?;
        {
            let mut wanted = entry.item.wanted.lock();
            if wanted.0 & EPOLLEXCLUSIVE != 0 || events & EPOLLEXCLUSIVE != 0 {
                return Err(Errno::EINVAL);
            }
            *wanted = (events, data);
        }
        self.watch(&entry, file);
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    ///
    /// # Errors
    /// ENOENT.
    pub fn remove(&self, fd: i32, file: &Arc<OpenFile>) -> Result<(), Errno> {
        let entry = self.0.items.lock().remove(&(fd, file.id())).ok_or(Errno::ENOENT)?;
        self.0.ready.lock().retain(|item| !Arc::ptr_eq(item, &entry.item));
        if let Some(other) = file.object::<Self>() {
            unlink(&self.0.below, &other.0);
            unlink(&other.0.above, &self.0);
        }
        Ok(())
    }

    /// Registers an item and looks whether it is ready already.
    fn watch(&self, entry: &Entry, file: &Arc<OpenFile>) {
        let mask = entry.item.mask();
        let events = file.poll(Some((&entry.waker, 0, mask)));
        if expand(events).intersects(mask | Events::ERR | Events::HUP) {
            entry.item.enqueue(&self.0);
            self.0.queue.wake(Events::IN);
        }
    }

    /// What is ready, at most `most`.
    pub fn harvest(&self, most: usize) -> Vec<Reported> {
        let mut out = Vec::new();
        let mut again = Vec::new();
        let mut left = self.0.ready.lock().len();
        while left > 0 && out.len() < most {
            left -= 1;
            let Some(item) = self.0.ready.lock().pop_front() else { break };
            item.queued.store(false, Ordering::Release);
            let Some((_file, events)) = item.look() else { continue };
            if events == 0 {
                continue;
            }
            let mut wanted = item.wanted.lock();
            out.push(Reported { events, data: wanted.1 });
            if wanted.0 & EPOLLONESHOT != 0 {
                // Disabled until it is modified.
                wanted.0 &= FLAGS;
            } else if wanted.0 & EPOLLET == 0 {
                drop(wanted);
                again.push(item);
            }
        }
        let level_triggered = !again.is_empty();
        for item in again {
            item.enqueue(&self.0);
        }
        if level_triggered {
            // Others who wait may have looked while the items were off the list.
            self.0.queue.wake(Events::IN);
        }
        out
    }

    /// Who waits for something to be ready.
    pub fn queue(&self) -> &WaitQueue {
        &self.0.queue
    }

    /// Whether anything is ready; forgets items that are not.
    fn has_ready(&self) -> bool {
        let mut left = self.0.ready.lock().len();
        while left > 0 {
            left -= 1;
            let Some(item) = self.0.ready.lock().pop_front() else { return false };
            item.queued.store(false, Ordering::Release);
            if item.look().is_some_and(|(_, events)| events != 0) {
                item.enqueue(&self.0);
                return true;
            }
        }
        false
    }
}

impl Inner {
    /// Whether `other` may be put into this one.
    fn admit(self: &Arc<Self>, other: &Arc<Self>) -> Result<(), Errno> {
        if Arc::ptr_eq(self, other) {
            return Err(Errno::EINVAL);
        }
        let (mut ways_down, mut ways_up) = (0, 0);
        let down = other.reach(|epoll| &epoll.below, self, 1, &mut ways_down)?;
        let up = self.reach(|epoll| &epoll.above, other, 1, &mut ways_up)?;
        if down + up > MAX_NESTING {
            return Err(Errno::ELOOP);
        }
        if ways_down * ways_up > MAX_WAYS { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// How many epolls the longest way has, and counts the ways.
    fn reach(
        &self,
        next: fn(&Self) -> &Mutex<Vec<Weak<Self>>>,
        target: &Arc<Self>,
        depth: u32,
        ways: &mut u32,
    ) -> Result<u32, Errno> {
        *ways += 1;
        if depth > MAX_NESTING {
            return Err(Errno::ELOOP);
        }
        if *ways > MAX_WAYS {
            return Err(Errno::EINVAL);
        }
        let epolls: Vec<Arc<Self>> = {
            let mut list = next(self).lock();
            list.retain(|epoll| epoll.strong_count() > 0);
            list.iter().filter_map(Weak::upgrade).collect()
        };
        let mut deepest = depth;
        for epoll in epolls {
            if Arc::ptr_eq(&epoll, target) {
                return Err(Errno::ELOOP);
            }
            deepest = deepest.max(epoll.reach(next, target, depth + 1, ways)?);
        }
        Ok(deepest)
    }
}

fn unlink(list: &Mutex<Vec<Weak<Inner>>>, epoll: &Arc<Inner>) {
    let mut list = list.lock();
    if let Some(at) = list.iter().position(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(epoll))) {
        list.swap_remove(at);
    }
}

impl Entry {
    fn new(epoll: &Arc<Inner>, file: &Arc<OpenFile>, events: u32, data: u64) -> Self {
        let item = Arc::new(Item {
            epoll: Arc::downgrade(epoll),
            file: Arc::downgrade(file),
            wanted: Mutex::new((events, data)),
            queued: AtomicBool::new(false),
        });
        let waker = Arc::new(Registered(Arc::downgrade(&item)));
        Self { item, waker }
    }
}

impl File for Epoll {
    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.0.queue.register(waiter, key, mask);
        }
        if self.has_ready() { Events::IN } else { Events::default() }
    }

    fn pollable(&self) -> bool {
        true
    }

    fn describe(&self, out: &mut String) {
        for ((fd, _), entry) in self.0.items.lock().iter() {
            let (events, data) = *entry.item.wanted.lock();
            let _infallible = writeln!(out, "tfd: {fd:8} events: {events:8x} data: {data:16x}");
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
