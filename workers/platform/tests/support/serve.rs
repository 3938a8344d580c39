//! The plain calls that test programs and the C library need.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use bulkhead_platform::{Call, GuestThread};

use super::kernel::{Mini, task};

impl Mini {
    /// What the test programs and the C library need.
    pub(super) fn serve(&self, thread: &Arc<GuestThread>, call: &Call) -> i64 {
        let [a0, a1, a2, a3, ..] = call.args;
        let memory = thread.memory();
        let errno = |number: i32| -i64::from(number);
        match call.nr as i64 {
            libc::SYS_write => {
                let mut bytes = vec![0; (a2 as usize).min(1 << 16)];
                let got = memory.read_some(a1, &mut bytes);
                if got == 0 && a2 > 0 {
                    return errno(libc::EFAULT);
                }
                self.output.lock().expect("output").extend_from_slice(&bytes[..got]);
                got as i64
            }
            libc::SYS_writev => {
                let mut total = 0;
                for n in 0..a2.min(16) {
                    let mut vector = [0; 16];
                    if memory.read(a1 + 16 * n, &mut vector).is_err() {
                        return errno(libc::EFAULT);
                    }
                    let word = |at: usize| u64::from_le_bytes(vector[at..at + 8].try_into().expect("8"));
                    let mut bytes = vec![0; (word(8) as usize).min(1 << 16)];
                    let got = memory.read_some(word(0), &mut bytes);
                    self.output.lock().expect("output").extend_from_slice(&bytes[..got]);
                    total += got as i64;
                }
                total
            }
            libc::SYS_openat => match memory.read_cstr(a1, 4096) {
                Ok(path) => self.open(&String::from_utf8_lossy(&path)),
                Err(error) => errno(error.raw_os_error()),
            },
            libc::SYS_read | libc::SYS_pread64 => {
                let Some(file) = self.file(a0) else { return errno(libc::EBADF) };
                let mut bytes = vec![0; (a2 as usize).min(1 << 16)];
                // Reads of the tests' programs begin at the start of the file.
                let offset = if call.nr == libc::SYS_pread64 as u64 { a3 } else { 0 };
                let got = file.read_at(&mut bytes, offset).unwrap_or(0);
                memory.write_some(a1, &bytes[..got]) as i64
            }
            libc::SYS_newfstatat | libc::SYS_fstat => {
                let (fd, into) = if call.nr == libc::SYS_fstat as u64 { (a0, a1) } else { (a0, a2) };
                let Some(file) = self.file(fd) else { return errno(libc::ENOENT) };
                let data = file.metadata().expect("metadata");
                let mut stat = [0u8; 144];
                stat[..8].copy_from_slice(&data.dev().to_le_bytes());
                stat[8..16].copy_from_slice(&data.ino().to_le_bytes());
                stat[24..28].copy_from_slice(&data.mode().to_le_bytes());
                stat[48..56].copy_from_slice(&data.size().to_le_bytes());
                stat[56..64].copy_from_slice(&4096u64.to_le_bytes());
                memory.write(into, &stat).map_or(errno(libc::EFAULT), |()| 0)
            }
            libc::SYS_close => 0,
            libc::SYS_getpid => task(thread).process as i64,
            libc::SYS_gettid => task(thread).tid as i64,
            libc::SYS_set_tid_address => {
                *task(thread).clear_tid.lock().expect("task") = Some(a0);
                task(thread).tid as i64
            }
            libc::SYS_set_robust_list | libc::SYS_rt_sigaction | libc::SYS_rt_sigprocmask => 0,
            libc::SYS_prlimit64 => errno(libc::EPERM),
            libc::SYS_getrandom => memory.write_some(a0, &vec![0x5a; (a1 as usize).min(256)]) as i64,
            _ => errno(libc::ENOSYS),
        }
    }

    fn open(&self, path: &str) -> i64 {
        File::open(path).map_or(-i64::from(libc::ENOENT), |file| self.offer(file) as i64)
    }
}
