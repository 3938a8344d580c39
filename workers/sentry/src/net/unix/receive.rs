//! Receiving.

use std::sync::Arc;

use super::{Endpoint, Peer, Role, State, Type};
use crate::errno::Errno;
use crate::vfs::OpenFile;
use crate::wait::Events;

/// How to receive.
#[derive(Debug, Clone, Copy, Default)]
pub struct Take {
    /// Leave it in the inbox (MSG_PEEK).
    pub peek: bool,
    /// Files are wanted; otherwise they are dropped.
    pub files: bool,
}

/// What was received.
#[derive(Default)]
pub struct Received {
    /// Bytes that were copied.
    pub count: usize,
    /// Bytes that the message had.
    pub length: usize,
    /// The sender's name.
    pub from: Vec<u8>,
    /// Who sent it.
    pub peer: Option<Peer>,
    /// Files that came with it.
    pub files: Vec<Arc<OpenFile>>,
}

impl Endpoint {
    /// Receives without anything but the bytes.
    ///
    /// # Errors
    /// As [`Endpoint::receive`].
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        if into.is_empty() && self.kind == Type::Stream {
            return Ok(0);
        }
        self.receive(into, Take::default()).map(|received| received.count)
    }

    /// Receives into `into`: of a stream as much as there is, else one message.
    ///
    /// # Errors
    /// EAGAIN while there is nothing; ENOTCONN, ECONNRESET, EINVAL.
    pub fn receive(&self, into: &mut [u8], take: Take) -> Result<Received, Errno> {
        let mut dropped = Vec::new();
        let (received, peer) = {
            let mut state = self.state.lock();
            if state.inbox.is_empty() {
                return self.nothing(&mut state);
            }
            let received = if self.kind == Type::Stream {
                take_stream(&mut state, into, take, &mut dropped)
            } else {
                take_message(&mut state, into, take, &mut dropped)
            };
            let peer = match &state.role {
                Role::Connected(peer) => peer.upgrade(),
                _ => None,
            };
            (received, peer)
        };
        super::let_go(dropped);
        if !take.peek {
            self.room.wake(Events::OUT);
            if let Some(peer) = peer {
                peer.queue.wake(Events::OUT);
            }
        }
        Ok(received)
    }

    fn nothing(&self, state: &mut State) -> Result<Received, Errno> {
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.peer_done || state.shut_read {
            return Ok(Received::default());
        }
        match state.role {
            Role::Listening { .. } => Err(Errno::EINVAL),
            Role::Idle if self.kind == Type::Stream => Err(Errno::EINVAL),
            Role::Idle if self.kind == Type::Packet => Err(Errno::ENOTCONN),
            _ => Err(Errno::EAGAIN),
        }
    }
}

fn take_message(
    state: &mut State,
    into: &mut [u8],
    take: Take,
    dropped: &mut Vec<Arc<OpenFile>>,
) -> Received {
    let Some(message) = state.inbox.front_mut() else { return Received::default() };
    let count = into.len().min(message.data.len());
    into[..count].copy_from_slice(&message.data[..count]);
    let mut received = Received {
        count,
        length: message.data.len(),
        from: message.from.clone(),
        peer: Some(message.peer),
        files: Vec::new(),
    };
    if take.peek {
        if take.files {
            received.files.clone_from(&message.files);
        }
        return received;
    }
    if let Some(message) = state.inbox.pop_front() {
        state.inbox_bytes -= message.data.len();
        if take.files {
            received.files = message.files;
        } else {
            dropped.extend(message.files);
        }
    }
    received
}

fn take_stream(state: &mut State, into: &mut [u8], take: Take, dropped: &mut Vec<Arc<OpenFile>>) -> Received {
    let mut received = Received::default();
    let mut index = 0;
    while received.count < into.len() {
        let Some(message) = state.inbox.get_mut(index) else { break };
        // What one read returns comes from one sender, and files belong to its first byte.
        let other = received.peer.is_some_and(|peer| peer != message.peer);
        if other || received.count > 0 && !message.files.is_empty() {
            break;
        }
        received.peer = Some(message.peer);
        let rest = &message.data[message.read..];
        let count = rest.len().min(into.len() - received.count);
        into[received.count..received.count + count].copy_from_slice(&rest[..count]);
        received.count += count;
        let had_files = !message.files.is_empty();
        if take.peek {
            if take.files && had_files {
                received.files.clone_from(&message.files);
            }
            index += 1;
        } else {
            let files = std::mem::take(&mut message.files);
            if take.files {
                received.files.extend(files);
            } else {
                dropped.extend(files);
            }
            message.read += count;
            let finished = message.read == message.data.len();
            state.inbox_bytes -= count;
            if finished {
                state.inbox.pop_front();
            }
        }
        if had_files {
            break;
        }
    }
    received.length = received.count;
    received
}
