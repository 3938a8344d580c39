//! Calls that no program of a job needs, or that are the host's affair: refused in the way that programs fall back
//! from.

use super::Entry;
use crate::errno::Errno;

/// A call that Linux itself does not have any more, or never had.
const fn gone(number: u64, name: &'static str) -> Entry {
    Entry::refused(number, name, Errno::ENOSYS, "as on Linux, which has it no more")
}

const fn mounts(number: u64, name: &'static str) -> Entry {
    Entry::refused(number, name, Errno::EPERM, "the sandbox's file systems are fixed")
}

const fn asynchronous(number: u64, name: &'static str) -> Entry {
    Entry::refused(number, name, Errno::ENOSYS, "programs fall back to threads or epoll")
}

/// This family's calls.
pub(super) const TABLE: &[Entry] = &[
    gone(134, "uselib"),
    Entry::refused(136, "ustat", Errno::ENOSYS, "use statfs"),
    Entry::refused(139, "sysfs", Errno::ENOSYS, "use /proc/filesystems"),
    mounts(155, "pivot_root"),
    mounts(165, "mount"),
    mounts(166, "umount2"),
    gone(174, "create_module"),
    gone(177, "get_kernel_syms"),
    gone(178, "query_module"),
    Entry::refused(179, "quotactl", Errno::EPERM, "no quotas"),
    gone(180, "nfsservctl"),
    gone(181, "getpmsg"),
    gone(182, "putpmsg"),
    gone(183, "afs_syscall"),
    gone(184, "tuxcall"),
    gone(185, "security"),
    asynchronous(206, "io_setup"),
    asynchronous(207, "io_destroy"),
    asynchronous(208, "io_getevents"),
    asynchronous(209, "io_submit"),
    asynchronous(210, "io_cancel"),
    gone(212, "lookup_dcookie"),
    gone(214, "epoll_ctl_old"),
    gone(215, "epoll_wait_old"),
    gone(236, "vserver"),
    Entry::refused(300, "fanotify_init", Errno::EPERM, "as without CAP_SYS_ADMIN"),
    Entry::refused(301, "fanotify_mark", Errno::EPERM, "as without CAP_SYS_ADMIN"),
    Entry::refused(303, "name_to_handle_at", Errno::EOPNOTSUPP, "files have no handles"),
    Entry::refused(304, "open_by_handle_at", Errno::EPERM, "as without CAP_DAC_READ_SEARCH"),
    asynchronous(333, "io_pgetevents"),
    mounts(428, "open_tree"),
    mounts(429, "move_mount"),
    mounts(430, "fsopen"),
    mounts(431, "fsconfig"),
    mounts(432, "fsmount"),
    mounts(433, "fspick"),
    Entry::refused(440, "process_madvise", Errno::EPERM, "as without CAP_SYS_NICE"),
    mounts(442, "mount_setattr"),
    Entry::refused(443, "quotactl_fd", Errno::EPERM, "no quotas"),
    Entry::refused(447, "memfd_secret", Errno::ENOSYS, "as where it is switched off, which is the default"),
    Entry::refused(449, "futex_waitv", Errno::ENOSYS, "programs fall back to futex"),
    Entry::refused(450, "set_mempolicy_home_node", Errno::ENOSYS, "one memory node"),
];
