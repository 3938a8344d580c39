//! The table of system calls.

use std::sync::LazyLock;

use super::Entry;
use super::names::NAMES;
use crate::errno::Errno;

/// Every family's list.
const FAMILIES: &[&[Entry]] = &[
    super::clone::TABLE,
    super::identity::TABLE,
    super::misc::TABLE,
    super::mm::TABLE,
    super::neighbours::TABLE,
    super::pidfd::TABLE,
    super::refused::TABLE,
    super::sched::TABLE,
    super::shm::TABLE,
    super::signal::TABLE,
    super::time::TABLE,
    super::usage::TABLE,
    super::wait::TABLE,
];

fn listed() -> impl Iterator<Item = &'static Entry> {
    FAMILIES
        .iter()
        .chain(super::file::FAMILIES)
        .chain(super::ready::FAMILIES)
        .chain(super::socket::FAMILIES)
        .copied()
        .flatten()
}

/// The last call of Linux 6.1, set_mempolicy_home_node.
const LAST_OF_6_1: u64 = 450;

static BY_NUMBER: LazyLock<Vec<Option<Entry>>> = LazyLock::new(|| {
    let missing = (0..).zip(NAMES).map(|(number, name)| match (name, number) {
        ("", _) => None,
        (name, 0..=LAST_OF_6_1) => Some(Entry::unsupported(number, name, "")),
        // Programs that know newer calls know kernels without them.
        (name, _) => Some(Entry::refused(number, name, Errno::ENOSYS, "newer than Linux 6.1")),
    });
    let mut by_number: Vec<Option<Entry>> = missing.collect();
    for entry in listed() {
        if let Some(slot) = by_number.get_mut(entry.number as usize) {
            *slot = Some(*entry);
        }
    }
    by_number
});

/// The entry of a call.
pub fn entry(number: u64) -> Option<&'static Entry> {
    BY_NUMBER.get(usize::try_from(number).ok()?)?.as_ref()
}

/// All calls that Linux has, by number.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    BY_NUMBER.iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_names_are_linux_own() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in listed() {
            assert!(seen.insert(entry.number), "{} is listed twice", entry.name);
            assert_eq!(NAMES.get(entry.number as usize), Some(&entry.name), "number {}", entry.number);
        }
    }

    #[test]
    fn every_call_of_linux_is_listed() {
        let of_6_1 = all().filter(|entry| entry.number <= LAST_OF_6_1).count();
        assert_eq!(of_6_1, 362);
        assert_eq!(all().count(), NAMES.iter().filter(|name| !name.is_empty()).count());
    }
}
