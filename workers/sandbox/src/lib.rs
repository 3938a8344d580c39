//! The seam between the worker and its sandboxes: the backend trait, lifecycle, limits, outcome, streams.
