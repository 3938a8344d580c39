//! Files that come from nowhere: pipes and memory files.

use std::sync::Arc;

use super::caller;
use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::{Ctx, Resource};
use crate::syscalls::Entry;
use crate::vfs::OpenFile;
use crate::vfs::flags::{O_CLOEXEC, O_DIRECT, O_NONBLOCK};

pub(super) const TABLE: &[Entry] = &[
    Entry::full(22, "pipe", pipe).by(&["io:pipes"]),
    Entry::full(293, "pipe2", pipe2).by(&["io:pipes"]),
    Entry::partial(319, "memfd_create", memfd_create, "huge pages: EINVAL")
        .by(&["locks:memory_files", "noted:memory"]),
];

fn pipe(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    make_pipe(cx, args.u64(0), 0)
}

fn pipe2(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let flags = args.uint(1);
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    make_pipe(cx, args.u64(0), flags)
}

fn make_pipe(cx: &Ctx<'_>, address: u64, flags: u32) -> SysResult {
    let (reader, writer) = cx.kernel.vfs().pipe(&caller(cx), flags);
    install_pair(cx, (reader, writer), flags & O_CLOEXEC != 0, address)
}

/// Installs two files and writes their descriptors to the guest; neither stays if that fails.
pub(in crate::syscalls) fn install_pair(
    cx: &Ctx<'_>,
    pair: (Arc<OpenFile>, Arc<OpenFile>),
    close_on_exec: bool,
    address: u64,
) -> SysResult {
    let files = cx.files();
    let limit = cx.limit(Resource::OpenFiles);
    let first = files.install(pair.0, close_on_exec, limit)?;
    let second = match files.install(pair.1, close_on_exec, limit) {
        Ok(second) => second,
        Err(errno) => {
            drop(files.close(first));
            return Err(errno.into());
        }
    };
    if let Err(errno) = cx.memory.write_value(address, &[first, second]) {
        drop((files.close(first), files.close(second)));
        return Err(errno.into());
    }
    Ok(0)
}

fn memfd_create(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    const MFD_CLOEXEC: u32 = 1;
    const MFD_ALLOW_SEALING: u32 = 2;
    const MFD_NOEXEC_SEAL: u32 = 8;
    const MFD_EXEC: u32 = 16;
    /// Longest name without its NUL: what is left of NAME_MAX behind "memfd:".
    const NAME: usize = 249;
    let flags = args.uint(1);
    let known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;
    if flags & !known != 0 || flags & (MFD_NOEXEC_SEAL | MFD_EXEC) == MFD_NOEXEC_SEAL | MFD_EXEC {
        return Err(Errno::EINVAL.into());
    }
    let name = cx.memory.read_string(args.u64(0), NAME + 1, Errno::EINVAL)?;
    let file = cx.kernel.vfs().memory_file(&caller(cx), &name)?;
    let content = file.inode().content().ok_or(Errno::EIO)?;
    if flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) != 0 {
        content.allow_sealing();
    }
    if flags & MFD_NOEXEC_SEAL != 0 {
        const SEAL_EXEC: u32 = 0x20;
        content.add_seals(SEAL_EXEC)?;
        file.inode().change(|meta| meta.mode &= !0o111);
    }
    let limit = cx.limit(Resource::OpenFiles);
    Ok(cx.files().install(file, flags & MFD_CLOEXEC != 0, limit)? as u64)
}
