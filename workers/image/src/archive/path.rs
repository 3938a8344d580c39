//! Paths of entries: made relative to the image's root, or refused.

use std::collections::VecDeque;

use bulkhead_erofs::{Content, MAX_NAME, Meta, Node, NodeId, Tree};

use super::bounds;
use super::error::{ArchiveError, show};
use super::spool::Run;

/// The components of an archive's path, from the root of the image.
///
/// Leading slashes, empty components and `.` are left out, as every tar does. `..` is refused.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, ArchiveError> {
    let refuse = |why: &str| ArchiveError::Path { path: show(path), why: why.into() };
    if path.len() > bounds::MAX_PATH {
        return Err(refuse("it is longer than 4095 bytes"));
    }
    if path.contains(&0) {
        return Err(refuse("it has a NUL"));
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts = parts.collect::<Vec<_>>();
    if parts.contains(&&b".."[..]) {
        return Err(refuse("it has the component \"..\""));
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err(refuse("a component is longer than 255 bytes"));
    }
    if parts.len() > bounds::MAX_DEPTH {
        return Err(refuse("it has more than 256 components"));
    }
    Ok(parts)
}

/// What to do where a directory on the way is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make it: owned by root, mode 0755, of 1970.
    Make,
    /// Find nothing.
    Stop,
}

/// Finds the directory that `parts` lead to. Symbolic links on the way are followed within the
/// image, as if it were the root directory; so nothing leads out of it. `passed` is told of each
/// directory below the root on the way.
pub(crate) fn directory(
    tree: &mut Tree,
    parts: &[&[u8]],
    missing: Missing,
    mut passed: impl FnMut(NodeId),
) -> Result<Option<NodeId>, ArchiveError> {
    let place = |why: &str| ArchiveError::Placement { path: show(&parts.join(&b'/')), why: why.into() };
    let mut pending = parts.iter().map(|part| part.to_vec()).collect::<VecDeque<_>>();
    let mut ancestors = vec![tree.root()];
    let mut links = 0;
    while let Some(part) = pending.pop_front() {
        let here = ancestors.last().copied().unwrap_or(tree.root());
        if part == b".." {
            // Only links have these. The root is its own parent.
            if ancestors.len() > 1 {
                ancestors.pop();
            }
            continue;
        }
        let children = tree.children(here).ok_or_else(|| place("a component is no directory"))?;
        let Some(next) = children.get(&part[..]).copied() else {
            if missing == Missing::Stop {
                return Ok(None);
            }
            if ancestors.len() > bounds::MAX_DEPTH {
                return Err(place("it leads to more than 256 directories in one another"));
            }
            let new = make(tree, here, &part)?;
            ancestors.push(new);
            passed(new);
            continue;
        };
        match &tree.node(next).content {
            Content::Directory(_) => {
                ancestors.push(next);
                passed(next);
            }
            Content::Symlink(target) => {
                links += 1;
                if links > bounds::MAX_LINKS {
                    return Err(place("it leads through more than 40 symbolic links"));
                }
                if target.first() == Some(&b'/') {
                    ancestors.truncate(1);
                }
                let target = target.split(|byte| *byte == b'/');
                let steps = target.filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec);
                for step in steps.collect::<Vec<_>>().into_iter().rev() {
                    pending.push_front(step);
                }
            }
            _ => return Err(place("a component is no directory")),
        }
    }
    Ok(ancestors.last().copied())
}

fn make(tree: &mut Tree, parent: NodeId, name: &[u8]) -> Result<NodeId, ArchiveError> {
    let too_many = || ArchiveError::too_much(bounds::MAX_ENTRIES, "entries");
    if name.len() > MAX_NAME {
        let why = "a component is longer than 255 bytes".into();
        return Err(ArchiveError::Path { path: show(name), why });
    }
    if tree.len() as u64 > bounds::MAX_ENTRIES {
        return Err(too_many());
    }
    let meta = Meta { mode: 0o755, ..Meta::default() };
    let id = tree.add(Node { meta, content: Content::empty_directory() }).ok_or_else(too_many)?;
    if let Some(children) = tree.children_mut(parent) {
        children.insert(name.into(), id);
    }
    Ok(id)
}

/// The file that an archive of an image has at `path`; links to it are followed.
pub(crate) fn file(tree: &mut Tree, path: &str) -> Result<Option<Run>, ArchiveError> {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..bounds::MAX_LINKS {
        let parts = components(&path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(None) };
        let Some(parent) = directory(tree, parents, Missing::Stop, |_| {})? else { return Ok(None) };
        let Some(id) = tree.children(parent).and_then(|children| children.get(*name)) else {
            return Ok(None);
        };
        match &tree.node(*id).content {
            Content::Regular { offset, size } => return Ok(Some(Run { offset: *offset, size: *size })),
            Content::Symlink(target) => path = beside(parents, target),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The path of a link's target, `..` in it taken as text.
fn beside(parents: &[&[u8]], target: &[u8]) -> Vec<u8> {
    let mut parts = if target.first() == Some(&b'/') { Vec::new() } else { parents.to_vec() };
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}
