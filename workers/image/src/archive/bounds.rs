//! How much of anything an archive may have.

/// Entries of an archive and of all its layers together, those that later ones replace included.
/// The largest public images have some 400,000.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Bytes of a path, as Linux has it (PATH_MAX without its NUL).
pub const MAX_PATH: usize = 4095;
/// Components of a path.
pub const MAX_DEPTH: usize = 256;
/// Bytes of names, link targets and attributes together: they are held in memory.
pub const MAX_METADATA: u64 = 256 << 20;
/// Bytes of one extended header (PAX or GNU): a path, a link and a few attributes.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Bytes of the attributes of one file together, names included, as most file systems have it.
pub const MAX_XATTRS: usize = 64 << 10;
/// Runs of data of one sparse file.
pub const MAX_SPARSE_RUNS: usize = 1 << 16;
/// Links that are followed on the way to one entry, as Linux has it.
pub const MAX_LINKS: usize = 40;
/// Layers of an image; Docker allows 127.
pub const MAX_LAYERS: usize = 512;
/// Bytes of an index, manifest or configuration.
pub const MAX_DESCRIPTION: u64 = 4 << 20;
/// Depth of indexes that refer to indexes.
pub const MAX_INDEX_DEPTH: usize = 4;
/// Bytes of the window that a zstd stream may ask for, as a power of two: 128 MiB, zstd's own limit
/// for streams of unknown origin.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 27;
/// Default bound on the bytes of an image's files, of those that later layers replace, and of the
/// archive's own layers, together.
pub const DEFAULT_MAX_BYTES: u64 = 32 << 30;
