use serde::{Deserialize, Serialize};

/// What a snapshot keeps; the time itself is the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmosState {
    /// The register that port 0x71 shows.
    pub index: u8,
}
