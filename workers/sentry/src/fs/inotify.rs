//! inotify: events of inodes for those who watch them.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::{Dentry, File, Inode, OpenFile, Waiter};
use crate::wait::{Events, WaitQueue};

/// IN_ACCESS.
pub const IN_ACCESS: u32 = 0x1;
/// IN_MODIFY.
pub const IN_MODIFY: u32 = 0x2;
/// IN_ATTRIB.
pub const IN_ATTRIB: u32 = 0x4;
/// IN_CLOSE_WRITE.
pub const IN_CLOSE_WRITE: u32 = 0x8;
/// IN_CLOSE_NOWRITE.
pub const IN_CLOSE_NOWRITE: u32 = 0x10;
/// IN_OPEN.
pub const IN_OPEN: u32 = 0x20;
/// IN_MOVED_FROM.
pub const IN_MOVED_FROM: u32 = 0x40;
/// IN_MOVED_TO.
pub const IN_MOVED_TO: u32 = 0x80;
/// IN_CREATE.
pub const IN_CREATE: u32 = 0x100;
/// IN_DELETE.
pub const IN_DELETE: u32 = 0x200;
/// IN_DELETE_SELF.
pub const IN_DELETE_SELF: u32 = 0x400;
/// IN_MOVE_SELF.
pub const IN_MOVE_SELF: u32 = 0x800;
/// All of these.
pub const IN_ALL_EVENTS: u32 = 0xfff;
/// IN_Q_OVERFLOW: events were lost.
const IN_Q_OVERFLOW: u32 = 0x4000;
/// IN_IGNORED: the watch is gone.
const IN_IGNORED: u32 = 0x8000;
/// IN_EXCL_UNLINK: no events of entries that have been removed.
pub const IN_EXCL_UNLINK: u32 = 0x400_0000;
/// IN_MASK_CREATE: the watch must be new.
pub const IN_MASK_CREATE: u32 = 0x1000_0000;
/// IN_MASK_ADD: add to what is watched for.
pub const IN_MASK_ADD: u32 = 0x2000_0000;
/// IN_ISDIR: the subject is a directory.
pub const IN_ISDIR: u32 = 0x4000_0000;
/// IN_ONESHOT: the watch goes with its first event.
pub const IN_ONESHOT: u32 = 0x8000_0000;

/// fs.inotify.max_queued_events.
const MAX_QUEUED: usize = 16_384;
/// fs.inotify.max_user_watches.
const MAX_WATCHES: usize = 65_536;
/// Bytes of a `struct inotify_event` without its name.
const HEADER: usize = 16;

/// Watches of all instances: while there are none, nothing is looked up for an event.
static WATCHES: AtomicUsize = AtomicUsize::new(0);
static NEXT_COOKIE: AtomicU32 = AtomicU32::new(1);

struct Watch {
    instance: Weak<Instance>,
    number: i32,
    mask: u32,
}

/// Who watches an inode.
#[derive(Default)]
pub struct Watches {
    list: Mutex<Vec<Watch>>,
}

struct Event {
    watch: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

#[derive(Default)]
struct Instance {
    events: Mutex<VecDeque<Event>>,
    /// What is watched under which number: it must not be forgotten.
    watched: Mutex<(i32, HashMap<i32, Arc<Dentry>>)>,
    queue: WaitQueue,
}

impl Instance {
    fn put(&self, event: Event) {
        let mut events = self.events.lock();
        let same = |last: &Event| {
            last.watch == event.watch
                && last.mask == event.mask
                && last.cookie == event.cookie
                && last.name == event.name
        };
        if events.back().is_some_and(same) {
            return;
        }
        if events.len() >= MAX_QUEUED {
            let lost = Event { watch: -1, mask: IN_Q_OVERFLOW, cookie: 0, name: Vec::new() };
            if events.back().is_some_and(|last| last.mask != IN_Q_OVERFLOW) {
                events.push_back(lost);
            }
            return;
        }
        events.push_back(event);
        drop(events);
        self.queue.wake(Events::IN);
    }

    /// Forgets a watch that is off the inode's list, and says so.
    fn forget(&self, number: i32) {
        let dentry = self.watched.lock().1.remove(&number);
        if dentry.is_some() {
            WATCHES.fetch_sub(1, Ordering::Relaxed);
            self.put(Event { watch: number, mask: IN_IGNORED, cookie: 0, name: Vec::new() });
        }
        drop(dentry);
    }
}

impl Watches {
    fn deliver(&self, event: u32, cookie: u32, name: &[u8], unlinked: bool) {
        let mut finished = Vec::new();
        let told: Vec<(Arc<Instance>, i32)> = {
            let mut list = self.list.lock();
            let wants = |watch: &Watch| {
                watch.mask & event & IN_ALL_EVENTS != 0 && !(unlinked && watch.mask & IN_EXCL_UNLINK != 0)
            };
            let told = list
                .iter()
                .filter(|watch| wants(watch))
                .filter_map(|watch| Some((watch.instance.upgrade()?, watch.number)));
            let told = told.collect();
            list.retain(|watch| {
                let done = watch.mask & IN_ONESHOT != 0 && wants(watch);
                if done {
                    finished.extend(watch.instance.upgrade().map(|instance| (instance, watch.number)));
                }
                !done && watch.instance.strong_count() > 0
            });
            told
        };
        for (instance, watch) in told {
            instance.put(Event { watch, mask: event, cookie, name: name.to_vec() });
        }
        for (instance, watch) in finished {
            instance.forget(watch);
        }
    }
}

fn watches(inode: &Inode) -> Option<&Watches> {
    inode.extra_if_any().map(|extra| &extra.watches)
}

/// Tells those who watch an entry or its directory.
pub fn notify(dentry: &Arc<Dentry>, event: u32) {
    if WATCHES.load(Ordering::Relaxed) == 0 {
        return;
    }
    let event = event | if dentry.inode().is_directory() { IN_ISDIR } else { 0 };
    if let Some(parent) = dentry.parent()
        && let Some(watches) = watches(parent.inode())
    {
        watches.deliver(event, 0, &dentry.name(), dentry.is_unlinked());
    }
    if let Some(watches) = watches(dentry.inode()) {
        watches.deliver(event, 0, b"", false);
    }
}

/// Tells those who watch an inode itself.
pub fn notify_inode(dentry: &Arc<Dentry>, event: u32) {
    if WATCHES.load(Ordering::Relaxed) == 0 {
        return;
    }
    if let Some(watches) = watches(dentry.inode()) {
        watches.deliver(event, 0, b"", false);
    }
}

/// Tells those who watch a directory about an entry of it.
pub fn notify_entry(directory: &Arc<Dentry>, event: u32, name: &[u8], cookie: u32) {
    if WATCHES.load(Ordering::Relaxed) == 0 {
        return;
    }
    if let Some(watches) = watches(directory.inode()) {
        watches.deliver(event, cookie, name, false);
    }
}

/// Tells those who watch something that a name of it was removed, and whether it was the last one.
pub fn unlinked(dentry: &Arc<Dentry>, last: bool) {
    if WATCHES.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Some(watches) = watches(dentry.inode()).filter(|_| last) else { return };
    watches.deliver(IN_DELETE_SELF, 0, b"", false);
    let gone = std::mem::take(&mut *watches.list.lock());
    for watch in gone {
        if let Some(instance) = watch.instance.upgrade() {
            instance.forget(watch.number);
        }
    }
}

/// Tells those who watch the directories and the entry itself about a rename.
pub fn moved(
    old_directory: &Arc<Dentry>,
    old_name: &[u8],
    new_directory: &Arc<Dentry>,
    new_name: &[u8],
    moved: &Arc<Dentry>,
) {
    if WATCHES.load(Ordering::Relaxed) == 0 {
        return;
    }
    let cookie = NEXT_COOKIE.fetch_add(1, Ordering::Relaxed);
    let directory = if moved.inode().is_directory() { IN_ISDIR } else { 0 };
    notify_entry(old_directory, IN_MOVED_FROM | directory, old_name, cookie);
    notify_entry(new_directory, IN_MOVED_TO | directory, new_name, cookie);
    if let Some(watches) = watches(moved.inode()) {
        watches.deliver(IN_MOVE_SELF, 0, b"", false);
    }
}

/// An open inotify instance.
#[derive(Default)]
pub struct Inotify(Arc<Instance>);

impl Inotify {
    /// Watches what a name stands for; answers the watch's number.
    ///
    /// # Errors
    /// ENOSPC, EEXIST with IN_MASK_CREATE, EINVAL for a mask without events.
    pub fn add(&self, dentry: &Arc<Dentry>, mask: u32) -> Result<i32, Errno> {
        if mask & IN_ALL_EVENTS == 0 || mask & (IN_MASK_ADD | IN_MASK_CREATE) == IN_MASK_ADD | IN_MASK_CREATE
        {
            return Err(Errno::EINVAL);
        }
        let kept = mask & (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT);
        let mut list = dentry.inode().extra().watches.list.lock();
        let mine = |watch: &&mut Watch| watch.instance.as_ptr() == Arc::as_ptr(&self.0);
        if let Some(watch) = list.iter_mut().find(mine) {
            if mask & IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            watch.mask = if mask & IN_MASK_ADD != 0 { watch.mask | kept } else { kept };
            return Ok(watch.number);
        }
        if WATCHES.load(Ordering::Relaxed) >= MAX_WATCHES {
            return Err(Errno::ENOSPC);
        }
        let number = {
            let mut watched = self.0.watched.lock();
            watched.0 += 1;
            let number = watched.0;
            watched.1.insert(number, dentry.clone());
            number
        };
        WATCHES.fetch_add(1, Ordering::Relaxed);
        list.push(Watch { instance: Arc::downgrade(&self.0), number, mask: kept });
        Ok(number)
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// EINVAL for an unknown number.
    pub fn remove(&self, number: i32) -> Result<(), Errno> {
        let dentry = self.0.watched.lock().1.get(&number).cloned().ok_or(Errno::EINVAL)?;
        self.take_off(&dentry, number);
        self.0.forget(number);
        Ok(())
    }

    fn mask(&self, watches: &Watches, number: i32) -> Option<u32> {
        let list = watches.list.lock();
        let mine = |watch: &&Watch| watch.number == number && watch.instance.as_ptr() == Arc::as_ptr(&self.0);
        list.iter().find(mine).map(|watch| watch.mask)
    }

    fn take_off(&self, dentry: &Dentry, number: i32) {
        if let Some(watches) = watches(dentry.inode()) {
            watches
                .list
                .lock()
                .retain(|watch| watch.number != number || watch.instance.as_ptr() != Arc::as_ptr(&self.0));
        }
    }
}

/// Bytes of an event in a guest's buffer; names are padded to the size of a header.
fn encoded(event: &Event) -> usize {
    HEADER + if event.name.is_empty() { 0 } else { (event.name.len() + 1).next_multiple_of(HEADER) }
}

impl File for Inotify {
    fn read(&self, _file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        let mut events = self.0.events.lock();
        let Some(first) = events.front() else { return Err(Errno::EAGAIN) };
        if encoded(first) > into.len() {
            return Err(Errno::EINVAL);
        }
        let mut at = 0;
        while let Some(event) = events.front() {
            let length = encoded(event);
            if length > into.len() - at {
                break;
            }
            let target = &mut into[at..at + length];
            target.fill(0);
            target[..4].copy_from_slice(&event.watch.to_le_bytes());
            target[4..8].copy_from_slice(&event.mask.to_le_bytes());
            target[8..12].copy_from_slice(&event.cookie.to_le_bytes());
            target[12..16].copy_from_slice(&((length - HEADER) as u32).to_le_bytes());
            target[HEADER..HEADER + event.name.len()].copy_from_slice(&event.name);
            at += length;
            events.pop_front();
        }
        Ok(at)
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.0.queue.register(waiter, key, mask);
        }
        if self.0.events.lock().is_empty() { Events::default() } else { Events::IN }
    }

    fn describe(&self, out: &mut String) {
        let mut watched: Vec<_> =
            self.0.watched.lock().1.iter().map(|(number, dentry)| (*number, dentry.clone())).collect();
        watched.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        for (number, dentry) in watched {
            let inode = dentry.inode();
            let mask = watches(inode).and_then(|watches| self.mask(watches, number)).unwrap_or(0);
            let _infallible = writeln!(
                out,
                "inotify wd:{number:x} ino:{:x} sdev:{:x} mask:{mask:x} ignored_mask:0",
                inode.number, inode.fs.device
            );
        }
    }

    fn pollable(&self) -> bool {
        true
    }

    fn readable_bytes(&self, _file: &OpenFile) -> Result<usize, Errno> {
        Ok(self.0.events.lock().iter().map(encoded).sum())
    }

    fn release(&self, _file: &OpenFile) {
        let watched = std::mem::take(&mut self.0.watched.lock().1);
        WATCHES.fetch_sub(watched.len(), Ordering::Relaxed);
        for (number, dentry) in watched {
            self.take_off(&dentry, number);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
