//! /dev: the devices that every program expects, and no others.

use std::any::Any;
use std::sync::Arc;

use rustix::rand::GetRandomFlags;

use crate::errno::Errno;
use crate::vfs::{Body, Dentry, File, Kind, Mapping, Meta, OpenFile, Vfs};

/// Fills `/dev`.
///
/// # Errors
/// None in practice: nothing is charged.
pub fn populate(vfs: &Vfs, dev: &Arc<Dentry>) -> Result<(), Errno> {
    const NODES: [(&str, u32, u32); 6] =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    const LINKS: [(&str, &str); 4] = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, major, minor) in NODES {
        let body = Body::Device(major, minor);
        vfs.ensure(dev, name.as_bytes(), Kind::CharDevice, Meta::new(0o666, 0, 0), body)?;
    }
    for (name, target) in LINKS {
        let body = Body::Symlink(target.as_bytes().into());
        vfs.ensure(dev, name.as_bytes(), Kind::Symlink, Meta::new(0o777, 0, 0), body)?;
    }
    for (name, mode) in [("shm", 0o1777), ("pts", 0o755), ("mqueue", 0o1777)] {
        vfs.ensure_directory(dev, name.as_bytes(), mode)?;
    }
    Ok(())
}

/// Opens a device node. Only /dev's own nodes work: those of an image or made elsewhere never do.
///
/// # Errors
/// EACCES for a node outside /dev, ENXIO for a device that is not there.
pub fn open(dentry: Arc<Dentry>, flags: u32, major: u32, minor: u32) -> Result<Arc<OpenFile>, Errno> {
    if dentry.inode().fs.image.is_some() || dentry.inode().kind == Kind::BlockDevice {
        return Err(Errno::EACCES);
    }
    let device = match (major, minor) {
        (1, 3) => Device::Null,
        (1, 5) => Device::Zero,
        (1, 7) => Device::Full,
        (1, 8 | 9) => Device::Random,
        _ => return Err(Errno::ENXIO),
    };
    Ok(OpenFile::new(dentry, flags, Box::new(device)))
}

/// An open device.
enum Device {
    Null,
    Zero,
    Full,
    Random,
}

impl File for Device {
    fn read_at(&self, _file: &OpenFile, _offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Null => return Ok(0),
            Self::Zero | Self::Full => into.fill(0),
            Self::Random => {
                let mut done = 0;
                while done < into.len() {
                    done += rustix::rand::getrandom(&mut into[done..], GetRandomFlags::empty())?;
                }
            }
        }
        Ok(into.len())
    }

    fn write_at(&self, _file: &OpenFile, _offset: u64, from: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Full => Err(Errno::ENOSPC),
            // What is written to the random devices stirs nothing: the host's pool needs no help from guests.
            _ => Ok(from.len()),
        }
    }

    fn append(&self, file: &OpenFile, from: &[u8]) -> Result<(usize, u64), Errno> {
        self.write_at(file, 0, from).map(|count| (count, 0))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _file: &OpenFile, _current: u64, _offset: i64, _whence: u32) -> Result<u64, Errno> {
        Ok(0)
    }

    fn pollable(&self) -> bool {
        matches!(self, Self::Random)
    }

    fn mapping(
        &self,
        _file: &OpenFile,
        _offset: u64,
        _length: u64,
        _writable_shared: bool,
    ) -> Result<Mapping, Errno> {
        // Mapping /dev/zero is anonymous memory: the memory calls see to it before they come here.
        Err(Errno::ENODEV)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
