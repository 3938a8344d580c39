//! The commands about images and blobs.

mod blob;
mod image;
mod local;

pub(crate) use blob::{BlobArgs, blob};
pub(crate) use image::{ImageArgs, image};
