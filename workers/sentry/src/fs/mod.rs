//! File systems and the kinds of files.
//!
//! Host calls that are made here, for the sentry's own allow-list: openat (O_TMPFILE in scratch, and
//! /proc/self/fd/N to open a file of ours for reading only), pread64, pwrite64, preadv2 and pwritev2 (standard
//! streams), fallocate, ftruncate, fstat, memfd_create, fcntl, poll, epoll_create1, epoll_ctl, epoll_wait (the
//! thread that watches standard streams), eventfd2, read, write, close, getrandom, clock_gettime, ioctl FIONREAD.

pub mod budget;
pub mod content;
pub mod device;
pub mod epoll;
pub mod eventfd;
pub mod hostfd;
pub mod image;
pub mod inotify;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod regular;
pub mod scratch;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod timerfd;
pub mod transfer;
