//! Attacks on file mappings.

use std::os::fd::AsFd;
use std::sync::Arc;

use bulkhead_platform::{Call, FileAccess, GuestThread};

use super::support::kernel::{End, Mini, Policy, TEST_CALL, boot};
use super::{assert_unharmed, attack, config, file_kernel};

pub(crate) fn writable_mapping() {
    let (file, kernel) = file_kernel(None);
    let (end, printed) = attack(&kernel, "rights", &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "mprotect -13\n"));
    assert_eq!(std::fs::read(file.path()).expect("the file")[0], b'P');
    assert_unharmed(&kernel);
}

pub(crate) fn writable_mapping_escapes() {
    let (file, kernel) = file_kernel(Some("exact descriptor rights"));
    let (_, printed) = attack(&kernel, "rights", &[]);
    assert_eq!(printed, "mprotect 0\n");
    assert_eq!(std::fs::read(file.path()).expect("the file")[0], b'X', "the guest wrote to the file");
}

pub(crate) fn growing_mremap() {
    let (_file, kernel) = file_kernel(None);
    let (end, printed) = attack(&kernel, "grow", &[]);
    assert_eq!((end, printed.as_str()), (End::Exited(0), "refused -14\nanonymous 7\n"));
    assert_unharmed(&kernel);
}

pub(crate) fn growing_mremap_escapes() {
    let (_file, kernel) = file_kernel(Some("growing mremap notified"));
    let (_, printed) = attack(&kernel, "grow", &[]);
    assert_eq!(printed, "secret\nanonymous 7\n");
}

/// Tries to inject what is no file.
struct Injector;

impl Policy for Injector {
    fn call(&self, kernel: &Mini, thread: &Arc<GuestThread>, call: &Call) -> bool {
        if call.nr != TEST_CALL {
            return false;
        }
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let directory = std::fs::File::open("/").expect("/");
        let device = std::fs::File::open("/dev/null").expect("/dev/null");
        for fd in [socket.as_fd(), directory.as_fd(), device.as_fd()] {
            let refused = thread.add_fd(fd, None, FileAccess::ReadOnly).is_err();
            kernel.note(if refused { "refused" } else { "injected" });
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read_only = std::fs::File::open(file.path()).expect("the file");
        let writable = thread.add_fd(read_only.as_fd(), None, FileAccess::ReadWrite).is_err();
        kernel.note(if writable { "refused" } else { "injected" });
        thread.ret(0);
        true
    }
}

pub(crate) fn descriptors_that_are_no_files() {
    let kernel = boot(config(None), Injector);
    let (_, _) = attack(&kernel, "rights", &[]);
    let notes = kernel.notes.lock().expect("notes").clone();
    assert_eq!(notes, ["refused", "refused", "refused", "refused"]);
}
