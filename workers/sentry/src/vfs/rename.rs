//! rename(2) and renameat2(2).

use std::sync::Arc;

use super::names::{bury, check_removable};
use super::permission::{MAY_WRITE, check, check_creation};
use super::walk::{Last, child, walk_to_last};
use super::{Caller, Dentry, Timestamp, Vfs};
use crate::errno::Errno;
use crate::fs::inotify;

/// RENAME_NOREPLACE: the new name must be free.
pub(crate) const RENAME_NOREPLACE: u32 = 1;
/// RENAME_EXCHANGE: both names exist and are exchanged.
pub(crate) const RENAME_EXCHANGE: u32 = 2;

impl Vfs {
    /// Renames. Relative paths start at their bases.
    ///
    /// # Errors
    /// As renameat2(2); EINVAL for RENAME_WHITEOUT.
    pub fn rename(
        &self,
        caller: &Caller,
        from: (&Arc<Dentry>, &[u8]),
        to: (&Arc<Dentry>, &[u8]),
        flags: u32,
    ) -> Result<(), Errno> {
        let both = RENAME_NOREPLACE | RENAME_EXCHANGE;
        if flags & !both != 0 || flags & both == both {
            return Err(Errno::EINVAL);
        }
        let old = walk_to_last(caller, from.0, from.1, 0)?;
        let new = walk_to_last(caller, to.0, to.1, 0)?;
        if !Arc::ptr_eq(&old.directory.inode().fs, &new.directory.inode().fs) {
            return Err(Errno::EXDEV);
        }
        if !old.is_name() {
            return Err(Errno::EBUSY);
        }
        if !new.is_name() {
            return Err(if flags & RENAME_NOREPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY });
        }
        if new.name.len() > super::flags::NAME_MAX || old.name.len() > super::flags::NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let tree = self.tree.lock();
        let source = child(&old.directory, &old.name)?.ok_or(Errno::ENOENT)?;
        let victim = child(&new.directory, &new.name)?;
        if victim.is_some() && flags & RENAME_NOREPLACE != 0 {
            return Err(Errno::EEXIST);
        }
        if victim.is_none() && flags & RENAME_EXCHANGE != 0 {
            return Err(Errno::ENOENT);
        }
        check_slashes(&old, &new, &source, victim.as_ref(), flags)?;
        check_loops(&old, &new, &source, victim.as_ref(), flags)?;
        if victim.as_ref().is_some_and(|victim| Arc::ptr_eq(victim.inode(), source.inode())) {
            // Two names of one file: nothing happens.
            return Ok(());
        }
        self.check_rename(caller, &old, &new, &source, victim.as_ref(), flags)?;
        if flags & RENAME_EXCHANGE != 0 {
            let other = victim.ok_or(Errno::ENOENT)?;
            self.exchange(&old, &new, &source, &other)?;
            drop(tree);
            inotify::moved(&old.directory, &old.name, &new.directory, &new.name, &source);
            inotify::moved(&new.directory, &new.name, &old.directory, &old.name, &other);
            return Ok(());
        }
        self.replace(&old, &new, &source, victim.as_ref())?;
        drop(tree);
        inotify::moved(&old.directory, &old.name, &new.directory, &new.name, &source);
        if let Some(victim) = victim {
            inotify::unlinked(&victim, victim.inode().with_meta(|meta| meta.nlink) == 0);
        }
        Ok(())
    }

    fn check_rename(
        &self,
        caller: &Caller,
        old: &Last,
        new: &Last,
        source: &Arc<Dentry>,
        victim: Option<&Arc<Dentry>>,
        flags: u32,
    ) -> Result<(), Errno> {
        let exchange = flags & RENAME_EXCHANGE != 0;
        check_removable(&old.directory, source, caller)?;
        check_creation(&new.directory, &caller.credentials)?;
        let is_directory = source.inode().is_directory();
        if let Some(victim) = victim {
            check_removable(&new.directory, victim, caller)?;
            match (is_directory, victim.inode().is_directory()) {
                _ if exchange => {}
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !super::list::is_empty(victim)? => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
        }
        let moves = !Arc::ptr_eq(&old.directory, &new.directory);
        if moves && is_directory {
            check(source.inode(), &caller.credentials, MAY_WRITE)?;
        }
        if let Some(victim) = victim.filter(|victim| exchange && moves && victim.inode().is_directory()) {
            check(victim.inode(), &caller.credentials, MAY_WRITE)?;
        }
        Ok(())
    }

    fn replace(
        &self,
        old: &Last,
        new: &Last,
        source: &Arc<Dentry>,
        victim: Option<&Arc<Dentry>>,
    ) -> Result<(), Errno> {
        let now = Timestamp::now();
        let is_directory = source.inode().is_directory();
        if let Some(victim) = victim {
            self.remove_name(&new.directory, &new.name)?;
            if is_directory {
                bury(victim);
                new.directory.inode().change(|meta| meta.nlink = meta.nlink.saturating_sub(1));
            } else {
                victim.mark_unlinked();
                victim.inode().change(|meta| {
                    meta.nlink = meta.nlink.saturating_sub(1);
                    meta.ctime = now;
                });
            }
        }
        self.remove_name(&old.directory, &old.name)?;
        source.move_to(&new.directory, &new.name);
        new.directory.children().ok_or(Errno::ENOTDIR)?.lock().add(&new.name, source.clone());
        new.directory.inode().touch();
        source.inode().change(|meta| meta.ctime = now);
        if is_directory {
            old.directory.inode().change(|meta| meta.nlink = meta.nlink.saturating_sub(1));
            new.directory.inode().change(|meta| meta.nlink += 1);
        }
        Ok(())
    }

    fn exchange(
        &self,
        old: &Last,
        new: &Last,
        source: &Arc<Dentry>,
        other: &Arc<Dentry>,
    ) -> Result<(), Errno> {
        self.remove_name(&old.directory, &old.name)?;
        self.remove_name(&new.directory, &new.name)?;
        let now = Timestamp::now();
        for (dentry, place) in [(source, new), (other, old)] {
            dentry.move_to(&place.directory, &place.name);
            place.directory.children().ok_or(Errno::ENOTDIR)?.lock().add(&place.name, dentry.clone());
            dentry.inode().change(|meta| meta.ctime = now);
        }
        match (source.inode().is_directory(), other.inode().is_directory()) {
            (true, false) => move_link(&old.directory, &new.directory),
            (false, true) => move_link(&new.directory, &old.directory),
            _ => {}
        }
        Ok(())
    }
}

fn move_link(from: &Dentry, to: &Dentry) {
    from.inode().change(|meta| meta.nlink = meta.nlink.saturating_sub(1));
    to.inode().change(|meta| meta.nlink += 1);
}

/// A path that ends in a slash means a directory.
fn check_slashes(
    old: &Last,
    new: &Last,
    source: &Dentry,
    victim: Option<&Arc<Dentry>>,
    flags: u32,
) -> Result<(), Errno> {
    let exchange = flags & RENAME_EXCHANGE != 0;
    if exchange && new.slash && victim.is_some_and(|victim| !victim.inode().is_directory()) {
        return Err(Errno::ENOTDIR);
    }
    if !source.inode().is_directory() && (old.slash || new.slash && !exchange) {
        return Err(Errno::ENOTDIR);
    }
    Ok(())
}

/// Nothing can be moved into itself.
fn check_loops(
    old: &Last,
    new: &Last,
    source: &Arc<Dentry>,
    victim: Option<&Arc<Dentry>>,
    flags: u32,
) -> Result<(), Errno> {
    if new.directory.is_within(source) {
        return Err(Errno::EINVAL);
    }
    if victim.is_some_and(|victim| old.directory.is_within(victim)) {
        return Err(if flags & RENAME_EXCHANGE != 0 { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    Ok(())
}
