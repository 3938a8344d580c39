use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_types::{TenantId, Timestamp};

/// Past use counts half after this time: a tenant that was busy an hour ago is not punished for it.
pub const HALF_LIFE: Duration = Duration::from_secs(600);

/// What even the shortest job is charged: placing and starting it costs the service about this much.
pub const MIN_CHARGE: Duration = Duration::from_millis(100);

/// What each tenant used: seconds times dominant share, fading with [`HALF_LIFE`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    used: BTreeMap<TenantId, f64>,
    faded_at: Timestamp,
}

impl Ledger {
    /// Lets all use fade until `now`, and forgets tenants with next to none. A time before the last one is ignored.
    pub fn fade(&mut self, now: Timestamp) {
        let passed = now.since(self.faded_at);
        if passed.is_zero() {
            return;
        }
        let factor = 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.used.retain(|_, used| {
            *used *= factor;
            *used > 1e-9
        });
        self.faded_at = now;
    }

    /// Charges `tenant` for having had `share` of the nodes for `time`.
    pub fn charge(&mut self, tenant: &TenantId, share: f64, time: Duration) {
        if share > 0.0 && !time.is_zero() {
            *self.used.entry(tenant.clone()).or_default() += share * time.as_secs_f64();
        }
    }

    /// What `tenant` used, in seconds of all nodes.
    pub fn used(&self, tenant: &TenantId) -> f64 {
        self.used.get(tenant).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_fades_by_half_and_is_forgotten() {
        let tenant = TenantId::new("acme").expect("valid");
        let start = Timestamp::from_micros(1);
        let mut ledger = Ledger::default();
        ledger.fade(start);
        ledger.charge(&tenant, 0.5, Duration::from_secs(4));
        assert_eq!(ledger.used(&tenant), 2.0);
        ledger.fade(start.after(HALF_LIFE));
        assert!((ledger.used(&tenant) - 1.0).abs() < 1e-9);
        ledger.fade(start);
        assert!((ledger.used(&tenant) - 1.0).abs() < 1e-9, "time does not run back");
        ledger.fade(start.after(HALF_LIFE * 100));
        assert_eq!(ledger, Ledger { used: BTreeMap::new(), faded_at: start.after(HALF_LIFE * 100) });
    }
}
