//! Abstract names.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Endpoint;
use crate::errno::Errno;
use crate::sync::Mutex;

/// The abstract names of a sandbox, each without its leading NUL.
#[derive(Default)]
pub struct Names {
    bound: Mutex<HashMap<Vec<u8>, Weak<Endpoint>>>,
}

impl Names {
    /// Gives a socket a name.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn bind(&self, name: &[u8], socket: &Arc<Endpoint>) -> Result<(), Errno> {
        let mut bound = self.bound.lock();
        if bound.get(name).is_some_and(|other| other.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        if bound.len().is_power_of_two() {
            bound.retain(|_, other| other.strong_count() > 0);
        }
        bound.insert(name.to_vec(), Arc::downgrade(socket));
        Ok(())
    }

    /// A free name of five hexadecimal digits, as Linux gives to sockets that ask for any.
    ///
    /// # Errors
    /// ENOSPC if all are taken.
    pub fn bind_any(&self, socket: &Arc<Endpoint>) -> Result<Vec<u8>, Errno> {
        for number in 0..0x10_0000u32 {
            let name = format!("{number:05x}").into_bytes();
            if self.bind(&name, socket).is_ok() {
                return Ok(name);
            }
        }
        Err(Errno::ENOSPC)
    }

    /// The socket with a name.
    ///
    /// # Errors
    /// ECONNREFUSED.
    pub fn find(&self, name: &[u8]) -> Result<Arc<Endpoint>, Errno> {
        self.bound.lock().get(name).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)
    }
}
