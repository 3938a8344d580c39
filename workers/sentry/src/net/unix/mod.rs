//! AF_UNIX sockets.
//!
//! A socket has an inbox that others put messages into. No two sockets are ever locked at a time: a sender takes
//! what it needs from its own state, lets go, and then works on the receiver's.

mod connect;
mod names;
mod receive;
mod send;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::{File, OpenFile, Waiter};
use crate::wait::{Events, WaitQueue};

pub use names::Names;
pub use receive::{Received, Take};
pub use send::Outgoing;

/// Bytes that an inbox takes (net.core.wmem_default).
pub const BUFFER: usize = 212_992;
/// Messages that a datagram inbox takes (net.unix.max_dgram_qlen, as distributions set it).
const MAX_DATAGRAMS: usize = 512;
/// Files in one message (SCM_MAX_FD).
pub const MAX_FILES: usize = 253;

/// Type of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Type {
    /// SOCK_STREAM.
    Stream = 1,
    /// SOCK_DGRAM.
    Datagram = 2,
    /// SOCK_SEQPACKET.
    Packet = 5,
}

/// Process, user and group (`struct ucred`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peer {
    /// Process; 0 if unknown.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A message, or a part of a stream, in an inbox.
struct Message {
    data: Vec<u8>,
    /// Bytes of the front that were read already (streams).
    read: usize,
    from: Vec<u8>,
    peer: Peer,
    files: Vec<Arc<OpenFile>>,
}

#[derive(Default)]
enum Role {
    #[default]
    Idle,
    Listening {
        backlog: usize,
        pending: VecDeque<Arc<Endpoint>>,
    },
    Connected(Weak<Endpoint>),
}

#[derive(Default)]
struct State {
    role: Role,
    /// Name: a path, or an abstract name that starts with NUL; empty if it has none.
    name: Vec<u8>,
    /// The peer's name, for getpeername.
    peer_name: Vec<u8>,
    /// The peer when it connected, for SO_PEERCRED.
    peer: Peer,
    inbox: VecDeque<Message>,
    inbox_bytes: usize,
    shut_read: bool,
    shut_write: bool,
    /// The peer sends no more.
    peer_done: bool,
    /// The peer is closed.
    peer_gone: bool,
    /// SO_ERROR.
    error: Option<Errno>,
}

/// One AF_UNIX socket.
pub struct Endpoint {
    /// Type.
    pub kind: Type,
    /// Who made it.
    pub owner: Peer,
    state: Mutex<State>,
    /// Things that happen to it.
    queue: WaitQueue,
    /// Its inbox has room again.
    room: WaitQueue,
    /// SO_PASSCRED.
    pub pass_credentials: AtomicBool,
    /// SO_RCVTIMEO in microseconds; 0 is none.
    pub receive_timeout: AtomicI64,
    /// SO_SNDTIMEO in microseconds; 0 is none.
    pub send_timeout: AtomicI64,
    /// Options that are on or off, kept and shown: a bit by the option's number.
    pub switches: AtomicU32,
    /// SO_LINGER: whether, and seconds; kept and shown.
    pub linger: AtomicI64,
    /// SO_SNDBUF and SO_RCVBUF as they were set: kept and shown.
    pub buffer_sizes: [AtomicU32; 2],
}

impl Endpoint {
    /// A socket without a name and a peer.
    pub fn new(kind: Type, owner: Peer) -> Arc<Self> {
        Arc::new(Self {
            kind,
            owner,
            state: Mutex::default(),
            queue: WaitQueue::new(),
            room: WaitQueue::new(),
            pass_credentials: AtomicBool::new(false),
            receive_timeout: AtomicI64::new(0),
            send_timeout: AtomicI64::new(0),
            switches: AtomicU32::new(0),
            linger: AtomicI64::new(0),
            buffer_sizes: [const { AtomicU32::new(BUFFER as u32) }; 2],
        })
    }

    /// Two sockets that are connected to each other.
    pub fn pair(kind: Type, owner: Peer) -> (Arc<Self>, Arc<Self>) {
        let (a, b) = (Self::new(kind, owner), Self::new(kind, owner));
        for (one, other) in [(&a, &b), (&b, &a)] {
            let mut state = one.state.lock();
            state.role = Role::Connected(Arc::downgrade(other));
            state.peer = owner;
        }
        (a, b)
    }

    /// Its name.
    pub fn name(&self) -> Vec<u8> {
        self.state.lock().name.clone()
    }

    /// The peer's name.
    ///
    /// # Errors
    /// ENOTCONN.
    pub fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let state = self.state.lock();
        match &state.role {
            Role::Connected(_) => Ok(state.peer_name.clone()),
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// SO_PEERCRED.
    pub fn peer(&self) -> Peer {
        self.state.lock().peer
    }

    /// SO_ACCEPTCONN.
    pub fn is_listening(&self) -> bool {
        matches!(self.state.lock().role, Role::Listening { .. })
    }

    /// SO_ERROR, which it clears.
    pub fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    fn connected(&self) -> Option<Arc<Self>> {
        match &self.state.lock().role {
            Role::Connected(peer) => peer.upgrade(),
            _ => None,
        }
    }

    /// Whether a write now would find room.
    fn has_room(&self) -> bool {
        let state = self.state.lock();
        match self.kind {
            Type::Stream => state.inbox_bytes < BUFFER,
            _ => state.inbox_bytes < BUFFER && state.inbox.len() < MAX_DATAGRAMS,
        }
    }

    /// shutdown(2).
    ///
    /// # Errors
    /// None for any state of a socket, as on Linux.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<(), Errno> {
        let peer = {
            let mut state = self.state.lock();
            let peer = match &state.role {
                Role::Connected(peer) => peer.upgrade(),
                Role::Idle | Role::Listening { .. } => None,
            };
            state.shut_read |= read;
            state.shut_write |= write;
            peer
        };
        if let Some(peer) = peer.filter(|_| self.kind != Type::Datagram) {
            let mut state = peer.state.lock();
            state.peer_done |= write;
            state.shut_write |= read;
            drop(state);
            peer.queue.wake(Events::ALL);
            peer.room.wake(Events::ALL);
        }
        self.queue.wake(Events::ALL);
        self.room.wake(Events::ALL);
        Ok(())
    }

    /// The last descriptor is closed.
    fn close(&self) {
        let (role, inbox) = {
            let mut state = self.state.lock();
            state.shut_read = true;
            state.shut_write = true;
            state.inbox_bytes = 0;
            (std::mem::take(&mut state.role), std::mem::take(&mut state.inbox))
        };
        match role {
            Role::Idle => {}
            Role::Listening { pending, .. } => pending.iter().for_each(|socket| socket.close()),
            Role::Connected(peer) => {
                if let Some(peer) = peer.upgrade().filter(|_| self.kind != Type::Datagram) {
                    let mut state = peer.state.lock();
                    state.peer_done = true;
                    state.peer_gone = true;
                    if !inbox.is_empty() {
                        state.error = Some(Errno::ECONNRESET);
                    }
                    drop(state);
                    peer.queue.wake(Events::ALL);
                }
            }
        }
        self.queue.wake(Events::ALL);
        self.room.wake(Events::ALL);
        // Files in messages are closed here, where nothing is locked.
        let_go(inbox.into_iter().flat_map(|message| message.files));
    }

    /// What it is ready for.
    fn events(&self) -> Events {
        let mut events = Events::default();
        let peer = {
            let state = self.state.lock();
            let pending = matches!(&state.role, Role::Listening { pending, .. } if !pending.is_empty());
            if !state.inbox.is_empty() || pending || state.peer_done || state.shut_read {
                events = events | Events::IN;
            }
            if state.peer_done || state.shut_read {
                events = events | Events::RDHUP;
            }
            if state.peer_gone || state.shut_read && state.shut_write {
                events = events | Events::HUP;
            }
            if state.error.is_some() {
                events = events | Events::ERR;
            }
            match &state.role {
                Role::Connected(peer) => peer.upgrade(),
                Role::Idle if self.kind == Type::Datagram => return events | Events::OUT,
                Role::Idle => return events | Events::OUT | Events::HUP,
                Role::Listening { .. } => return events,
            }
        };
        if peer.is_none_or(|peer| peer.has_room()) {
            events = events | Events::OUT;
        }
        events
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let inbox = std::mem::take(&mut self.state.lock().inbox);
        let_go(inbox.into_iter().flat_map(|message| message.files));
    }
}

/// Drops files that were in messages. A socket among them may have messages with sockets in turn, as many deep as
/// a guest likes: so what comes up meanwhile on this thread is done after, not within.
fn let_go(files: impl IntoIterator<Item = Arc<OpenFile>>) {
    thread_local! {
        static LEFT: RefCell<Vec<Arc<OpenFile>>> = const { RefCell::new(Vec::new()) };
        static BUSY: Cell<bool> = const { Cell::new(false) };
    }
    LEFT.with_borrow_mut(|left| left.extend(files));
    if BUSY.replace(true) {
        return;
    }
    while let Some(file) = LEFT.with_borrow_mut(Vec::pop) {
        drop(file);
    }
    BUSY.set(false);
}

/// An open AF_UNIX socket.
pub struct SocketFile(pub Arc<Endpoint>);

impl File for SocketFile {
    fn read(&self, _file: &OpenFile, into: &mut [u8]) -> Result<usize, Errno> {
        self.0.read(into)
    }

    fn write(&self, _file: &OpenFile, from: &[u8]) -> Result<usize, Errno> {
        self.0.send(Outgoing { data: from, peer: self.0.owner, files: Vec::new(), target: None })
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.0.queue.register(waiter, key, mask);
            if let Some(peer) = self.0.connected().filter(|_| mask.intersects(Events::OUT)) {
                peer.room.register(waiter, key, Events::OUT);
            }
        }
        self.0.events()
    }

    fn pollable(&self) -> bool {
        true
    }

    fn readable_bytes(&self, _file: &OpenFile) -> Result<usize, Errno> {
        let state = self.0.state.lock();
        Ok(match self.0.kind {
            Type::Stream => state.inbox_bytes,
            _ => state.inbox.front().map_or(0, |message| message.data.len()),
        })
    }

    fn release(&self, _file: &OpenFile) {
        self.0.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Endpoint {
    /// SO_PASSCRED.
    pub fn passes_credentials(&self) -> bool {
        self.pass_credentials.load(Ordering::Relaxed)
    }
}
