//! poll, select, epoll, eventfd, inotify.

use super::guest::Guest;
use crate::errno::Errno;
use crate::vfs::flags::*;

const IN: u32 = 1;
const OUT: u32 = 4;
const HUP: u32 = 0x10;
const ET: u32 = 1 << 31;
const ONESHOT: u32 = 1 << 30;
const ADD: u64 = 1;
const DEL: u64 = 2;
const MOD: u64 = 3;

fn control(guest: &Guest, epoll: u64, operation: u64, fd: u64, events: u32, data: u64) -> Result<u64, Errno> {
    let event = [&events.to_le_bytes()[..], &data.to_le_bytes()].concat();
    guest.call("epoll_ctl", &[epoll, operation, fd, guest.put(&event)])
}

/// What epoll_wait says at once: (events, data).
fn ready(guest: &Guest, epoll: u64) -> Vec<(u32, u64)> {
    let room = guest.room(12 * 8);
    let count = guest.call("epoll_wait", &[epoll, room, 8, 0]).unwrap() as usize;
    let raw = guest.get(room, count * 12);
    raw.chunks(12)
        .map(|e| {
            (u32::from_le_bytes(e[..4].try_into().unwrap()), u64::from_le_bytes(e[4..].try_into().unwrap()))
        })
        .collect()
}

fn add(guest: &Guest, eventfd: u64, value: u64) {
    assert_eq!(guest.write(eventfd, &value.to_le_bytes()), Ok(8));
}

#[test]
fn eventfds_count_and_wait() {
    let guest = Guest::new();
    let fd = guest.call("eventfd2", &[3, 0]).unwrap();
    assert_eq!(guest.read(fd, 8).unwrap(), 3u64.to_le_bytes());
    let room = guest.room(8);
    let reading = guest.wait("read", &[fd, room, 8]);
    add(&guest, fd, 5);
    add(&guest, fd, 6);
    assert_eq!(guest.finish(reading), 8);
    assert_eq!(guest.get(room, 8), 11u64.to_le_bytes());
    assert_eq!(guest.read(fd, 7), Err(Errno::EINVAL));
    assert_eq!(guest.write(fd, &u64::MAX.to_le_bytes()), Err(Errno::EINVAL));
    add(&guest, fd, u64::MAX - 1);
    let one = guest.put(&1u64.to_le_bytes());
    let writing = guest.wait("write", &[fd, one, 8]);
    guest.read(fd, 8).unwrap();
    assert_eq!(guest.finish(writing), 8);
    let semaphore = guest.call("eventfd2", &[2, 1 | u64::from(O_NONBLOCK)]).unwrap();
    assert_eq!(guest.read(semaphore, 8).unwrap(), 1u64.to_le_bytes());
    assert_eq!(guest.read(semaphore, 8).unwrap(), 1u64.to_le_bytes());
    assert_eq!(guest.read(semaphore, 8), Err(Errno::EAGAIN));
}

#[test]
fn epoll_reports_by_its_modes() {
    let guest = Guest::new();
    let epoll = guest.call("epoll_create1", &[0]).unwrap();
    let fd = guest.call("eventfd2", &[0, 0]).unwrap();
    // Level: as long as it is ready.
    control(&guest, epoll, ADD, fd, IN, 7).unwrap();
    assert_eq!(control(&guest, epoll, ADD, fd, IN, 7), Err(Errno::EEXIST));
    assert_eq!(ready(&guest, epoll), []);
    add(&guest, fd, 1);
    assert_eq!(ready(&guest, epoll), [(IN, 7)]);
    assert_eq!(ready(&guest, epoll), [(IN, 7)]);
    guest.read(fd, 8).unwrap();
    assert_eq!(ready(&guest, epoll), []);
    // Edge: once for each change.
    control(&guest, epoll, MOD, fd, IN | ET, 8).unwrap();
    add(&guest, fd, 1);
    assert_eq!(ready(&guest, epoll), [(IN, 8)]);
    assert_eq!(ready(&guest, epoll), []);
    add(&guest, fd, 1);
    assert_eq!(ready(&guest, epoll), [(IN, 8)]);
    // Modifying asks anew.
    control(&guest, epoll, MOD, fd, IN | OUT | ET, 9).unwrap();
    assert_eq!(ready(&guest, epoll), [(IN | OUT, 9)]);
    // One shot: until it is modified.
    control(&guest, epoll, MOD, fd, IN | ONESHOT, 10).unwrap();
    assert_eq!(ready(&guest, epoll), [(IN, 10)]);
    add(&guest, fd, 1);
    assert_eq!(ready(&guest, epoll), []);
    control(&guest, epoll, MOD, fd, IN | ONESHOT, 11).unwrap();
    assert_eq!(ready(&guest, epoll), [(IN, 11)]);
    control(&guest, epoll, DEL, fd, 0, 0).unwrap();
    assert_eq!(control(&guest, epoll, DEL, fd, 0, 0), Err(Errno::ENOENT));
    assert_eq!(control(&guest, epoll, MOD, fd, IN, 0), Err(Errno::ENOENT));
}

#[test]
fn epoll_knows_what_it_can_wait_for() {
    let guest = Guest::new();
    let epoll = guest.call("epoll_create1", &[0]).unwrap();
    let file = guest.open("/f", O_CREAT | O_RDWR);
    assert_eq!(control(&guest, epoll, ADD, file, IN, 0), Err(Errno::EPERM));
    assert_eq!(control(&guest, epoll, ADD, epoll, IN, 0), Err(Errno::EINVAL));
    assert_eq!(control(&guest, file, ADD, epoll, IN, 0), Err(Errno::EINVAL));
    let outer = guest.call("epoll_create1", &[0]).unwrap();
    control(&guest, outer, ADD, epoll, IN, 1).unwrap();
    assert_eq!(control(&guest, epoll, ADD, outer, IN, 1), Err(Errno::ELOOP));
    // Nested: the outer one is ready when the inner one is.
    let (r, w) = guest.pair("pipe2", &[0]);
    control(&guest, epoll, ADD, r, IN, 2).unwrap();
    assert_eq!(ready(&guest, outer), []);
    let room = guest.room(12);
    let waiting = guest.wait("epoll_wait", &[outer, room, 1, u64::MAX]);
    guest.write(w, b"x").unwrap();
    assert_eq!(guest.finish(waiting), 1);
    assert_eq!(ready(&guest, outer), [(IN, 1)]);
    assert_eq!(ready(&guest, epoll), [(IN, 2)]);
    // A closed file is forgotten once its last descriptor goes, not before.
    let twin = guest.call("dup", &[r]).unwrap();
    guest.call("close", &[r]).unwrap();
    assert_eq!(ready(&guest, epoll), [(IN, 2)]);
    guest.call("close", &[twin]).unwrap();
    assert_eq!(ready(&guest, epoll), []);
    assert_eq!(ready(&guest, outer), []);
}

#[test]
fn epolls_nest_five_deep_from_either_end() {
    let guest = Guest::new();
    let make = || guest.call("epoll_create1", &[0]).unwrap();
    let upward: Vec<u64> = (0..6).map(|_| make()).collect();
    for pair in upward[..5].windows(2) {
        control(&guest, pair[1], ADD, pair[0], IN, 0).unwrap();
    }
    assert_eq!(control(&guest, upward[5], ADD, upward[4], IN, 0), Err(Errno::ELOOP));
    assert_eq!(control(&guest, upward[0], ADD, upward[5], IN, 0), Err(Errno::ELOOP));
    // Taken out again, or closed, it does not count.
    control(&guest, upward[3], DEL, upward[2], 0, 0).unwrap();
    control(&guest, upward[5], ADD, upward[4], IN, 0).unwrap();
    assert_eq!(control(&guest, upward[3], ADD, upward[2], IN, 0), Err(Errno::ELOOP));
    guest.call("close", &[upward[0]]).unwrap();
    control(&guest, upward[3], ADD, upward[2], IN, 0).unwrap();
    // An event below would take hundreds of ways up.
    let (above, below) = (make(), make());
    for _ in 0..25 {
        control(&guest, make(), ADD, above, IN, 0).unwrap();
        control(&guest, below, ADD, make(), IN, 0).unwrap();
    }
    assert_eq!(control(&guest, above, ADD, below, IN, 0), Err(Errno::EINVAL));
}

#[test]
fn poll_and_select_agree() {
    let guest = Guest::new();
    let (r, w) = guest.pair("pipe2", &[0]);
    let entry = |fd: u64, events: u32| {
        [&(fd as u32).to_le_bytes()[..], &(events as u16).to_le_bytes(), &[0, 0]].concat()
    };
    let fds =
        guest.put(&[entry(r, IN), entry(w, OUT), entry(99, IN), entry(u64::from(u32::MAX), IN)].concat());
    let revents = |n: u64| {
        let raw = guest.get(fds + n * 8 + 6, 2);
        u32::from(u16::from_le_bytes([raw[0], raw[1]]))
    };
    const NVAL: u32 = 0x20;
    assert_eq!(guest.call("poll", &[fds, 4, 0]), Ok(2));
    assert_eq!([revents(0), revents(1), revents(2), revents(3)], [0, OUT, NVAL, 0]);
    let only = guest.put(&entry(r, IN));
    let waiting = guest.wait("poll", &[only, 1, u64::MAX]);
    let set = |fd: u64| guest.put(&(1u64 << fd).to_le_bytes());
    let reading = set(r);
    let selecting = guest.wait("select", &[r + 1, reading, 0, 0, 0]);
    guest.write(w, b"x").unwrap();
    assert_eq!(guest.finish(waiting), 1);
    assert_eq!(guest.finish(selecting), 1);
    assert_eq!(guest.get(reading, 8), (1u64 << r).to_le_bytes());
    guest.call("close", &[w]).unwrap();
    guest.read(r, 10).unwrap();
    assert_eq!(guest.call("poll", &[only, 1, u64::MAX]), Ok(1));
    let raw = guest.get(only + 6, 2);
    assert_eq!(u32::from(raw[0]), HUP);
    assert_eq!(guest.call("select", &[100, set(60), 0, 0, 0]), Err(Errno::EBADF));
    // A time-out that has passed ends the wait.
    let (quiet, _open) = guest.pair("pipe2", &[0]);
    let only = guest.put(&entry(quiet, IN));
    let waiting = guest.wait("poll", &[only, 1, 1]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert_eq!(guest.finish(waiting), 0);
}

#[test]
fn inotify_tells_what_happens() {
    let guest = Guest::new();
    let fd = guest.call("inotify_init1", &[O_NONBLOCK.into()]).unwrap();
    let watch = guest.call("inotify_add_watch", &[fd, guest.path("/tmp"), 0xfff]).unwrap();
    assert_eq!(guest.call("inotify_add_watch", &[fd, guest.path("/tmp"), 0xfc0]), Ok(watch));
    let file = guest.open("/tmp/a", O_CREAT | O_WRONLY);
    guest.write(file, b"x").unwrap();
    guest.call("rename", &[guest.path("/tmp/a"), guest.path("/tmp/b")]).unwrap();
    guest.call("unlink", &[guest.path("/tmp/b")]).unwrap();
    guest.call("mkdir", &[guest.path("/tmp/d"), 0o755]).unwrap();
    let raw = guest.read(fd, 4096).unwrap();
    let mut seen = Vec::new();
    let mut cookies = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let word = |n: usize| u32::from_le_bytes(raw[at + n..at + n + 4].try_into().unwrap());
        let length = word(12) as usize;
        let name = raw[at + 16..at + 16 + length].split(|byte| *byte == 0).next().unwrap();
        assert_eq!(u64::from(word(0)), watch);
        seen.push((word(4), String::from_utf8(name.to_vec()).unwrap()));
        cookies.push(word(8));
        at += 16 + length;
    }
    let expected = [(0x100, "a"), (0x40, "a"), (0x80, "b"), (0x200, "b"), (0x4000_0100, "d")]
        .map(|(m, n)| (m, n.to_string()));
    assert_eq!(seen, expected);
    assert!(cookies[1] != 0 && cookies[1] == cookies[2]);
    guest.call("inotify_rm_watch", &[fd, watch]).unwrap();
    assert_eq!(guest.read(fd, 4096).unwrap()[4..8], 0x8000u32.to_le_bytes());
    assert_eq!(guest.call("inotify_rm_watch", &[fd, watch]), Err(Errno::EINVAL));
    assert_eq!(guest.read(fd, 4096), Err(Errno::EAGAIN));
}
