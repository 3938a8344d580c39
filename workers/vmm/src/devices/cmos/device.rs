use std::time::{SystemTime, UNIX_EPOCH};

use super::CmosState;

const INDEX_MASK: u8 = 0x7f;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
/// Status B: 24 hours, numbers in BCD.
const HOURS_24: u8 = 2;
/// Status D: the battery is good.
const VALID: u8 = 0x80;

/// The clock.
#[derive(Debug, Default)]
pub struct Cmos {
    state: CmosState,
}

impl Cmos {
    /// A clock as it was saved.
    pub fn restore(state: CmosState) -> Self {
        Self { state: CmosState { index: state.index & INDEX_MASK } }
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> CmosState {
        self.state
    }

    /// The guest chooses a register; the highest bit masks NMIs, which nobody sends.
    pub fn select(&mut self, index: u8) {
        self.state.index = index & INDEX_MASK;
    }

    /// The guest reads it.
    pub fn read(&self) -> u8 {
        // Before 1970 only a broken host's clock is, and to the guest that is 1970.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.read_at(now.as_secs())
    }

    pub(super) fn read_at(&self, seconds: u64) -> u8 {
        let (year, month, day) = date(seconds / 86_400);
        let value = match self.state.index {
            0 => seconds % 60,
            2 => seconds / 60 % 60,
            4 => seconds / 3600 % 24,
            // 1 January 1970 was a Thursday; Sunday is 1.
            6 => (seconds / 86_400 + 4) % 7 + 1,
            7 => day,
            8 => month,
            9 => year % 100,
            CENTURY => year / 100,
            STATUS_B => return HOURS_24,
            STATUS_D => return VALID,
            _ => 0,
        };
        bcd(value)
    }
}

/// Two decimal digits, at most.
fn bcd(value: u64) -> u8 {
    (((value / 10 % 10) << 4) | (value % 10)) as u8
}

/// Year, month and day of a day since 1 January 1970. The year is counted from March, so that a leap day is its last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, of_month)
}
