//! The rules that keep a guest in, and the tests' switches for them.

/// The rules that keep a guest in. Always complete in a sandbox; tests switch one off to see that it matters.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Calls of stub code need a command outstanding (notify.md 8).
    pub(crate) consent: bool,
    /// A consented call must have the command's very arguments.
    pub(crate) exact_consent: bool,
    /// Who notifies is what the host's kernel says, not what the bell says.
    pub(crate) kernel_identity: bool,
    /// CONTINUE only for calls that memory can't change.
    pub(crate) continue_only_native: bool,
    /// Injected descriptors have the rights of the guest's file and no more.
    pub(crate) exact_descriptor_rights: bool,
    /// mremap that grows is notified.
    pub(crate) growing_mremap_notified: bool,
    /// Calls of other machines' tables are notified before anything else is looked at.
    pub(crate) architecture_first: bool,
    /// What is not on a list is notified.
    pub(crate) notify_the_rest: bool,
    /// The arguments of native calls are checked.
    pub(crate) native_arguments: bool,
    /// clone, fork, exec and their kin are trapped.
    pub(crate) trap: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            consent: true,
            exact_consent: true,
            kernel_identity: true,
            continue_only_native: true,
            exact_descriptor_rights: true,
            growing_mremap_notified: true,
            architecture_first: true,
            notify_the_rest: true,
            native_arguments: true,
            trap: true,
        }
    }
}

#[cfg(feature = "test-switches")]
impl Rules {
    /// All rules but the one of this name.
    ///
    /// # Panics
    /// If there is no such rule.
    pub fn without(rule: &str) -> Self {
        let mut rules = Self::default();
        let switch = match rule {
            "consent" => &mut rules.consent,
            "exact consent" => &mut rules.exact_consent,
            "kernel identity" => &mut rules.kernel_identity,
            "continue only native" => &mut rules.continue_only_native,
            "exact descriptor rights" => &mut rules.exact_descriptor_rights,
            "growing mremap notified" => &mut rules.growing_mremap_notified,
            "architecture first" => &mut rules.architecture_first,
            "notify the rest" => &mut rules.notify_the_rest,
            "native arguments" => &mut rules.native_arguments,
            "trap" => &mut rules.trap,
            _ => panic!("no rule is called {rule}"),
        };
        *switch = false;
        rules
    }
}
