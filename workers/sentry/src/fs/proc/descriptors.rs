//! /proc/PID/fd and /proc/PID/fdinfo.

use std::fmt::Write;
use std::sync::Arc;

use super::node::{self, hash};
use super::process::{View, may_look};
use crate::errno::Errno;
use crate::vfs::flags::{O_CLOEXEC, O_LARGEFILE};
use crate::vfs::{
    Caller, Dentry, FdTable, Inode, Kind, OpenFile, VirtualDirectory, VirtualEntry, VirtualFile, VirtualLink,
};

/// One of the two directories.
pub(super) struct Descriptors {
    pub view: View,
    pub info: bool,
}

impl Descriptors {
    fn files(&self) -> Result<Arc<FdTable>, Errno> {
        self.view.process.files().ok_or(Errno::ENOENT)
    }

    fn number(&self, fd: i32) -> u64 {
        let name = if self.info { "fdinfo" } else { "fd" };
        hash(&format!("proc/{}/{name}/{fd}", self.view.tid))
    }
}

impl VirtualDirectory for Descriptors {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        let Some(fd) = node::number_of(name) else { return Ok(None) };
        let Ok(file) = self.files()?.get(fd) else { return Ok(None) };
        let credentials = self.view.process.credentials();
        let owner = (credentials.euid, credentials.egid);
        let (shared, view, number) = (&self.view.shared, self.view.clone(), self.number(fd));
        Ok(Some(if self.info {
            node::file(shared, number, 0o400, owner, Arc::new(Info { view, fd }))
        } else {
            let link = node::link(shared, number, owner, Arc::new(FileLink { view, fd }));
            // Readable and writable by the owner as the open file is.
            let mode =
                0o100 | if file.may_read() { 0o400 } else { 0 } | if file.may_write() { 0o200 } else { 0 };
            link.change(|meta| meta.mode = mode);
            link
        }))
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        let kind = if self.info { Kind::Regular } else { Kind::Symlink };
        let entry =
            |(fd, _)| VirtualEntry { name: i32::to_string(&fd).into_bytes(), kind, number: self.number(fd) };
        Ok(self.files()?.open_files().into_iter().map(entry).collect())
    }
}

struct FileLink {
    view: View,
    fd: i32,
}

impl FileLink {
    fn file(&self, caller: &Caller) -> Result<Arc<OpenFile>, Errno> {
        let process = &self.view.process;
        if caller.pid != process.pid() && !may_look(caller, &process.credentials()) {
            return Err(Errno::EACCES);
        }
        process.files().and_then(|files| files.get(self.fd).ok()).ok_or(Errno::ENOENT)
    }
}

impl VirtualLink for FileLink {
    fn target(&self, caller: &Caller) -> Result<Vec<u8>, Errno> {
        Ok(self.file(caller)?.dentry().path(&caller.root))
    }

    fn jump(&self, caller: &Caller) -> Option<Result<Arc<Dentry>, Errno>> {
        Some(self.file(caller).map(|file| file.dentry().clone()))
    }
}

struct Info {
    view: View,
    fd: i32,
}

impl VirtualFile for Info {
    fn content(&self) -> Result<Vec<u8>, Errno> {
        let files = self.view.process.files().ok_or(Errno::ENOENT)?;
        let file = files.get(self.fd).map_err(|_| Errno::ENOENT)?;
        let mut flags = file.flags() | O_LARGEFILE;
        if files.is_close_on_exec(self.fd).unwrap_or(false) {
            flags |= O_CLOEXEC;
        }
        let mut out = String::new();
        let _infallible = write!(
            out,
            "pos:\t{}\nflags:\t0{flags:o}\nmnt_id:\t{}\nino:\t{}\n",
            file.position(),
            file.inode().fs.device,
            file.inode().number
        );
        file.ops().describe(&mut out);
        Ok(out.into_bytes())
    }
}
