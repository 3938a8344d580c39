//! Which queued jobs run next and where: pure functions of a snapshot and a time.
