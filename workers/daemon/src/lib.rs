//! The node agent: registers, runs leases, reports, drains, and cleans up what an earlier life left.
