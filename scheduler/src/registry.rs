use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_types::{AttemptKey, Digest, JobSpec, NodeId, TenantId};
use tokio::sync::mpsc;

/// An attempt that a node is to run.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The attempt; the node presents it with every report.
    pub key: AttemptKey,
    /// The job's owner.
    pub tenant: TenantId,
    /// What to run, with secret values.
    pub spec: JobSpec,
    /// The image to run it on.
    pub image_digest: Digest,
    /// How long the node has it without renewing.
    pub lease: Duration,
}

/// What a node is told.
#[derive(Debug, Clone)]
pub enum NodeCommand {
    /// Run this. From now on each heartbeat lists it, until its end was confirmed.
    Start(Box<Assignment>),
    /// Its owner wants its end: SIGTERM, the job's grace period, SIGKILL; outputs are kept. May come more than once.
    Cancel(AttemptKey),
    /// It is not the node's any more: kill it, and drop what is spooled of it. May come more than once.
    Stop(AttemptKey),
    /// Whether the operator drains the node: it gets no new attempts; those under way go on.
    Drain(bool),
}

/// The way to a connected node. Its capacity bounds what is under way to the node: a full channel counts as broken.
#[derive(Debug, Clone)]
pub struct NodeLink {
    /// Where the server reads the node's commands from. It is closed when the node connects anew.
    pub commands: mpsc::Sender<NodeCommand>,
}

/// One connection of a node. Calls of an older one are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// As its certificate names it.
    pub node: NodeId,
    pub(crate) number: u64,
}

/// A node that is connected now.
struct Connected {
    session: u64,
    commands: mpsc::Sender<NodeCommand>,
    /// Whether it may get jobs: it has presented what it runs, none of which has to be stopped first.
    settled: bool,
    /// Whether it has said that it will go.
    leaving: bool,
    /// Ended here, and perhaps still in the heartbeat that is on its way: not to be taken for strangers.
    ended: HashSet<AttemptKey>,
}

/// The nodes that are connected to this process.
#[derive(Default)]
pub(crate) struct Registry {
    next: AtomicU64,
    nodes: Mutex<BTreeMap<NodeId, Connected>>,
}

impl Registry {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Connected>> {
        // Each critical section leaves the map consistent.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection takes the place of the node's old one. It gets nothing before [`Self::settle`].
    pub(crate) fn connect(&self, node: &NodeId, link: NodeLink) -> Session {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connected = Connected {
            session: number,
            commands: link.commands,
            settled: false,
            leaving: false,
            ended: HashSet::new(),
        };
        self.nodes().insert(node.clone(), connected);
        Session { node: node.clone(), number }
    }

    /// Forgets a connection, unless the node has a newer one.
    pub(crate) fn disconnect(&self, session: &Session) {
        let mut nodes = self.nodes();
        if nodes.get(&session.node).is_some_and(|node| node.session == session.number) {
            nodes.remove(&session.node);
        }
    }

    pub(crate) fn is_current(&self, session: &Session) -> bool {
        self.nodes().get(&session.node).is_some_and(|node| node.session == session.number)
    }

    pub(crate) fn is_connected(&self, node: &NodeId) -> bool {
        self.nodes().contains_key(node)
    }

    fn change(&self, session: &Session, change: impl FnOnce(&mut Connected)) {
        if let Some(node) = self.nodes().get_mut(&session.node)
            && node.session == session.number
        {
            change(node);
        }
    }

    /// Whether a node has attempts that have to be stopped before it may get others. Answers with whether that has
    /// made room.
    pub(crate) fn settle(&self, session: &Session, settled: bool) -> bool {
        let mut opened = false;
        self.change(session, |node| {
            opened = settled && !node.settled;
            node.settled = settled;
        });
        opened
    }

    pub(crate) fn leave(&self, session: &Session) {
        self.change(session, |node| node.leaving = true);
    }

    /// Notes that an attempt of the session has ended.
    pub(crate) fn note_end(&self, session: &Session, key: AttemptKey) {
        self.change(session, |node| {
            node.ended.insert(key);
        });
    }

    /// Of what a node says that it runs, and is not current: what is not just ending. Forgets ends that the node
    /// does not list any more.
    pub(crate) fn strangers(
        &self,
        session: &Session,
        listed: &[AttemptKey],
        current: &[AttemptKey],
    ) -> Vec<AttemptKey> {
        let current: HashSet<&AttemptKey> = current.iter().collect();
        let mut strangers = Vec::new();
        self.change(session, |node| {
            strangers = listed
                .iter()
                .filter(|key| !current.contains(key) && !node.ended.contains(key))
                .copied()
                .collect();
            node.ended.retain(|key| listed.contains(key));
        });
        strangers
    }

    /// Nodes that may get jobs now, with their connections.
    pub(crate) fn available(&self) -> BTreeMap<NodeId, Session> {
        let nodes = self.nodes();
        let open =
            nodes.iter().filter(|(_, node)| node.settled && !node.leaving && !node.commands.is_closed());
        open.map(|(id, node)| (id.clone(), Session { node: id.clone(), number: node.session })).collect()
    }

    /// Sends over exactly this connection; false if it is gone, full or another one.
    pub(crate) fn send(&self, session: &Session, command: NodeCommand) -> bool {
        let nodes = self.nodes();
        let node = nodes.get(&session.node).filter(|node| node.session == session.number);
        node.is_some_and(|node| node.commands.try_send(command).is_ok())
    }

    /// Sends over whatever connection the node has; what repeats may be lost.
    pub(crate) fn tell(&self, node: &NodeId, command: NodeCommand) {
        if let Some(node) = self.nodes().get(node) {
            // Cancels and stops are repeated with each heartbeat.
            let _ = node.commands.try_send(command);
        }
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_types::JobId;

    use super::*;

    fn link(capacity: usize) -> (NodeLink, mpsc::Receiver<NodeCommand>) {
        let (commands, receiver) = mpsc::channel(capacity);
        (NodeLink { commands }, receiver)
    }

    #[test]
    fn only_the_newest_connection_counts() {
        let registry = Registry::default();
        let node = NodeId::new("n1").expect("valid");
        let (first_link, mut first_commands) = link(1);
        let first = registry.connect(&node, first_link);
        assert!(registry.available().is_empty(), "not before it is settled");
        assert!(registry.settle(&first, true) && !registry.settle(&first, true));
        assert_eq!(registry.available().get(&node), Some(&first));
        let (second_link, _second_commands) = link(1);
        let second = registry.connect(&node, second_link);
        assert!(!registry.is_current(&first) && registry.is_current(&second));
        assert!(!registry.send(&first, NodeCommand::Drain(true)));
        assert!(matches!(first_commands.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        registry.disconnect(&first);
        assert!(registry.is_current(&second), "an old connection's end does not end the new one");
        assert!(registry.send(&second, NodeCommand::Drain(true)));
        assert!(!registry.send(&second, NodeCommand::Drain(true)), "full");
        registry.settle(&second, true);
        registry.leave(&second);
        assert!(registry.available().is_empty());
    }

    #[test]
    fn an_attempt_that_is_just_ending_is_no_stranger() {
        let registry = Registry::default();
        let session = registry.connect(&NodeId::new("n1").expect("valid"), link(1).0);
        let keys = [1, 2, 3].map(|token| AttemptKey { job: JobId::generate(), attempt: 1, token });
        registry.note_end(&session, keys[1]);
        assert_eq!(registry.strangers(&session, &keys, &keys[..1]), [keys[2]]);
        // Once the node no longer lists it, it is forgotten.
        assert!(registry.strangers(&session, &[], &[]).is_empty());
        assert_eq!(registry.strangers(&session, &keys[1..2], &[]), [keys[1]]);
    }
}
