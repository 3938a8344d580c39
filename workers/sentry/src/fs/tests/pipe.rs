//! Pipes between threads: nothing is lost, reordered or torn, and nobody sleeps through a wake-up.

use std::sync::{Arc, Condvar};

use crate::errno::Errno;
use crate::fs::testing::TestVfs;
use crate::vfs::OpenFile;
use crate::wait::{Events, Wake};

/// A thread that waits, as a parked call would.
#[derive(Default)]
struct Sleeper {
    woken: std::sync::Mutex<bool>,
    changed: Condvar,
}

impl Wake for Sleeper {
    fn wake(&self, _key: u64, _events: Events) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// Tries until it works, sleeping on the file's queue in between.
fn until<T>(
    file: &OpenFile,
    events: Events,
    mut attempt: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let sleeper = Arc::new(Sleeper::default());
    let waiter: Arc<dyn Wake> = sleeper.clone();
    loop {
        file.poll(Some((&waiter, 0, events)));
        match attempt() {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
        let mut woken = sleeper.woken.lock().unwrap();
        while !*woken {
            woken = sleeper.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

#[test]
fn records_of_many_writers_arrive_whole() {
    const WRITERS: u32 = 4;
    const RECORDS: u32 = 3000;
    const RECORD: usize = 700;
    let test = TestVfs::new(1 << 20);
    let (reader, writer) = test.vfs.pipe(&test.caller(), 0);
    let threads: Vec<_> = (0..WRITERS)
        .map(|id| {
            let writer = writer.clone();
            std::thread::spawn(move || {
                for n in 0..RECORDS {
                    let mut record = vec![id as u8; RECORD];
                    record[..4].copy_from_slice(&n.to_le_bytes());
                    assert_eq!(until(&writer, Events::OUT, || writer.write(&record)), Ok(RECORD));
                }
            })
        })
        .collect();
    drop(writer);
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 10_000];
    loop {
        let count = until(&reader, Events::IN, || reader.read(&mut buffer)).unwrap();
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(bytes.len(), (WRITERS * RECORDS) as usize * RECORD);
    let mut next = [0; WRITERS as usize];
    for record in bytes.chunks(RECORD) {
        let id = record[4];
        assert!(record[4..].iter().all(|byte| *byte == id), "a record is torn");
        let n = u32::from_le_bytes(record[..4].try_into().unwrap());
        assert_eq!(n, next[usize::from(id)]);
        next[usize::from(id)] += 1;
    }
}

#[test]
fn sizes_and_ends() {
    let test = TestVfs::new(1 << 20);
    let (reader, writer) = test.vfs.pipe(&test.caller(), 0);
    let end = |file: &OpenFile| file.object::<crate::fs::pipe::PipeEnd>().unwrap().pipe().clone();
    assert_eq!(writer.write(&[1; 100_000]), Ok(65_536));
    assert_eq!(writer.write(&[1; 100]), Err(Errno::EAGAIN));
    assert_eq!(end(&reader).set_capacity(4096), Err(Errno::EBUSY));
    assert_eq!(end(&reader).set_capacity(100_000), Ok(131_072));
    assert_eq!(writer.write(&[1; 100_000]), Ok(65_536));
    assert_eq!(end(&reader).set_capacity((1 << 20) + 1), Err(Errno::EPERM));
    let mut buffer = vec![0; 200_000];
    assert_eq!(reader.read(&mut buffer), Ok(131_072));
    // Small writes are all or nothing.
    writer.write(&vec![1; 131_072 - 50]).unwrap();
    assert_eq!(writer.write(&[2; 51]), Err(Errno::EAGAIN));
    assert_eq!(writer.write(&[2; 50]), Ok(50));
    assert_eq!(reader.poll(None), Events::IN);
    assert_eq!(writer.poll(None), Events::default());
    drop(reader);
    assert_eq!(writer.write(b"x"), Err(Errno::EPIPE));
    assert!(writer.poll(None).intersects(Events::ERR));
}
