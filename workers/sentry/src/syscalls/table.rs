//! The table of system calls.

use std::sync::LazyLock;

use super::Entry;

/// Every family's list.
const FAMILIES: &[&[Entry]] = &[
    super::clone::TABLE,
    super::identity::TABLE,
    super::misc::TABLE,
    super::mm::TABLE,
    super::sched::TABLE,
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

/// One more than the highest number that may be in the table.
const NUMBERS: usize = 512;

static BY_NUMBER: LazyLock<[Option<&'static Entry>; NUMBERS]> = LazyLock::new(|| {
    let mut by_number = [None; NUMBERS];
    for entry in listed() {
        if let Some(slot) = by_number.get_mut(entry.number as usize) {
            *slot = Some(entry);
        }
    }
    by_number
});

/// The entry of a call.
pub fn entry(number: u64) -> Option<&'static Entry> {
    BY_NUMBER.get(usize::try_from(number).ok()?).copied().flatten()
}

/// All entries by number.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    BY_NUMBER.iter().filter_map(|entry| *entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscalls::names::NAMES;

    #[test]
    fn numbers_are_unique_and_names_are_linux_own() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in listed() {
            assert!(seen.insert(entry.number), "{} is listed twice", entry.name);
            assert_eq!(NAMES.get(entry.number as usize), Some(&entry.name), "number {}", entry.number);
        }
    }
}
