//! /proc/PID and /proc/PID/task/TID.

use std::sync::Arc;

use super::node::{self, hash};
use super::{ProcessInfo, Shared, descriptors, memory, status};
use crate::errno::Errno;
use crate::vfs::{
    Caller, Capability, Credentials, Dentry, Inode, Kind, VirtualDirectory, VirtualEntry, VirtualFile,
    VirtualLink,
};

/// A process, and the thread of it that is looked at.
#[derive(Clone)]
pub(super) struct View {
    pub shared: Arc<Shared>,
    pub process: Arc<dyn ProcessInfo>,
    pub tid: i32,
}

type Content = fn(&View) -> Result<Vec<u8>, Errno>;
type Write = fn(&View, &[u8]) -> Result<(), Errno>;

enum Item {
    File(u32, Content),
    Writable(u32, Content, Write),
    Link(Place),
    /// `fd`, with links, or `fdinfo`, with files.
    Descriptors {
        info: bool,
    },
    Tasks,
    Namespaces,
    Net,
}

#[derive(Clone, Copy)]
enum Place {
    Cwd,
    Root,
    Executable,
}

/// What is in a process's directory.
const ITEMS: &[(&str, Item)] = &[
    ("auxv", Item::File(0o400, |view| Ok(view.process.auxiliary_vector()))),
    ("cgroup", Item::File(0o444, |_| Ok(b"0::/\n".to_vec()))),
    ("cmdline", Item::File(0o444, |view| Ok(view.process.command_line()))),
    ("comm", Item::Writable(0o644, status::name, status::set_name)),
    ("coredump_filter", Item::File(0o644, |_| Ok(b"00000033\n".to_vec()))),
    ("cpuset", Item::File(0o444, |_| Ok(b"/\n".to_vec()))),
    ("cwd", Item::Link(Place::Cwd)),
    ("environ", Item::File(0o400, |view| Ok(view.process.environment()))),
    ("exe", Item::Link(Place::Executable)),
    ("fd", Item::Descriptors { info: false }),
    ("fdinfo", Item::Descriptors { info: true }),
    ("gid_map", Item::File(0o444, |_| Ok(b"         0          0 4294967295\n".to_vec()))),
    ("io", Item::File(0o400, status::input_output)),
    ("limits", Item::File(0o444, status::limits)),
    ("loginuid", Item::File(0o444, |_| Ok(b"4294967295".to_vec()))),
    ("maps", Item::File(0o444, |view| Ok(memory::maps(view)))),
    ("mountinfo", Item::File(0o444, status::mount_info)),
    ("mounts", Item::File(0o444, status::mounts)),
    ("net", Item::Net),
    ("ns", Item::Namespaces),
    ("oom_adj", Item::Writable(0o644, status::oom_adj, status::set_oom_adj)),
    ("oom_score", Item::File(0o444, |_| Ok(b"666\n".to_vec()))),
    ("oom_score_adj", Item::Writable(0o644, status::oom_score_adj, status::set_oom_score_adj)),
    ("personality", Item::File(0o400, |_| Ok(b"00000000\n".to_vec()))),
    ("root", Item::Link(Place::Root)),
    ("schedstat", Item::File(0o444, status::schedule)),
    ("sessionid", Item::File(0o444, |_| Ok(b"4294967295".to_vec()))),
    ("setgroups", Item::File(0o444, |_| Ok(b"allow\n".to_vec()))),
    ("smaps", Item::File(0o444, |view| Ok(memory::smaps(view)))),
    ("smaps_rollup", Item::File(0o444, |view| Ok(memory::smaps_rollup(view)))),
    ("stat", Item::File(0o444, status::stat)),
    ("statm", Item::File(0o444, status::statm)),
    ("status", Item::File(0o444, status::status)),
    ("task", Item::Tasks),
    ("timerslack_ns", Item::File(0o644, |_| Ok(b"50000\n".to_vec()))),
    ("uid_map", Item::File(0o444, |_| Ok(b"         0          0 4294967295\n".to_vec()))),
    ("wchan", Item::File(0o444, |_| Ok(b"0".to_vec()))),
];

/// The inode number of a process's directory.
pub(super) fn number(pid: i32) -> u64 {
    hash(&format!("proc/{pid}"))
}

fn owner(process: &dyn ProcessInfo) -> (u32, u32) {
    let credentials = process.credentials();
    (credentials.euid, credentials.egid)
}

/// The directory of a process.
pub(super) fn directory(shared: &Arc<Shared>, process: Arc<dyn ProcessInfo>, tid: i32) -> Arc<Inode> {
    let owner = owner(&*process);
    let view = View { shared: shared.clone(), process, tid };
    node::directory(shared, number(tid), 0o555, owner, Arc::new(ProcessDirectory { view, task: false }))
}

struct ProcessDirectory {
    view: View,
    /// Of a thread: without `task`.
    task: bool,
}

impl ProcessDirectory {
    fn path(&self) -> String {
        let tid = self.view.tid;
        if self.task { format!("proc/{}/task/{tid}", self.view.process.pid()) } else { format!("proc/{tid}") }
    }

    fn has(&self, item: &Item) -> bool {
        !self.task || !matches!(item, Item::Tasks)
    }
}

impl VirtualDirectory for ProcessDirectory {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        if self.view.process.status(self.view.tid).is_none() {
            return Ok(None);
        }
        let found = ITEMS.iter().find(|(item, _)| item.as_bytes() == name);
        let Some((name, item)) = found.filter(|(_, item)| self.has(item)) else { return Ok(None) };
        let number = hash(&format!("{}/{name}", self.path()));
        let (shared, view) = (&self.view.shared, self.view.clone());
        let owner = owner(&*self.view.process);
        Ok(Some(match *item {
            Item::File(mode, content) => {
                node::file(shared, number, mode, owner, Arc::new(ProcessFile { view, content, write: None }))
            }
            Item::Writable(mode, content, write) => {
                let file = ProcessFile { view, content, write: Some(write) };
                node::file(shared, number, mode, owner, Arc::new(file))
            }
            Item::Link(place) => node::link(shared, number, owner, Arc::new(PlaceLink { view, place })),
            Item::Descriptors { info } => {
                let mode = if info { 0o555 } else { 0o500 };
                let directory = descriptors::Descriptors { view, info };
                node::directory(shared, number, mode, owner, Arc::new(directory))
            }
            Item::Tasks => node::directory(shared, number, 0o555, owner, Arc::new(Tasks(view))),
            Item::Namespaces => {
                node::directory(shared, number, 0o511, owner, Arc::new(Namespaces(shared.clone())))
            }
            Item::Net => {
                let entries = super::system::NET;
                let net = super::system::NetDirectory { shared: shared.clone(), entries };
                node::directory(shared, number, 0o555, (0, 0), Arc::new(net))
            }
        }))
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        if self.view.process.status(self.view.tid).is_none() {
            return Err(Errno::ENOENT);
        }
        let path = self.path();
        let items = ITEMS.iter().filter(|(_, item)| self.has(item));
        Ok(items
            .map(|(name, item)| VirtualEntry {
                name: (*name).into(),
                kind: match item {
                    Item::File(..) | Item::Writable(..) => Kind::Regular,
                    Item::Link(_) => Kind::Symlink,
                    _ => Kind::Directory,
                },
                number: hash(&format!("{path}/{name}")),
            })
            .collect())
    }
}

struct ProcessFile {
    view: View,
    content: Content,
    write: Option<Write>,
}

impl VirtualFile for ProcessFile {
    fn content(&self) -> Result<Vec<u8>, Errno> {
        (self.content)(&self.view)
    }

    fn write(&self, data: &[u8]) -> Result<(), Errno> {
        self.write.map_or(Err(Errno::EACCES), |write| write(&self.view, data))
    }
}

/// Whether somebody may look at a process's files and directories, as ptrace's rule for reading is.
pub(super) fn may_look(caller: &Caller, process: &Credentials) -> bool {
    let mine = &caller.credentials;
    let same = [process.uid, process.euid, process.suid].iter().all(|uid| *uid == mine.fsuid)
        && [process.gid, process.egid, process.sgid].iter().all(|gid| *gid == mine.fsgid);
    same || mine.can(Capability::SysPtrace) || mine.fsuid == 0
}

struct PlaceLink {
    view: View,
    place: Place,
}

impl PlaceLink {
    fn dentry(&self, caller: &Caller) -> Result<Arc<Dentry>, Errno> {
        let process = &self.view.process;
        if caller.pid != process.pid() && !may_look(caller, &process.credentials()) {
            return Err(Errno::EACCES);
        }
        let dentry = match self.place {
            Place::Executable => process.executable(),
            Place::Cwd => process.fs().map(|fs| fs.cwd()),
            Place::Root => process.fs().map(|fs| fs.root()),
        };
        dentry.ok_or(Errno::ENOENT)
    }
}

impl VirtualLink for PlaceLink {
    fn target(&self, caller: &Caller) -> Result<Vec<u8>, Errno> {
        Ok(self.dentry(caller)?.path(&caller.root))
    }

    fn jump(&self, caller: &Caller) -> Option<Result<Arc<Dentry>, Errno>> {
        Some(self.dentry(caller))
    }
}

/// /proc/PID/task.
struct Tasks(View);

impl VirtualDirectory for Tasks {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        let Some(tid) = node::number_of(name) else { return Ok(None) };
        if !self.0.process.threads().contains(&tid) {
            return Ok(None);
        }
        let view = View { tid, ..self.0.clone() };
        let number = hash(&format!("proc/{}/task/{tid}", view.process.pid()));
        let owner = owner(&*view.process);
        let shared = self.0.shared.clone();
        let directory = Arc::new(ProcessDirectory { view, task: true });
        Ok(Some(node::directory(&shared, number, 0o555, owner, directory)))
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        let pid = self.0.process.pid();
        let entry = |tid: i32| VirtualEntry {
            name: tid.to_string().into_bytes(),
            kind: Kind::Directory,
            number: hash(&format!("proc/{pid}/task/{tid}")),
        };
        Ok(self.0.process.threads().into_iter().map(entry).collect())
    }
}

/// /proc/PID/ns: all processes of a job share all of them.
struct Namespaces(Arc<Shared>);

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
/// As the host's first namespaces are numbered.
const FIRST_NAMESPACE: u64 = 4_026_531_834;

struct NamespaceLink(usize);

impl VirtualLink for NamespaceLink {
    fn target(&self, _caller: &Caller) -> Result<Vec<u8>, Errno> {
        let name = NAMESPACES.get(self.0).ok_or(Errno::ENOENT)?;
        Ok(format!("{name}:[{}]", FIRST_NAMESPACE + self.0 as u64).into_bytes())
    }

    fn jump(&self, _caller: &Caller) -> Option<Result<Arc<Dentry>, Errno>> {
        // There is only one of each: nothing can be entered.
        Some(Err(Errno::EACCES))
    }
}

impl VirtualDirectory for Namespaces {
    fn lookup(&self, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
        let index = NAMESPACES.iter().position(|namespace| namespace.as_bytes() == name);
        Ok(index.map(|index| {
            node::link(&self.0, FIRST_NAMESPACE + index as u64, (0, 0), Arc::new(NamespaceLink(index)))
        }))
    }

    fn list(&self) -> Result<Vec<VirtualEntry>, Errno> {
        let entry = |(index, name): (usize, &&str)| VirtualEntry {
            name: (*name).into(),
            kind: Kind::Symlink,
            number: FIRST_NAMESPACE + index as u64,
        };
        Ok(NAMESPACES.iter().enumerate().map(entry).collect())
    }
}
