//! Signals of a launcher as values that a thread waits for, instead of handlers.

use std::io;

/// A set of signals that is blocked in all threads and taken by one.
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    set: libc::sigset_t,
}

impl Waited {
    /// Blocks `signals` in the calling thread and in those that it starts later: call it before any other thread is started,
    /// or they are delivered there.
    ///
    /// # Errors
    /// EINVAL for a number that is no signal.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: 1. sigset_t is plain data; sigemptyset fills it; 2. the pointers are to a local.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                if libc::sigaddset(&raw mut set, *signal) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
                0 => Ok(Waited { set }),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }

    /// Waits for the next one and returns its number.
    ///
    /// # Errors
    /// What sigwaitinfo says; never for an interruption.
    pub fn next(&self) -> io::Result<i32> {
        loop {
            // SAFETY: 1. the set was filled by `block`; 2. a null siginfo is allowed.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.set, std::ptr::null_mut()) };
            if signal > 0 {
                return Ok(signal);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_a_value() {
        let waited = Waited::block(&[libc::SIGWINCH]).expect("a signal");
        // SAFETY: 1. sends an ignorable, blocked signal to this thread.
        unsafe { libc::raise(libc::SIGWINCH) };
        assert_eq!(waited.next().expect("waits"), libc::SIGWINCH);
        assert!(Waited::block(&[1000]).is_err());
    }
}
