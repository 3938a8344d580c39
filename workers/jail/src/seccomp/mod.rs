//! System-call allow-lists of our own host-side processes, one per role, as commented data.
//!
//! The role's process installs its list when everything that needs more is done. A call outside of it is not executed: the
//! handler of SIGSYS says which it was on standard error and ends the process. (Guests are under another filter, the
//! platform's, which their processes inherit from one that was forked before this list was installed.)

mod convert;
mod sentry;
mod vmm;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Whose list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The user-space kernel of a sandbox.
    Sentry,
    /// The process that turns an untrusted image archive into an EROFS file.
    Convert,
    /// The process of a virtual machine; each thread that a guest keeps busy takes one of the next two as well.
    Vmm,
    /// In it, the thread of a virtual processor.
    VmmVcpu,
    /// In it, the thread that serves the devices' queues.
    VmmDevices,
}

/// Exit status after a refused call: 128 + SIGSYS.
pub const REFUSED_STATUS: i32 = 128 + 31;

/// One allowed call.
#[derive(Debug, Clone, Copy)]
pub struct Allow {
    /// Number on x86-64.
    pub number: i64,
    /// Any one of these sets of conditions must hold; empty: always allowed.
    pub when: &'static [&'static [Condition]],
    /// What needs it.
    pub why: &'static str,
}

/// A condition on one argument: `(argument & mask) == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    /// Bits that are looked at.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}

const fn always(number: i64, why: &'static str) -> Allow {
    Allow { number, when: &[], why }
}

const fn only(number: i64, when: &'static [&'static [Condition]], why: &'static str) -> Allow {
    Allow { number, when, why }
}

/// An int argument: the kernel ignores its upper half, and so does the condition.
const fn int(argument: u8, value: u32) -> Condition {
    Condition { argument, mask: 0xffff_ffff, value: value as u64 }
}

const fn bits(argument: u8, mask: u64, value: u64) -> Condition {
    Condition { argument, mask, value }
}

/// The filter could not be built or installed; the process must end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// A rule is not valid: a defect of the table.
    #[error("can't build the system-call filter")]
    Build(#[source] seccompiler::BackendError),
    /// The kernel refused the filter.
    #[error("can't install the system-call filter")]
    Install(#[source] seccompiler::Error),
    /// The handler that names refused calls can't be set.
    #[error("can't set the handler of refused system calls")]
    Handler(#[source] std::io::Error),
}

impl Role {
    /// The list, in no particular order.
    pub fn allowed(self) -> &'static [Allow] {
        match self {
            Role::Sentry => sentry::ALLOWED,
            Role::Convert => convert::ALLOWED,
            Role::Vmm => vmm::ALLOWED,
            Role::VmmVcpu => vmm::VCPU,
            Role::VmmDevices => vmm::DEVICES,
        }
    }
}

/// Builds the filter of a role.
///
/// # Errors
/// [`SeccompError::Build`] for a defect of the table.
pub fn program(role: Role) -> Result<BpfProgram, SeccompError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // Allowed here because `without_clone3` answers it; of two filters' answers the kernel takes the stricter.
    rules.insert(libc::SYS_clone3, Vec::new());
    for allow in role.allowed() {
        let entry = rules.entry(allow.number).or_default();
        for set in allow.when {
            let conditions = set.iter().map(condition).collect::<Result<Vec<_>, _>>();
            entry.push(conditions.and_then(SeccompRule::new).map_err(SeccompError::Build)?);
        }
    }
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, seccompiler::TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(SeccompError::Build)
}

/// clone3 gets ENOSYS, so that the C library falls back to clone, whose flags a filter can see. A filter of its own, since an
/// answer by the handler would come while the C library has all signals blocked.
fn without_clone3() -> Result<BpfProgram, SeccompError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, enosys, seccompiler::TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .map_err(SeccompError::Build)
}

fn condition(c: &Condition) -> Result<SeccompCondition, seccompiler::BackendError> {
    let length = if c.mask > u64::from(u32::MAX) { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    SeccompCondition::new(c.argument, length, SeccompCmpOp::MaskedEq(c.mask), c.value)
}

/// Installs the list of `role` for the calling thread and all that it starts later. Must be called while the process has one
/// thread, after [`crate::enter`] (no_new_privs is needed).
///
/// # Errors
/// [`SeccompError`]; the process must end.
pub fn install(role: Role) -> Result<(), SeccompError> {
    let (program, without_clone3) = (program(role)?, without_clone3()?);
    handle_refusals().map_err(SeccompError::Handler)?;
    // In this order: no list allows `seccomp` itself, so the last one closes the door (prctl's form is not on it either).
    seccompiler::apply_filter(&without_clone3).map_err(SeccompError::Install)?;
    seccompiler::apply_filter(&program).map_err(SeccompError::Install)
}

/// Adds the list of a thread's `role` to the process's, for the calling thread alone. The list of the process must let it:
/// [`Role::Vmm`] does. Refused calls are named as those of the process are.
///
/// # Errors
/// [`SeccompError`]; the thread must not go on.
pub fn narrow(role: Role) -> Result<(), SeccompError> {
    seccompiler::apply_filter(&program(role)?).map_err(SeccompError::Install)
}

fn handle_refusals() -> std::io::Result<()> {
    // SAFETY: 1. sigaction is plain data, zeroes are valid; 2. the handler has the signature that SA_SIGINFO asks for and is
    // async-signal-safe; 3. the pointers are to locals.
    let r = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = refused;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Names the call and ends the process.
extern "C" fn refused(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: 1. the kernel passes a valid ucontext_t to a handler installed with SA_SIGINFO, and nobody else uses it; 2. for a
    // SIGSYS of seccomp RAX still holds the call's number.
    unsafe {
        let number = (*context).uc_mcontext.gregs[libc::REG_RAX as usize];
        let mut text = *b"bulkhead: system call 0000 is not on this process's allow-list\n";
        let mut rest = number.unsigned_abs();
        for place in (22..26).rev() {
            text[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(REFUSED_STATUS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ROLES: [Role; 5] = [Role::Sentry, Role::Convert, Role::Vmm, Role::VmmVcpu, Role::VmmDevices];

    #[test]
    fn every_list_builds_and_fits_the_kernel() {
        for role in ROLES {
            let program = program(role).expect("valid table");
            // BPF_MAXINSNS.
            assert!(program.len() < 4096, "{role:?}: {}", program.len());
        }
    }

    #[test]
    fn no_rule_is_redundant() {
        for role in ROLES {
            let mut seen = HashSet::new();
            for allow in role.allowed() {
                assert!(seen.insert(allow.number), "{role:?}: call {} is listed twice", allow.number);
                assert!(allow.why.len() > 3, "{role:?}: call {} has no reason", allow.number);
                for (i, set) in allow.when.iter().enumerate() {
                    assert!(!set.is_empty(), "{role:?}: an empty set allows {} always", allow.number);
                    for c in *set {
                        assert_eq!(
                            c.value & !c.mask,
                            0,
                            "{role:?}: a condition of {} never holds",
                            allow.number
                        );
                    }
                    // A set all of whose conditions are also in another allows only what that other allows too.
                    let covered = allow
                        .when
                        .iter()
                        .enumerate()
                        .any(|(j, other)| i != j && other.iter().all(|c| set.contains(c)));
                    assert!(
                        !covered,
                        "{role:?}: a set of conditions of {} is covered by another",
                        allow.number
                    );
                }
            }
        }
    }

    #[test]
    fn what_must_never_be_allowed_is_not() {
        let never = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_seccomp,
            libc::SYS_open_by_handle_at,
            libc::SYS_clone3,
            libc::SYS_setuid,
            libc::SYS_capset,
        ];
        for role in ROLES {
            for allow in role.allowed() {
                // Of a VMM's threads the first lets the others narrow themselves, and nothing else.
                let narrowing =
                    role == Role::Vmm && allow.number == libc::SYS_seccomp && !allow.when.is_empty();
                assert!(narrowing || !never.contains(&allow.number), "{role:?} allows {}", allow.number);
            }
        }
    }
}
