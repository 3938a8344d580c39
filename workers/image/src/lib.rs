//! OCI layouts and archives made into EROFS files, and the store that keeps them.
//!
//! [`Store::import`] takes an archive from wherever it comes, has it converted by a jailed process ([`convert`]), and
//! stores the result under its digest. The conversion itself is in [`archive`]; the format in `bulkhead-erofs`.

pub mod archive;
mod config;
pub mod convert;
mod pack;
mod store;

pub use config::{ConfigError, FileDigest, ImageConfig, ImageMeta};
pub use convert::{Archive, ConvertError, ConvertLimits, Converter};
pub use pack::pack;
pub use store::{ImageRow, Owner, Stage, Store, StoreError, StoredImage};
