//! The job's standard streams: host pipes and files.

use std::sync::Arc;
use std::sync::mpsc;

use crate::errno::Errno;
use crate::fs::testing::TestVfs;
use crate::wait::{Events, Wake};

struct Tell(mpsc::SyncSender<()>);

impl Wake for Tell {
    fn wake(&self, _key: u64, _events: Events) {
        let _ = self.0.try_send(());
    }
}

fn waiter() -> (Arc<dyn Wake>, mpsc::Receiver<()>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    (Arc::new(Tell(sender)), receiver)
}

#[test]
fn a_pipe_of_the_hosts_is_never_waited_for() {
    let test = TestVfs::new(1 << 20);
    let (r, w) = rustix::pipe::pipe().unwrap();
    let stdin = test.vfs.host_stream(r, true, false).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(stdin.read(&mut buffer), Err(Errno::EAGAIN));
    assert_eq!(stdin.write(b"x"), Err(Errno::EBADF));
    let (wake, woken) = waiter();
    assert_eq!(stdin.poll(Some((&wake, 0, Events::IN))) & Events::IN, Events::default());
    rustix::io::write(&w, b"input").unwrap();
    woken.recv().unwrap();
    assert_eq!(stdin.read(&mut buffer), Ok(5));
    assert_eq!(&buffer[..5], b"input");
    drop(w);
    assert_eq!(stdin.read(&mut buffer), Ok(0));
}

#[test]
fn a_full_pipe_of_the_hosts_wakes_its_writer() {
    let test = TestVfs::new(1 << 20);
    let (r, w) = rustix::pipe::pipe().unwrap();
    let stdout = test.vfs.host_stream(w, false, true).unwrap();
    let mut written = 0;
    loop {
        match stdout.write(&[1; 10_000]) {
            Ok(count) => written += count,
            Err(errno) => {
                assert_eq!(errno, Errno::EAGAIN);
                break;
            }
        }
    }
    assert!(written >= 65_536 - 10_000, "{written}");
    let (wake, woken) = waiter();
    assert!(!stdout.poll(Some((&wake, 0, Events::OUT))).intersects(Events::OUT));
    let mut buffer = vec![0; written];
    assert_eq!(rustix::io::read(&r, &mut buffer[..]).unwrap(), written);
    woken.recv().unwrap();
    assert_eq!(stdout.write(b"more"), Ok(4));
    drop(r);
    assert_eq!(stdout.write(b"x"), Err(Errno::EPIPE));
}

#[test]
fn a_file_of_the_hosts_is_read_as_it_is() {
    let test = TestVfs::new(1 << 20);
    let file = tempfile::tempfile().unwrap();
    rustix::io::pwrite(&file, b"script", 0).unwrap();
    let stdin = test.vfs.host_stream(file.into(), true, false).unwrap();
    let mut buffer = [0; 4];
    assert_eq!(stdin.read(&mut buffer), Ok(4));
    assert_eq!(stdin.read(&mut buffer), Ok(2));
    assert_eq!(stdin.read(&mut buffer), Ok(0));
    assert!(!stdin.ops().pollable());
}
