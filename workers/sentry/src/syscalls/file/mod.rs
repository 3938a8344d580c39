//! The calls on files, by family.

mod attributes;
mod buffers;
mod copy;
mod descriptors;
mod directory;
mod fcntl;
mod input_output;
mod ioctl;
mod layout;
mod names;
mod open;
mod paths;
mod pipe;
mod space;
mod stat;
mod waiting;
mod xattr;

use super::Entry;

pub(super) use buffers::{GuestBuffers, with_buffer};
pub(super) use paths::{base_of, caller, path_argument};
pub(super) use pipe::install_pair;
pub(super) use waiting::{until_ready, wait_for};

/// The lists of this folder's families.
pub(super) const FAMILIES: &[&[Entry]] = &[
    attributes::TABLE,
    copy::TABLE,
    descriptors::TABLE,
    directory::TABLE,
    fcntl::TABLE,
    input_output::TABLE,
    ioctl::TABLE,
    names::TABLE,
    open::TABLE,
    pipe::TABLE,
    space::TABLE,
    stat::TABLE,
    xattr::TABLE,
];
