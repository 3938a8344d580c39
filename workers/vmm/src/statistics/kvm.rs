use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

/// `KVM_GET_STATS_FD`, which kvm-ioctls lacks: _IO(0xAE, 0xce).
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// struct kvm_stats_header: flags, name size, descriptors, offsets of id, descriptors, data; each a u32.
const HEADER_BYTES: usize = 24;
/// struct kvm_stats_desc before its name: flags u32, exponent i16, size u16, offset u32, bucket size u32.
const DESCRIPTOR_BYTES: usize = 16;
/// More than any kernel has: a kernel that says more is not believed.
const MOST_DESCRIPTORS: usize = 1024;
const MOST_NAME_BYTES: usize = 256;

/// KVM's own counters can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmStatisticsError {
    /// This KVM has none (Linux before 5.14).
    #[error("this KVM has no statistics")]
    Unsupported(#[source] std::io::Error),
    /// They can't be read.
    #[error("can't read KVM's statistics")]
    Read(#[source] std::io::Error),
    /// They are not in the format that the kernel documents.
    #[error("KVM's statistics are not understood")]
    Format,
}

/// One counter of one processor; readable from any thread, while the processor runs.
#[derive(Debug)]
pub struct KvmStatistics {
    file: File,
    offset: u64,
}

impl KvmStatistics {
    /// Finds the counter of this name.
    ///
    /// # Errors
    /// [`KvmStatisticsError`].
    pub fn open(vcpu: &VcpuFd, name: &str) -> Result<Self, KvmStatisticsError> {
        // SAFETY: 1. the ioctl takes no argument and touches no memory.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD, 0) };
        if fd < 0 {
            return Err(KvmStatisticsError::Unsupported(std::io::Error::last_os_error()));
        }
        // SAFETY: 1. the kernel has just made this descriptor, and nobody else knows it.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(KvmStatisticsError::Read)?;
        let [name_bytes, count, descriptors, data] = [4, 8, 16, 20].map(|at| word(&header, at));
        if count > MOST_DESCRIPTORS || name_bytes > MOST_NAME_BYTES {
            return Err(KvmStatisticsError::Format);
        }
        let size = DESCRIPTOR_BYTES + name_bytes;
        let mut all = vec![0; size * count];
        file.read_exact_at(&mut all, descriptors as u64).map_err(KvmStatisticsError::Read)?;
        let found = all.chunks_exact(size).find(|one| {
            let text = &one[DESCRIPTOR_BYTES..];
            let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
            &text[..end] == name.as_bytes()
        });
        let one = found.ok_or(KvmStatisticsError::Format)?;
        Ok(Self { file, offset: (data + word(one, 8)) as u64 })
    }

    /// Its value now.
    ///
    /// # Errors
    /// [`KvmStatisticsError::Read`].
    pub fn read(&self) -> Result<u64, KvmStatisticsError> {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, self.offset).map_err(KvmStatisticsError::Read)?;
        Ok(u64::from_ne_bytes(value))
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}
