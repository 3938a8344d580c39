//! The user-space kernel that serves the system calls of a job.
