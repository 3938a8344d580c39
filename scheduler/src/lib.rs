//! Queue, leases, heartbeats, dispatch and reconciliation.
