//! The job's root: the image read-only, under an overlay whose written files are on the scratch disk.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bulkhead_wire::{Failed, FailureStage, Start};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount_move, unmount};
use rustix::process::{chdir, chroot};

use crate::disk::{self, Usage};
use crate::machine::{KERNEL, Machine, make_directory, mount_at};
use crate::options::Disks;

/// Makes the job's root and enters it. Answers the scratch disk, on which as much is free as the job's limit allows.
///
/// # Errors
/// An image or a disk that can't be used.
pub(crate) fn enter(machine: &Machine, disks: &Disks, job: &Start) -> Result<Usage, Failed> {
    let place = |name: &str| machine.base.join(name);
    let flags = MountFlags::NODEV | MountFlags::RDONLY;
    let mut lower = Vec::new();
    // Above the public one: its files stand in for the public one's, which have no data.
    if let Some(private) = &disks.private {
        image(machine, private, &place("private"), flags)?;
        lower.push(place("private"));
    }
    image(machine, &disks.public, &place("public"), flags)?;
    lower.push(place("public"));
    let scratch = scratch(machine, &disks.scratch, &place("scratch"))?;
    let root = place("root");
    overlay(&lower, &place("scratch"), &root)?;
    // The job sees these file systems' own names only through the overlay.
    for name in ["private", "public", "scratch"] {
        if place(name).exists() {
            unmount(place(name), UnmountFlags::DETACH).map_err(|e| Failed::internal("hiding a disk", &e))?;
        }
    }
    move_into(machine, &root, job)?;
    // Last: what was made so far is not the job's.
    Usage::begin(scratch, job.disk_bytes).map_err(|e| Failed::internal("the scratch disk", &e))
}

fn below_dev(machine: &Machine, disk: &Path) -> PathBuf {
    // /dev is mounted below the base, which is the root only in a machine.
    match disk.strip_prefix("/dev") {
        Ok(name) => machine.base.join("dev").join(name),
        Err(_) => disk.to_path_buf(),
    }
}

fn image(machine: &Machine, disk: &Path, at: &Path, flags: MountFlags) -> Result<(), Failed> {
    let source = below_dev(machine, disk);
    mount_at(&source.to_string_lossy(), at, "erofs", flags, "")
        .map_err(|failure| Failed { stage: FailureStage::Image, message: failure.message })
}

/// Makes the scratch disk's file system and mounts it.
fn scratch(machine: &Machine, disk: &Path, at: &Path) -> Result<OwnedFd, Failed> {
    let source = below_dev(machine, disk);
    let failed = |error: &dyn std::error::Error| Failed::internal("the scratch disk", error);
    let mut device = File::options().read(true).write(true).open(&source).map_err(|e| failed(&e))?;
    let size = device.seek(SeekFrom::End(0)).map_err(|e| failed(&e))?;
    let mut seed = [0; 16];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).map_err(|e| failed(&e))?;
    disk::format(&device, size, seed).map_err(|e| failed(&e))?;
    drop(device);
    // Nothing outlives the job: no barriers, and no times of reading.
    let flags = MountFlags::NOATIME;
    mount_at(&source.to_string_lossy(), at, "ext4", flags, "nobarrier,noinit_itable")?;
    reserve_nothing(machine, disk);
    for name in ["upper", "work"] {
        make_directory(&at.join(name)).map_err(|e| failed(&e))?;
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(at, flags, Mode::empty()).map_err(|e| failed(&e))
}

/// ext4 keeps up to 2 % back for the writing of delayed blocks, which the job's limit does not mean. Without the switch
/// the limit is a little lower, and holds.
fn reserve_nothing(machine: &Machine, disk: &Path) {
    let Some(name) = disk.file_name() else { return };
    let switch = machine.base.join("sys/fs/ext4").join(name).join("reserved_clusters");
    let _less_to_use = fs::write(switch, "0");
}

fn overlay(lower: &[PathBuf], scratch: &Path, root: &Path) -> Result<(), Failed> {
    let lower: Vec<_> = lower.iter().map(|path| path.to_string_lossy()).collect();
    // Directories of the image can be renamed; files keep their numbers; nothing is synced for a disk that is thrown away.
    let data = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on,xino=auto,volatile",
        lower.join(":"),
        scratch.join("upper").display(),
        scratch.join("work").display()
    );
    mount_at("overlay", root, "overlay", MountFlags::NOATIME, &data)
        .map_err(|failure| Failed { stage: FailureStage::Image, message: failure.message })
}

/// Takes the kernel's file systems along and makes the overlay the root of everything.
fn move_into(machine: &Machine, root: &Path, job: &Start) -> Result<(), Failed> {
    let failed = |error: &dyn std::error::Error| Failed::new(FailureStage::Image, "the job's root", error);
    for name in KERNEL {
        let target = root.join(name);
        // What the image has there is covered; a link would lead the mount astray.
        let is_directory = fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_dir());
        if !is_directory {
            let _absent = fs::remove_file(&target);
            make_directory(&target).map_err(|e| failed(&e))?;
        }
        mount_move(machine.base.join(name), &target).map_err(|e| failed(&e))?;
    }
    chdir(root).map_err(|e| failed(&e))?;
    mount_move(".", "/").map_err(|e| failed(&e))?;
    chroot(".").map_err(|e| failed(&e))?;
    chdir("/").map_err(|e| failed(&e))?;
    for (path, mode) in [("/tmp", 0o1777), ("/etc", 0o755)] {
        if fs::symlink_metadata(path).is_err() {
            rustix::fs::mkdir(path, Mode::from_raw_mode(mode)).map_err(|e| failed(&e))?;
        }
    }
    rustix::system::sethostname(job.hostname.as_bytes()).map_err(|e| failed(&e))
}
