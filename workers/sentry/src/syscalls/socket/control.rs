//! Control messages: files and credentials.

use std::sync::Arc;

use crate::errno::Errno;
use crate::kernel::{Ctx, Resource};
use crate::net::unix::{MAX_FILES, Peer};
use crate::vfs::{Capability, OpenFile};

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// Bytes of a `struct cmsghdr`.
const HEADER: usize = 16;
/// Most bytes of control data that are read (net.core.optmem_max).
const MAX: u64 = 20_480;

/// What a sender says besides its bytes.
#[derive(Default)]
pub(super) struct Sent {
    pub files: Vec<Arc<OpenFile>>,
    pub peer: Option<Peer>,
}

fn int(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..at + 4).map_or(0, |b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Reads a sender's control data.
///
/// # Errors
/// ENOBUFS, EINVAL, EBADF, ETOOMANYREFS, EPERM for credentials that are not the sender's.
pub(super) fn read(cx: &Ctx<'_>, address: u64, length: u64) -> Result<Sent, Errno> {
    let mut sent = Sent::default();
    if address == 0 || length == 0 {
        return Ok(sent);
    }
    if length > MAX {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = vec![0; length as usize];
    cx.memory.read(address, &mut bytes)?;
    let mut at = 0;
    while bytes.len() - at >= HEADER {
        let length = bytes[at..at + 8].iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        if length < HEADER || length > bytes.len() - at {
            return Err(Errno::EINVAL);
        }
        let data = &bytes[at + HEADER..at + length];
        if int(&bytes, at + 8) == SOL_SOCKET {
            match int(&bytes, at + 12) {
                SCM_RIGHTS => {
                    if sent.files.len() + data.len() / 4 > MAX_FILES {
                        return Err(Errno::EINVAL);
                    }
                    let files = cx.files();
                    for n in 0..data.len() / 4 {
                        sent.files.push(files.get(int(data, n * 4))?);
                    }
                }
                SCM_CREDENTIALS => sent.peer = Some(credentials(cx, data)?),
                _ => return Err(Errno::EINVAL),
            }
        }
        at = (at + length.next_multiple_of(8)).min(bytes.len());
    }
    Ok(sent)
}

fn credentials(cx: &Ctx<'_>, data: &[u8]) -> Result<Peer, Errno> {
    if data.len() != 12 {
        return Err(Errno::EINVAL);
    }
    let peer = Peer { pid: int(data, 0), uid: int(data, 4) as u32, gid: int(data, 8) as u32 };
    let mine = cx.credentials();
    let own_pid = peer.pid == cx.pid() || mine.can(Capability::SysAdmin);
    let own_uid = [mine.uid, mine.euid, mine.suid].contains(&peer.uid) || mine.can(Capability::Setuid);
    let own_gid = [mine.gid, mine.egid, mine.sgid].contains(&peer.gid) || mine.can(Capability::Setgid);
    if own_pid && own_uid && own_gid { Ok(peer) } else { Err(Errno::EPERM) }
}

/// Control data for a receiver, as far as they fit. Files are installed as descriptors; those without room are
/// closed. Answers the bytes and whether something was cut off.
pub(super) fn build(
    cx: &Ctx<'_>,
    room: usize,
    peer: Option<Peer>,
    files: Vec<Arc<OpenFile>>,
    close_on_exec: bool,
) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut cut = false;
    let put = |kind: i32, data: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(&((HEADER + data.len()) as u64).to_le_bytes());
        out.extend_from_slice(&SOL_SOCKET.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(data);
        let padded = out.len().next_multiple_of(8).min(room);
        out.resize(padded.max(out.len()), 0);
    };
    if let Some(peer) = peer {
        if room >= HEADER + 12 {
            let data = [peer.pid.to_le_bytes(), peer.uid.to_le_bytes(), peer.gid.to_le_bytes()].concat();
            put(SCM_CREDENTIALS, &data, &mut out);
        } else {
            cut = true;
        }
    }
    if files.is_empty() {
        return (out, cut);
    }
    let fits = room.saturating_sub(out.len() + HEADER) / 4;
    let limit = cx.limit(Resource::OpenFiles);
    let table = cx.files();
    let count = files.len();
    let mut numbers = Vec::new();
    for file in files.into_iter().take(fits) {
        match table.install(file, close_on_exec, limit) {
            Ok(fd) => numbers.extend_from_slice(&fd.to_le_bytes()),
            Err(_) => break,
        }
    }
    cut |= numbers.len() / 4 < count;
    if !numbers.is_empty() {
        put(SCM_RIGHTS, &numbers, &mut out);
    }
    (out, cut)
}
