//! ioctl: the few that are about all files.

use crate::call::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::Ctx;
use crate::syscalls::Entry;
use crate::vfs::Kind;
use crate::vfs::flags::{O_ASYNC, O_NONBLOCK};

pub(super) const TABLE: &[Entry] = &[Entry::partial(
    16,
    "ioctl",
    ioctl,
    "FIONREAD, FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX, FIOQSIZE, FIGETBSZ; others ENOTTY",
)
.by(&["locks:controls", "noted:files"])];

const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FIONBIO: u32 = 0x5421;
const FIONREAD: u32 = 0x541b;
const FIOQSIZE: u32 = 0x5460;
const FIGETBSZ: u32 = 2;

fn ioctl(cx: &mut Ctx<'_>, args: &Args) -> SysResult {
    let (fd, request, argument) = (args.int(0), args.uint(1), args.u64(2));
    let files = cx.files();
    let file = files.get_io(fd)?;
    match request {
        FIOCLEX | FIONCLEX => files.set_close_on_exec(fd, request == FIOCLEX)?,
        FIONBIO | FIOASYNC => {
            let on: i32 = cx.memory.read_value(argument)?;
            let bit = if request == FIONBIO { O_NONBLOCK } else { O_ASYNC };
            let flags = file.flags();
            file.set_flags(if on != 0 { flags | bit } else { flags & !bit });
        }
        FIONREAD => {
            let count = file.ops().readable_bytes(&file)?;
            cx.memory.write_value(argument, &i32::try_from(count).unwrap_or(i32::MAX))?;
        }
        FIOQSIZE if file.inode().kind == Kind::Regular => {
            let size = file.inode().content().map_or(0, crate::fs::content::Content::size);
            cx.memory.write_value(argument, &size)?;
        }
        FIGETBSZ if file.inode().kind == Kind::Regular => cx.memory.write_value(argument, &4096u32)?,
        _ => return Err(Errno::ENOTTY.into()),
    }
    Ok(0)
}
