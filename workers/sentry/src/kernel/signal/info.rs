use super::Signal;

/// Values of `si_code`.
pub mod code {
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_TIMER: i32 = -2;
    pub const SI_TKILL: i32 = -6;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
}

/// `siginfo_t`: 128 bytes in the guest's layout.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The signal.
    pub signal: Signal,
    bytes: [u8; Self::SIZE],
}

impl std::fmt::Debug for Info {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} code {}", self.signal.name(), self.code())
    }
}

impl Info {
    /// sizeof(siginfo_t).
    pub const SIZE: usize = 128;

    /// A signal with this code and no more.
    pub fn new(signal: Signal, code: i32) -> Self {
        let mut info = Self { signal, bytes: [0; Self::SIZE] };
        info.put(0, &signal.number().to_ne_bytes());
        info.put(8, &code.to_ne_bytes());
        info
    }

    /// Sent by a process of user `uid`: kill (SI_USER) or tgkill (SI_TKILL).
    pub fn sent(signal: Signal, code: i32, pid: i32, uid: u32) -> Self {
        let mut info = Self::new(signal, code);
        info.put(16, &pid.to_ne_bytes());
        info.put(20, &uid.to_ne_bytes());
        info
    }

    /// A fault at an address.
    pub fn fault(signal: Signal, code: i32, address: u64) -> Self {
        let mut info = Self::new(signal, code);
        info.put(16, &address.to_ne_bytes());
        info
    }

    /// A child's change: `status` is an exit code or a signal's number; times in clock ticks.
    pub fn child(code: i32, pid: i32, uid: u32, status: i32, user_ticks: i64, system_ticks: i64) -> Self {
        let mut info = Self::sent(Signal::CHLD, code, pid, uid);
        info.put(24, &status.to_ne_bytes());
        info.put(32, &user_ticks.to_ne_bytes());
        info.put(40, &system_ticks.to_ne_bytes());
        info
    }

    /// A POSIX timer's expiry.
    pub fn timer(signal: Signal, timer: i32, overrun: i32, value: u64) -> Self {
        let mut info = Self::new(signal, code::SI_TIMER);
        info.put(16, &timer.to_ne_bytes());
        info.put(20, &overrun.to_ne_bytes());
        info.put(24, &value.to_ne_bytes());
        info
    }

    /// Adds to the overrun of a timer's signal.
    pub fn add_overrun(&mut self, more: i32) {
        let total = self.int(20).saturating_add(more);
        self.put(20, &total.to_ne_bytes());
    }

    /// The timer whose expiry this tells, and how many it missed.
    pub fn overrun(&self) -> Option<(i32, i32)> {
        (self.code() == code::SI_TIMER).then(|| (self.pid(), self.int(20)))
    }

    /// What a guest gave to rt_sigqueueinfo; the number is set by the kernel.
    pub fn from_guest(signal: Signal, mut bytes: [u8; Self::SIZE]) -> Self {
        bytes[..4].copy_from_slice(&signal.number().to_ne_bytes());
        Self { signal, bytes }
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    /// `si_code`.
    pub fn code(&self) -> i32 {
        self.int(8)
    }

    /// `si_pid` of sent signals and children; `si_timerid` of timers.
    pub fn pid(&self) -> i32 {
        self.int(16)
    }

    /// The int at this offset of the structure.
    pub fn int(&self, at: usize) -> i32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.bytes[at..at + 4]);
        i32::from_ne_bytes(bytes)
    }

    /// The structure as the guest sees it.
    pub const fn bytes(&self) -> &[u8; Self::SIZE] {
        &self.bytes
    }
}
