//! Writes a [`Tree`] as a pair of images, front to back: superblock, inodes, directories, data.

mod emit;
mod plan;

use std::io::{self, Write};

use crate::format::{VOLUME_PRIVATE, VOLUME_PUBLIC};
use crate::source::ReadAt;
use crate::tree::Tree;
use plan::Plan;

/// Why a tree can't be written as an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The data of a file could not be read from where the tree says.
    #[error("could not read the data of a file")]
    Read(#[source] io::Error),
    /// The host did not take the image.
    #[error("could not write the image")]
    Write(#[source] io::Error),
    /// More than the format's numbers hold: 2^32 blocks or inodes.
    #[error("the tree is too large for an image")]
    TooLarge,
    /// A name that no directory can have.
    #[error("a name is empty, longer than 255 bytes, or has a slash or a NUL in it")]
    Name,
    /// An attribute which the format can't hold.
    #[error("the attribute {name} has an unknown prefix, or is larger than the format allows")]
    Xattr { name: String },
}

/// The plan of a pair of images: see the crate's documentation.
#[derive(Debug)]
pub struct Pair<'t> {
    public: Plan<'t>,
    private: Option<Plan<'t>>,
}

impl<'t> Pair<'t> {
    /// Places everything that is in `tree`.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`], [`WriteError::Name`], [`WriteError::Xattr`].
    pub fn new(tree: &'t Tree) -> Result<Self, WriteError> {
        let private = Plan::private(tree)?;
        let public = Plan::public(tree, private.as_ref())?;
        Ok(Self { public, private })
    }

    /// Bytes of the public image.
    pub fn public_size(&self) -> u64 {
        self.public.size()
    }

    /// Bytes of the private image, if there is need of one.
    pub fn private_size(&self) -> Option<u64> {
        self.private.as_ref().map(Plan::size)
    }

    /// Writes the public image, with the data of files from `data`.
    ///
    /// # Errors
    /// [`WriteError::Read`], [`WriteError::Write`].
    pub fn write_public(&self, data: &impl ReadAt, out: &mut impl Write) -> Result<(), WriteError> {
        emit::write(&self.public, VOLUME_PUBLIC, data, out)
    }

    /// Writes the private image, if there is need of one; says whether there was.
    ///
    /// # Errors
    /// [`WriteError::Read`], [`WriteError::Write`].
    pub fn write_private(&self, data: &impl ReadAt, out: &mut impl Write) -> Result<bool, WriteError> {
        let Some(plan) = &self.private else { return Ok(false) };
        emit::write(plan, VOLUME_PRIVATE, data, out)?;
        Ok(true)
    }
}
