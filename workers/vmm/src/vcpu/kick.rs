//! How a processor is brought out of the guest: a real-time signal whose handler sets `immediate_exit`, so that it makes no
//! difference whether the thread was in KVM_RUN already or about to enter it.

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// The running processor's `immediate_exit`, or null. Const-initialised and without a destructor, so that the handler
    /// may look at it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The handler or the signal can't be set up or sent.
#[derive(Debug, thiserror::Error)]
#[error("can't install the handler that stops the guest's processors")]
pub struct KickError(#[source] vmm_sys_util::errno::Error);

/// The first real-time signal; the C library keeps its own out of the range.
fn signal() -> i32 {
    SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: 1. `Kicker::arm` stored it for this very thread, and `disarm` clears it before the run page is unmapped;
        // 2. it is a byte that the kernel reads and others only write.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler, for the whole process.
///
/// # Errors
/// [`KickError`].
pub fn install() -> Result<(), KickError> {
    register_signal_handler(signal(), on_kick).map_err(KickError)
}

/// Arms the calling thread for as long as it lives.
#[derive(Debug)]
pub struct Kicker(());

impl Kicker {
    /// From now on a kick of this thread sets the byte.
    ///
    /// # Safety
    /// `immediate_exit` must stay valid until the value is dropped, on this thread.
    pub unsafe fn arm(immediate_exit: *mut u8) -> Self {
        IMMEDIATE_EXIT.set(immediate_exit);
        Self(())
    }

    /// Kicks a processor's thread; one that has ended is fine.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn kick<T>(thread: &JoinHandle<T>) -> io::Result<()> {
        if thread.is_finished() {
            return Ok(());
        }
        // SAFETY: 1. the thread has not been joined, since its handle is here, so its id is valid; 2. the signal has a handler.
        match unsafe { libc::pthread_kill(thread.as_pthread_t(), signal()) } {
            0 | libc::ESRCH => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
