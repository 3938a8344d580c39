//! Stub processes, seccomp notifications and guest memory: how the sentry runs a guest.
