//! Reading, writing, waiting and locking.

use super::guest::{BASE, Guest};
use crate::errno::Errno;
use crate::vfs::flags::*;

/// An address that is never there.
const NOWHERE: u64 = 8;

#[test]
fn faults_move_nothing() {
    let guest = Guest::new();
    let fd = guest.open("/f", O_CREAT | O_RDWR);
    assert_eq!(guest.write(fd, b"0123456789"), Ok(10));
    assert_eq!(guest.call("write", &[fd, NOWHERE, 5]), Err(Errno::EFAULT));
    assert_eq!(guest.call("lseek", &[fd, 0, 0]), Ok(0));
    assert_eq!(guest.call("read", &[fd, NOWHERE, 5]), Err(Errno::EFAULT));
    assert_eq!(guest.call("lseek", &[fd, 0, 1]), Ok(0));
    // A buffer whose end is not there takes what fits.
    let end = BASE + (1 << 20) - 4;
    assert_eq!(guest.call("read", &[fd, end, 10]), Ok(4));
    assert_eq!(guest.call("lseek", &[fd, 0, 1]), Ok(4));
    assert_eq!(guest.read(fd, 100).unwrap(), b"456789");
    assert_eq!(guest.call("open", &[NOWHERE, 0]), Err(Errno::EFAULT));
    assert_eq!(guest.call("read", &[99, end, 1]), Err(Errno::EBADF));
    assert_eq!(guest.call("read", &[fd, end, u64::MAX]), Err(Errno::EFAULT));
}

#[test]
fn vectors_are_one_stream_of_bytes() {
    let guest = Guest::new();
    let fd = guest.open("/f", O_CREAT | O_RDWR);
    let (a, b) = (guest.put(b"hello "), guest.put(b"world"));
    let vector = |parts: &[(u64, u64)]| {
        let raw: Vec<u8> =
            parts.iter().flat_map(|(a, l)| [a.to_le_bytes(), l.to_le_bytes()].concat()).collect();
        guest.put(&raw)
    };
    assert_eq!(guest.call("writev", &[fd, vector(&[(a, 6), (0, 0), (b, 5)]), 3]), Ok(11));
    let (c, d) = (guest.room(16), guest.room(16));
    assert_eq!(guest.call("preadv", &[fd, vector(&[(c, 3), (d, 100)]), 2, 1]), Ok(10));
    assert_eq!((guest.get(c, 3), guest.get(d, 7)), (b"ell".to_vec(), b"o world".to_vec()));
    assert_eq!(guest.call("readv", &[fd, vector(&[(c, 3)]), 1025]), Err(Errno::EINVAL));
    assert_eq!(guest.call("readv", &[fd, vector(&[(c, u64::MAX)]), 1]), Err(Errno::EINVAL));
    // O_APPEND wins over an offset, and RWF_APPEND over none.
    assert_eq!(guest.call("pwritev2", &[fd, vector(&[(b, 5)]), 1, 0, 0, 16]), Ok(5));
    assert_eq!(guest.call("pread64", &[fd, c, 16, 8]), Ok(8));
    assert_eq!(guest.get(c, 8), b"rldworld");
}

#[test]
fn pipes_wait_and_wake() {
    let guest = Guest::new();
    let (r, w) = guest.pair("pipe2", &[0]);
    let buffer = guest.room(64 << 10);
    let reading = guest.wait("read", &[r, buffer, 100]);
    assert_eq!(guest.write(w, b"some"), Ok(4));
    assert_eq!(guest.finish(reading), 4);
    assert_eq!(guest.get(buffer, 4), b"some");
    // A writer of more than fits goes on where it stopped, and loses nothing.
    let data: Vec<u8> = (0..150_000u32).map(|n| (n % 251) as u8).collect();
    let source = guest.put(&data);
    let mut writing = guest.wait("write", &[w, source, data.len() as u64]);
    let mut seen = Vec::new();
    while seen.len() < data.len() {
        let count = guest.call("read", &[r, buffer, 40_000]).unwrap();
        seen.extend(guest.get(buffer, count as usize));
        match guest.resume(writing) {
            Ok(Ok(count)) => {
                assert_eq!(count, data.len() as u64);
                while seen.len() < data.len() {
                    let count = guest.call("read", &[r, buffer, 40_000]).unwrap();
                    seen.extend(guest.get(buffer, count as usize));
                }
                break;
            }
            Ok(Err(again)) => writing = again,
            Err(errno) => panic!("{errno}"),
        }
    }
    assert!(seen == data);
    guest.call("close", &[w]).unwrap();
    assert_eq!(guest.read(r, 10).unwrap(), b"");
    let (r, w) = guest.pair("pipe2", &[O_NONBLOCK.into()]);
    assert_eq!(guest.read(r, 10), Err(Errno::EAGAIN));
    guest.call("close", &[r]).unwrap();
    assert_eq!(guest.write(w, b"x"), Err(Errno::EPIPE));
}

#[test]
fn fifos_open_when_the_other_end_does() {
    let guest = Guest::new();
    guest.call("mknod", &[guest.path("/fifo"), 0o010_644]).unwrap();
    let path = guest.path("/fifo");
    assert_eq!(guest.call("open", &[path, (O_WRONLY | O_NONBLOCK).into()]), Err(Errno::ENXIO));
    let opening = guest.wait("open", &[path, O_RDONLY.into()]);
    let w = guest.open("/fifo", O_WRONLY);
    let r = guest.finish(opening);
    assert_eq!(guest.write(w, b"through"), Ok(7));
    assert_eq!(guest.read(r, 10).unwrap(), b"through");
}

#[test]
fn a_pipe_that_is_opened_once_more_does_not_wait() {
    let guest = Guest::new();
    let (r, w) = guest.pair("pipe2", &[0]);
    guest.write(w, b"left behind").unwrap();
    guest.call("close", &[w]).unwrap();
    // As bash's <(...) does, when the writer has ended before the reader opens /dev/fd/N.
    let pipe = guest.task.files().get(r as i32).unwrap();
    let again = crate::vfs::Vfs::open_unchecked(pipe.dentry(), O_RDONLY).unwrap();
    assert!(again.object::<crate::fs::pipe::PipeEnd>().unwrap().is_connected());
    assert!(again.poll(None).intersects(crate::wait::Events::HUP));
    let mut buffer = [0; 20];
    assert_eq!(again.read(&mut buffer), Ok(11));
    assert_eq!(again.read(&mut buffer), Ok(0));
}

#[test]
fn descriptors_are_the_lowest_and_limits_bind() {
    let guest = Guest::new();
    assert_eq!(guest.open("/dev/null", O_RDWR), 0);
    assert_eq!(guest.call("dup", &[0]), Ok(1));
    assert_eq!(guest.call("fcntl", &[0, 0, 10]), Ok(10));
    assert_eq!(guest.call("dup2", &[0, 5]), Ok(5));
    assert_eq!(guest.call("dup3", &[0, 0, 0]), Err(Errno::EINVAL));
    assert_eq!(guest.call("close", &[1]), Ok(0));
    assert_eq!(guest.call("dup", &[0]), Ok(1));
    assert_eq!(guest.call("close_range", &[2, 20, 0]), Ok(0));
    assert_eq!(guest.call("fcntl", &[10, 1]), Err(Errno::EBADF));
    guest.task.process.limits.set(crate::kernel::Resource::OpenFiles, 3, 3);
    assert_eq!(guest.call("dup", &[0]), Ok(2));
    assert_eq!(guest.call("dup", &[0]), Err(Errno::EMFILE));
    assert_eq!(guest.call("dup2", &[0, 3]), Err(Errno::EBADF));
    assert_eq!(guest.call("fcntl", &[0, 0, 3]), Err(Errno::EINVAL));
}

#[test]
fn locks_wait_and_go_with_a_close() {
    let guest = Guest::new();
    let a = guest.open("/l", O_CREAT | O_RDWR);
    let b = guest.open("/l", O_RDWR);
    const LOCK_EX: u64 = 2;
    const LOCK_NB: u64 = 4;
    assert_eq!(guest.call("flock", &[a, LOCK_EX]), Ok(0));
    assert_eq!(guest.call("flock", &[b, LOCK_EX | LOCK_NB]), Err(Errno::EAGAIN));
    let waiting = guest.wait("flock", &[b, LOCK_EX]);
    guest.call("close", &[a]).unwrap();
    assert_eq!(guest.finish(waiting), 0);
    // Record locks are the process's: they go with any of its descriptors, and with the process.
    let table = |guest: &Guest| std::sync::Arc::new(guest.task.files().fork());
    const F_SETLK: u64 = 6;
    let lock = guest.put(&[1i16.to_le_bytes().to_vec(), vec![0; 30]].concat());
    assert_eq!(guest.call("fcntl", &[b, F_SETLK, lock]), Ok(0));
    let mine = guest.task.set_files(table(&guest));
    assert_eq!(guest.call("fcntl", &[b, F_SETLK, lock]), Err(Errno::EAGAIN));
    let twin = mine.get(b as i32).unwrap();
    let fd = mine.install(twin, false, 100).unwrap();
    drop(mine.close(fd));
    assert_eq!(guest.call("fcntl", &[b, F_SETLK, lock]), Ok(0));
    drop(guest.task.set_files(table(&guest)));
    assert_eq!(guest.call("fcntl", &[b, F_SETLK, lock]), Ok(0));
    drop(mine);
}

#[test]
fn copies_between_files_and_pipes() {
    let guest = Guest::new();
    let from = guest.open("/from", O_CREAT | O_RDWR);
    let data: Vec<u8> = (0..300_000u32).map(|n| (n / 7) as u8).collect();
    assert_eq!(guest.write(from, &data), Ok(data.len() as u64));
    let to = guest.open("/to", O_CREAT | O_RDWR);
    let offset = guest.put(&100u64.to_le_bytes());
    assert_eq!(guest.call("copy_file_range", &[from, offset, to, 0, 250_000]), Ok(250_000));
    assert_eq!(guest.get(offset, 8), 250_100u64.to_le_bytes());
    assert_eq!(guest.call("sendfile", &[to, from, offset, 1 << 20]), Ok(49_900));
    let size = guest.call("lseek", &[to, 0, 2]).unwrap();
    assert_eq!(size, 299_900);
    let (r, w) = guest.pair("pipe2", &[0]);
    guest.call("lseek", &[to, 0, 0]).unwrap();
    assert_eq!(guest.call("splice", &[to, 0, w, 0, 1 << 20, 0]), Ok(65_536));
    let back = guest.open("/back", O_CREAT | O_RDWR);
    assert_eq!(guest.call("splice", &[r, 0, back, 0, 1 << 20, 0]), Ok(65_536));
    let buffer = guest.room(8);
    guest.call("pread64", &[back, buffer, 8, 65_000]).unwrap();
    assert_eq!(guest.get(buffer, 8), data[65_100..65_108]);
    assert_eq!(guest.call("splice", &[from, 0, to, 0, 10, 0]), Err(Errno::EINVAL));
    assert_eq!(guest.call("copy_file_range", &[from, 0, r, 0, 10]), Err(Errno::EBADF));
}

#[test]
fn sizes_are_limited_and_signalled() {
    let guest = Guest::new();
    let fd = guest.open("/f", O_CREAT | O_RDWR);
    guest.task.process.limits.set(crate::kernel::Resource::FileSize, 1000, 1000);
    assert_eq!(guest.write(fd, &[1; 2000]), Ok(1000));
    assert_eq!(guest.write(fd, b"x"), Err(Errno::EFBIG));
    assert_eq!(guest.call("ftruncate", &[fd, 1001]), Err(Errno::EFBIG));
    assert_eq!(guest.call("ftruncate", &[fd, 10]), Ok(0));
}

#[test]
fn directories_are_listed_through_small_buffers() {
    let guest = Guest::new();
    for n in 0..100 {
        guest.call("mkdir", &[guest.path(&format!("/tmp/directory{n}")), 0o755]).unwrap();
    }
    let fd = guest.open("/tmp", O_DIRECTORY);
    let buffer = guest.room(128);
    assert_eq!(guest.call("getdents64", &[fd, buffer, 10]), Err(Errno::EINVAL));
    let mut names = std::collections::BTreeSet::new();
    loop {
        let count = guest.call("getdents64", &[fd, buffer, 128]).unwrap() as usize;
        if count == 0 {
            break;
        }
        let raw = guest.get(buffer, count);
        let mut at = 0;
        while at < count {
            let length = usize::from(u16::from_le_bytes([raw[at + 16], raw[at + 17]]));
            let name = raw[at + 19..at + length].split(|byte| *byte == 0).next().unwrap().to_vec();
            assert!(names.insert(name), "listed twice");
            at += length;
        }
    }
    assert_eq!(names.len(), 102);
}
