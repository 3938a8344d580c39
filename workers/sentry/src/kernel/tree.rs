//! Who is whose parent, in which group and session; the numbers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::process::{CpuTime, Ending, Process};
use super::{Pid, Task};
use crate::errno::Errno;

/// The largest number plus one: Linux's default pid_max.
const PID_MAX: Pid = 32_768;
/// Where numbering goes on after a wrap, so that low numbers stay rare (RESERVED_PIDS).
const PID_RESTART: Pid = 300;

/// What a process does, as its parent can see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It lives.
    Alive,
    /// Its end is decided, but its host process is not gone yet.
    Ending,
    /// It has ended and waits to be waited for.
    Zombie(Ending, CpuTime),
}

/// A stop or continuation that the parent has not been told of by wait yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Stopped by this signal.
    Stopped(super::Signal),
    /// Continued.
    Continued,
}

/// A process's place.
pub struct Node {
    /// The process.
    pub process: Arc<Process>,
    /// Who waits for it; 0 for the first process.
    pub parent: Pid,
    /// Its children, in order of birth.
    pub children: Vec<Pid>,
    /// Process group.
    pub group: Pid,
    /// Session.
    pub session: Pid,
    /// What it does.
    pub state: State,
    /// Whether it is stopped by a job control signal.
    pub stopped: Option<super::Signal>,
    /// What wait has not told yet.
    pub change: Option<Change>,
    /// Whether it came to its present parent as an orphan: the kernel reaps such zombies of the first process,
    /// since programs that are not an init never would.
    pub adopted: bool,
    /// The thread of the parent that made it (for __WNOTHREAD and the parent-death signal).
    pub maker: Pid,
}

impl Node {
    /// The job's first process: leader of its own group and session.
    pub fn first(process: Arc<Process>, state: State) -> Self {
        Self {
            process,
            parent: 0,
            children: Vec::new(),
            group: super::FIRST_PID,
            session: super::FIRST_PID,
            state,
            stopped: None,
            change: None,
            adopted: false,
            maker: 0,
        }
    }
}

/// All processes and threads.
#[derive(Default)]
pub struct Tree {
    nodes: BTreeMap<Pid, Node>,
    tasks: HashMap<Pid, Arc<Task>>,
    last: Pid,
    made: u64,
    /// Threads that exist, zombies not counted.
    pub threads: u64,
    /// The job is ending: nothing is made any more, or whoever ends what there is would miss it.
    closed: bool,
}

impl Tree {
    /// The next free number.
    ///
    /// # Errors
    /// EAGAIN if all are taken.
    pub fn allocate(&mut self) -> Result<Pid, Errno> {
        for _ in 0..PID_MAX {
            self.last = if self.last + 1 >= PID_MAX { PID_RESTART } else { self.last + 1 };
            let pid = self.last;
            let taken = self.nodes.contains_key(&pid)
                || self.tasks.contains_key(&pid)
                || self.nodes.values().any(|node| node.group == pid || node.session == pid);
            if !taken {
                return Ok(pid);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Whether the job is ending, so that no process or thread may be added.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets no process or thread be made from now on. Returns all processes whose end is yet to be decided.
    pub fn close(&mut self) -> Vec<Arc<Process>> {
        self.closed = true;
        let living = self.nodes.values().filter(|node| node.state == State::Alive);
        living.map(|node| node.process.clone()).collect()
    }

    /// Adds a process.
    pub fn add(&mut self, node: Node) {
        if let Some(parent) = self.nodes.get_mut(&node.parent) {
            parent.children.push(node.process.pid);
        }
        self.nodes.insert(node.process.pid, node);
    }

    /// Adds a thread under its number.
    pub fn add_task(&mut self, task: Arc<Task>) {
        self.threads += 1;
        self.made += 1;
        self.tasks.insert(task.tid(), task);
    }

    /// The number that was given out last.
    pub fn last_pid(&self) -> Pid {
        self.last
    }

    /// Processes and threads that were ever made.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Removes a thread.
    pub fn remove_task(&mut self, tid: Pid) {
        if self.tasks.remove(&tid).is_some() {
            self.threads = self.threads.saturating_sub(1);
        }
    }

    /// exec by another thread than the leader: the thread takes the leader's number.
    pub fn rename_task(&mut self, from: Pid, to: Pid) {
        if let Some(task) = self.tasks.remove(&from) {
            task.set_tid(to);
            if self.tasks.insert(to, task).is_some() {
                self.threads = self.threads.saturating_sub(1);
            }
        }
    }

    /// A process, zombies included.
    pub fn node(&self, pid: Pid) -> Option<&Node> {
        self.nodes.get(&pid)
    }

    /// A process, to be changed.
    pub fn node_mut(&mut self, pid: Pid) -> Option<&mut Node> {
        self.nodes.get_mut(&pid)
    }

    /// A process that is not a zombie's successor: any that can still be named by its number.
    pub fn process(&self, pid: Pid) -> Option<Arc<Process>> {
        self.nodes.get(&pid).map(|node| node.process.clone())
    }

    /// A thread.
    pub fn task(&self, tid: Pid) -> Option<Arc<Task>> {
        self.tasks.get(&tid).cloned()
    }

    /// All processes by number.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// How many processes there are, zombies included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no process.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Removes a zombie for good. Whoever it is given to reaps it; nobody else can.
    pub fn reap(&mut self, pid: Pid) -> Option<Arc<Process>> {
        let node = self.nodes.remove(&pid)?;
        if let Some(parent) = self.nodes.get_mut(&node.parent) {
            parent.children.retain(|child| *child != pid);
        }
        Some(node.process)
    }

    /// The nearest living ancestor that takes in orphans, or the first process.
    fn adopter(&self, of: Pid) -> Pid {
        let mut at = self.nodes.get(&of).map_or(0, |node| node.parent);
        while let Some(node) = self.nodes.get(&at) {
            let takes = node.process.is_subreaper.load(std::sync::atomic::Ordering::Relaxed);
            if takes && node.state == State::Alive {
                return at;
            }
            at = node.parent;
        }
        super::FIRST_PID
    }

    /// Gives the children of an ended process to their new parent. Returns that parent and those of them that
    /// are zombies already.
    pub fn orphan_children(&mut self, of: Pid) -> (Pid, Vec<Pid>) {
        let adopter = self.adopter(of);
        let children = self.nodes.get_mut(&of).map(|node| std::mem::take(&mut node.children));
        let children = children.unwrap_or_default();
        let mut zombies = Vec::new();
        for child in &children {
            if let Some(node) = self.nodes.get_mut(child) {
                node.parent = adopter;
                node.adopted = true;
                // Whoever adopts it has asked for no other signal.
                node.process.exit_signal.store(super::Signal::CHLD.number(), Ordering::Relaxed);
                if matches!(node.state, State::Zombie(..)) {
                    zombies.push(*child);
                }
            }
        }
        if let Some(node) = self.nodes.get_mut(&adopter) {
            node.children.extend(children);
        }
        (adopter, zombies)
    }

    /// The processes of a group, zombies left out.
    pub fn group(&self, group: Pid) -> Vec<Arc<Process>> {
        let living = |node: &&Node| node.group == group && !matches!(node.state, State::Zombie(..));
        self.nodes.values().filter(living).map(|node| node.process.clone()).collect()
    }

    /// Whether no member of the group has a parent in another group of the same session: job control stops from
    /// a terminal are ignored then.
    pub fn is_orphaned_group(&self, group: Pid) -> bool {
        !self.nodes.values().filter(|node| node.group == group).any(|node| {
            self.nodes
                .get(&node.parent)
                .is_some_and(|parent| parent.group != group && parent.session == node.session)
        })
    }
}
