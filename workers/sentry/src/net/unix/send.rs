//! Sending.

use std::sync::Arc;

use super::{BUFFER, Endpoint, MAX_DATAGRAMS, Message, Peer, Role, Type};
use crate::errno::Errno;
use crate::vfs::OpenFile;
use crate::wait::Events;

/// What is to be sent.
pub struct Outgoing<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// Who sends.
    pub peer: Peer,
    /// Files that go with it.
    pub files: Vec<Arc<OpenFile>>,
    /// Where to, for a datagram socket that is not connected or says so.
    pub target: Option<Arc<Endpoint>>,
}

/// A part of a stream is put together with the next one up to this many bytes.
const COALESCE: usize = 32 << 10;

impl Endpoint {
    /// Sends; answers how many bytes (all of them but for streams).
    ///
    /// # Errors
    /// EAGAIN while the receiver's inbox is full; EPIPE, ENOTCONN, ECONNREFUSED, ECONNRESET, EMSGSIZE.
    pub fn send(&self, outgoing: Outgoing<'_>) -> Result<usize, Errno> {
        let (target, name) = {
            let mut state = self.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            if state.shut_write || state.peer_gone {
                return Err(Errno::EPIPE);
            }
            let connected = match &state.role {
                Role::Connected(peer) => Some(peer.upgrade()),
                _ => None,
            };
            let target = match (&outgoing.target, connected) {
                (Some(target), _) if self.kind == Type::Datagram => target.clone(),
                (Some(_), Some(_)) => return Err(Errno::EISCONN),
                (Some(_), None) => return Err(Errno::EOPNOTSUPP),
                (None, Some(Some(peer))) => peer,
                (None, Some(None)) if self.kind == Type::Datagram => return Err(Errno::ECONNREFUSED),
                (None, Some(None)) => return Err(Errno::EPIPE),
                (None, None) => return Err(Errno::ENOTCONN),
            };
            (target, state.name.clone())
        };
        if self.kind == Type::Stream {
            target.put_stream(outgoing)
        } else {
            if self.kind == Type::Datagram && !target.takes_from(self) {
                return Err(Errno::EPERM);
            }
            target.put_message(outgoing, name)
        }
    }

    fn put_stream(&self, outgoing: Outgoing<'_>) -> Result<usize, Errno> {
        if outgoing.data.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.lock();
        if state.shut_read {
            return Err(Errno::EPIPE);
        }
        let room = BUFFER.saturating_sub(state.inbox_bytes);
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let count = outgoing.data.len().min(room);
        let data = &outgoing.data[..count];
        match state.inbox.back_mut() {
            Some(last)
                if outgoing.files.is_empty()
                    && last.files.is_empty()
                    && last.peer == outgoing.peer
                    && last.data.len() + count <= COALESCE =>
            {
                last.data.extend_from_slice(data);
            }
            _ => state.inbox.push_back(Message {
                data: data.to_vec(),
                read: 0,
                from: Vec::new(),
                peer: outgoing.peer,
                files: outgoing.files,
            }),
        }
        state.inbox_bytes += count;
        drop(state);
        self.queue.wake(Events::IN);
        Ok(count)
    }

    fn put_message(&self, outgoing: Outgoing<'_>, from: Vec<u8>) -> Result<usize, Errno> {
        let count = outgoing.data.len();
        if count > BUFFER - 32 {
            return Err(Errno::EMSGSIZE);
        }
        let mut state = self.state.lock();
        if state.shut_read {
            return Err(if self.kind == Type::Datagram { Errno::ECONNREFUSED } else { Errno::EPIPE });
        }
        let full = state.inbox_bytes + count > BUFFER && !state.inbox.is_empty();
        if full || state.inbox.len() >= MAX_DATAGRAMS {
            return Err(Errno::EAGAIN);
        }
        state.inbox_bytes += count;
        state.inbox.push_back(Message {
            data: outgoing.data.to_vec(),
            read: 0,
            from,
            peer: outgoing.peer,
            files: outgoing.files,
        });
        drop(state);
        self.queue.wake(Events::IN);
        Ok(count)
    }
}
