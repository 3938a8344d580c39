//! Sockets of the internet: they exist, so that programs that only ask go on, but nothing can be reached.

use std::any::Any;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::errno::Errno;
use crate::sync::Mutex;
use crate::vfs::{File, OpenFile, Waiter};
use crate::wait::{Events, WaitQueue};

/// The first port that is given to sockets that ask for any.
static NEXT_PORT: AtomicU16 = AtomicU16::new(32_768);

/// An AF_INET or AF_INET6 socket.
pub struct InetSocket {
    /// AF_INET (2) or AF_INET6 (10).
    pub family: u16,
    /// SOCK_STREAM (1) or SOCK_DGRAM (2).
    pub kind: u32,
    /// Protocol as SO_PROTOCOL shows it.
    pub protocol: u32,
    /// The bound `sockaddr`, if any.
    address: Mutex<Option<Vec<u8>>>,
    listening: Mutex<bool>,
    queue: WaitQueue,
}

impl InetSocket {
    /// A socket without an address.
    pub fn new(family: u16, kind: u32, protocol: u32) -> Self {
        let (address, listening) = (Mutex::new(None), Mutex::new(false));
        Self { family, kind, protocol, address, listening, queue: WaitQueue::new() }
    }

    /// Bytes of its `sockaddr`.
    fn address_length(&self) -> usize {
        if self.family == 2 { 16 } else { 28 }
    }

    /// bind(2).
    ///
    /// # Errors
    /// EINVAL, EAFNOSUPPORT.
    pub fn bind(&self, address: &[u8]) -> Result<(), Errno> {
        let Some((family, _)) = address.split_first_chunk::<2>() else { return Err(Errno::EINVAL) };
        if address.len() < self.address_length() {
            return Err(Errno::EINVAL);
        }
        if u16::from_le_bytes(*family) != self.family {
            return Err(Errno::EAFNOSUPPORT);
        }
        let mut bound = self.address.lock();
        if bound.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut address = address[..self.address_length()].to_vec();
        if address[2..4] == [0, 0] {
            let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed).max(32_768);
            address[2..4].copy_from_slice(&port.to_be_bytes());
        }
        *bound = Some(address);
        Ok(())
    }

    /// listen(2). Nobody will ever connect.
    ///
    /// # Errors
    /// EOPNOTSUPP for datagrams.
    pub fn listen(&self) -> Result<(), Errno> {
        if self.kind != 1 {
            return Err(Errno::EOPNOTSUPP);
        }
        *self.listening.lock() = true;
        Ok(())
    }

    /// Whether it listens.
    pub fn is_listening(&self) -> bool {
        *self.listening.lock()
    }

    /// Its `sockaddr`, all zeros if it has none.
    pub fn address(&self) -> Vec<u8> {
        self.address.lock().clone().unwrap_or_else(|| {
            let mut address = vec![0; self.address_length()];
            address[..2].copy_from_slice(&self.family.to_le_bytes());
            address
        })
    }
}

impl File for InetSocket {
    fn read(&self, _file: &OpenFile, _into: &mut [u8]) -> Result<usize, Errno> {
        Err(if self.kind == 1 { Errno::ENOTCONN } else { Errno::EAGAIN })
    }

    fn write(&self, _file: &OpenFile, _from: &[u8]) -> Result<usize, Errno> {
        Err(if self.kind == 1 { Errno::EPIPE } else { Errno::EDESTADDRREQ })
    }

    fn poll(&self, _file: &OpenFile, waiter: Waiter<'_>) -> Events {
        if let Some((waiter, key, mask)) = waiter {
            self.queue.register(waiter, key, mask);
        }
        match (self.kind, self.is_listening()) {
            (1, true) => Events::default(),
            (1, false) => Events::OUT | Events::HUP,
            _ => Events::OUT,
        }
    }

    fn pollable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
