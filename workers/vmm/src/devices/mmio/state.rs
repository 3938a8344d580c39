use serde::{Deserialize, Serialize};

/// The transport's registers, and how far the rings were served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmioState {
    /// Device status.
    pub status: u32,
    /// Which half of the device's features is shown.
    pub device_features_select: u32,
    /// Which half of the driver's features is written.
    pub driver_features_select: u32,
    /// What the driver accepted.
    pub driver_features: u64,
    /// The queue whose registers are shown.
    pub queue_select: u32,
    /// Pending interrupt reasons.
    pub interrupt_status: u32,
    /// Each queue.
    pub queues: Vec<QueueRegisters>,
}

/// One queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueRegisters {
    /// Entries.
    pub size: u16,
    /// In use.
    pub ready: bool,
    /// Guest address of the descriptors.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// The next available entry to take.
    pub next_available: u16,
    /// The next used entry to fill.
    pub next_used: u16,
    /// Notifications by event index were negotiated.
    pub event_index: bool,
}
