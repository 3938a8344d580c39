//! bind, listen, connect, accept.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Endpoint, Peer, Role, Type};
use crate::errno::Errno;
use crate::wait::{Events, WaitQueue};

/// Longest backlog (net.core.somaxconn).
const MAX_BACKLOG: usize = 4096;

impl Endpoint {
    /// Notes its name, which the caller has entered where others find it.
    ///
    /// # Errors
    /// EINVAL if it has one.
    pub fn set_name(&self, name: Vec<u8>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if !state.name.is_empty() {
            return Err(Errno::EINVAL);
        }
        state.name = name;
        Ok(())
    }

    /// Whether it has a name.
    pub fn is_bound(&self) -> bool {
        !self.state.lock().name.is_empty()
    }

    /// listen(2).
    ///
    /// # Errors
    /// EINVAL without a name or when connected, EOPNOTSUPP for datagrams.
    pub fn listen(&self, backlog: i32) -> Result<(), Errno> {
        if self.kind == Type::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let backlog = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        let mut state = self.state.lock();
        if state.name.is_empty() {
            return Err(Errno::EINVAL);
        }
        match &mut state.role {
            Role::Idle => state.role = Role::Listening { backlog, pending: VecDeque::new() },
            Role::Listening { backlog: old, .. } => *old = backlog,
            Role::Connected(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Who waits for a listener's backlog to have room.
    pub fn room_queue(&self) -> &WaitQueue {
        &self.room
    }

    /// Connects to what has been found under a name. `who` connects.
    ///
    /// # Errors
    /// EPROTOTYPE, ECONNREFUSED, EISCONN, EINVAL; EAGAIN while the backlog is full.
    pub fn connect(self: &Arc<Self>, target: &Arc<Self>, who: Peer) -> Result<(), Errno> {
        if self.kind != target.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if self.kind == Type::Datagram {
            if !target.takes_from(self) {
                return Err(Errno::EPERM);
            }
            self.disconnect();
            let name = target.name();
            let mut state = self.state.lock();
            state.role = Role::Connected(Arc::downgrade(target));
            state.peer_name = name;
            drop(state);
            self.queue.wake(Events::OUT);
            return Ok(());
        }
        match self.state.lock().role {
            Role::Idle => {}
            Role::Connected(_) => return Err(Errno::EISCONN),
            Role::Listening { .. } => return Err(Errno::EINVAL),
        }
        let accepted = Self::new(self.kind, target.owner);
        let own_name = self.name();
        let name = {
            let mut state = target.state.lock();
            if state.shut_read {
                return Err(Errno::ECONNREFUSED);
            }
            let name = state.name.clone();
            let Role::Listening { backlog, pending } = &mut state.role else {
                return Err(Errno::ECONNREFUSED);
            };
            if pending.len() > *backlog {
                return Err(Errno::EAGAIN);
            }
            {
                // Nobody else knows it yet: no order to keep.
                let mut new = accepted.state.lock();
                new.role = Role::Connected(Arc::downgrade(self));
                new.name.clone_from(&name);
                new.peer_name = own_name;
                new.peer = who;
            }
            pending.push_back(accepted.clone());
            name
        };
        {
            let mut state = self.state.lock();
            state.role = Role::Connected(Arc::downgrade(&accepted));
            state.peer_name = name;
            state.peer = target.owner;
        }
        self.queue.wake(Events::OUT);
        target.queue.wake(Events::IN);
        Ok(())
    }

    /// Ends a datagram socket's association (AF_UNSPEC).
    pub fn disconnect(&self) {
        let role = {
            let mut state = self.state.lock();
            state.peer_name.clear();
            std::mem::take(&mut state.role)
        };
        // Whoever was connected to it in turn hears of it.
        if let Role::Connected(peer) = role
            && let Some(peer) = peer.upgrade().filter(|peer| peer.is_connected_to(self))
        {
            peer.state.lock().error = Some(Errno::ECONNRESET);
            peer.queue.wake(Events::ALL);
        }
    }

    fn is_connected_to(&self, other: &Self) -> bool {
        matches!(&self.state.lock().role, Role::Connected(peer) if std::ptr::eq(peer.as_ptr(), other))
    }

    /// Whether a datagram socket takes messages from `sender`: one that is connected takes them from its peer only.
    pub(super) fn takes_from(&self, sender: &Self) -> bool {
        match &self.state.lock().role {
            Role::Connected(peer) => peer.strong_count() == 0 || std::ptr::eq(peer.as_ptr(), sender),
            _ => true,
        }
    }

    /// accept(2).
    ///
    /// # Errors
    /// EAGAIN while nobody connects, EINVAL if it does not listen, EOPNOTSUPP for datagrams.
    pub fn accept(&self) -> Result<Arc<Self>, Errno> {
        if self.kind == Type::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let socket = {
            let mut state = self.state.lock();
            let shut = state.shut_read;
            match &mut state.role {
                Role::Listening { pending, .. } => match pending.pop_front() {
                    Some(socket) => socket,
                    None if shut => return Err(Errno::EINVAL),
                    None => return Err(Errno::EAGAIN),
                },
                _ => return Err(Errno::EINVAL),
            }
        };
        self.room.wake(Events::OUT);
        Ok(socket)
    }
}
