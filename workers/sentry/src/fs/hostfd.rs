//! The job's standard streams: descriptors of the host.
//!
//! The sentry never waits in a host call for them: reads and writes are tried without waiting, and one thread
//! watches all of them and wakes those who wait.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::FileType;
use rustix::io::{IoSlice, IoSliceMut, ReadWriteFlags};

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::flags::{O_ACCMODE, O_RDONLY, O_WRONLY};
use crate::vfs::{Body, Dentry, File, Inode, Kind, Meta, OpenFile, Vfs, Waiter};
use crate::wait::{Events, WaitQueue, run_woken};

/// A descriptor of the host's that a job may use as a stream.
pub struct HostFile {
    fd: OwnedFd,
    kind: Kind,
    queue: WaitQueue,
    /// Bytes read and written through it.
    transferred: Mutex<(u64, u64)>,
}

/// Bytes that a write without RWF_NOWAIT may have: what poll(2) promised not to wait for.
const SAFE_WRITE: usize = 4096;

/// "The current position" for preadv2 and pwritev2.
const CURRENT: u64 = u64::MAX;

impl HostFile {
    /// Bytes read and written so far.
    pub fn transferred(&self) -> (u64, u64) {
        *self.transferred.lock()
    }

    /// Whether it is a file on the host's disk, for which there is nothing to wait.
    fn is_regular(&self) -> bool {
        self.kind == Kind::Regular
    }

    fn ready(&self) -> Events {
        if self.is_regular() {
            return Events::IN | Events::OUT;
        }
        let wanted = PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP;
        let mut fds = [PollFd::new(&self.fd, wanted)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(_) => Events(u32::from(fds[0].revents().bits())),
            Err(_) => Events::ERR,
        }
    }

    fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        if self.is_regular() {
            return Ok(rustix::io::read(&self.fd, into)?);
        }
        let mut slices = [IoSliceMut::new(into)];
        match rustix::io::preadv2(&self.fd, &mut slices, CURRENT, ReadWriteFlags::NOWAIT) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                if self.ready().intersects(Events::IN | Events::HUP | Events::ERR) {
                    Ok(rustix::io::read(&self.fd, into)?)
                } else {
                    Err(Errno::EAGAIN)
                }
            }
            result => Ok(result?),
        }
    }

    fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        if self.is_regular() {
            return Ok(rustix::io::write(&self.fd, from)?);
        }
        match rustix::io::pwritev2(&self.fd, &[IoSlice::new(from)], CURRENT, ReadWriteFlags::NOWAIT) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::SPIPE) => {
                if self.ready().intersects(Events::OUT | Events::ERR) {
                    Ok(rustix::io::write(&self.fd, &from[..from.len().min(SAFE_WRITE)])?)
                } else {
                    Err(Errno::EAGAIN)
                }
            }
            result => Ok(result?),
        }
    }
}

impl Vfs {
    /// Makes a host descriptor one of the job's open files. `readable` and `writable` say which of the two it is
    /// for.
    ///
    /// # Errors
    /// What the host says about the descriptor; EMFILE.
    pub fn host_stream(&self, fd: OwnedFd, readable: bool, writable: bool) -> Result<Arc<OpenFile>, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::Regular,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::Socket => Kind::Socket,
            _ => Kind::Fifo,
        };
        let host = Arc::new(HostFile { fd, kind, queue: WaitQueue::new(), transferred: Mutex::default() });
        if !host.is_regular() {
            Poller::watch(&host)?;
        }
        let number = self.anonymous().next_number();
        // The job's own streams are its own, whoever it is.
        let meta = Meta::new(0o666, 0, 0);
        let inode = Inode::new(self.anonymous(), number, kind, meta, Body::Host(host.clone()));
        let dentry = Dentry::anonymous(&format!("pipe:[{number}]"), inode);
        let flags = match (readable, writable) {
            (true, true) => linux_raw_sys::general::O_RDWR,
            (false, _) => O_WRONLY,
            (true, false) => O_RDONLY,
        };
        open(dentry, flags, &host)
    }
}

/// Opens a stream once more (through /dev/stdout and the like).
///
/// # Errors
/// None; for symmetry with other kinds.
pub fn open(dentry: Arc<Dentry>, flags: u32, host: &Arc<HostFile>) -> Result<Arc<OpenFile>, Errno> {
    let _ = flags & O_ACCMODE;
    Ok(OpenFile::new(dentry, flags, Box::new(HostStream(host.clone()))))
}

/// An open stream.
pub struct HostStream(Arc<HostFile>);

impl HostStream {
    /// The host's file.
    pub fn host(&self) -> &Arc<HostFile> {
        &self.0
    }
}

impl File for HostStream {
    fn read(&self, _file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        let count = self.0.read(into)?;
        self.0.transferred.lock().0 += count as u64;
        Ok(count)
    }

    fn write(&self, _file: &OpenFile, from: &[u8]) -> Result<usize, Errno> {
        if from.is_empty() {
            return Ok(0);
        }
        let count = self.0.write(from)?;
        self.0.transferred.lock().1 += count as u64;
        Ok(count)
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.0.queue.register(waiter, key, mask);
        }
        self.0.ready()
    }

    fn pollable(&self) -> bool {
        !self.0.is_regular()
    }

    fn readable_bytes(&self, _file: &OpenFile) -> Result<usize, Errno> {
        Ok(rustix::io::ioctl_fionread(&self.0.fd)? as usize)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The thread that watches host descriptors. There is one in a process; it lives as long.
struct Poller {
    epoll: OwnedFd,
    /// What is watched; the index is the epoll's data.
    watched: Mutex<Vec<Weak<HostFile>>>,
}

static POLLER: OnceLock<Poller> = OnceLock::new();

impl Poller {
    fn get() -> Result<&'static Self, Errno> {
        if let Some(poller) = POLLER.get() {
            return Ok(poller);
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if POLLER.set(Self { epoll, watched: Mutex::default() }).is_ok() {
            let spawned = std::thread::Builder::new()
                .name("streams".into())
                .stack_size(128 << 10)
                .spawn(|| POLLER.get().map(Self::run));
            spawned.map_err(|_| Errno::EAGAIN)?;
        }
        POLLER.get().ok_or(Errno::EIO)
    }

    fn watch(host: &Arc<HostFile>) -> Result<(), Errno> {
        let poller = Self::get()?;
        let index = {
            let mut watched = poller.watched.lock();
            watched.push(Arc::downgrade(host));
            watched.len() as u64 - 1
        };
        // Edge-triggered: a stream that nobody waits for costs nothing.
        let events =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        match epoll::add(&poller.epoll, host.fd.as_fd(), epoll::EventData::new_u64(index), events) {
            // The same stream twice (2>&1 by the launcher), or one that is always ready.
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn run(&self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(16);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let index = event.data.u64() as usize;
                let host = self.watched.lock().get(index).and_then(Weak::upgrade);
                if let Some(host) = host {
                    let flags = event.flags;
                    host.queue.wake(Events(flags.bits()));
                }
            }
            run_woken();
        }
    }
}
