use serde::{Deserialize, Serialize};

/// What a snapshot keeps: requests are never half done between two turns, so only what tells a foreign disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockState {
    /// The disk's size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether it may be written.
    pub writable: bool,
}
