use serde::{Deserialize, Serialize};

/// Nothing: the bytes are the host's, and the transport has the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {}
