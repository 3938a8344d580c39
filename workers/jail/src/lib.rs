//! Namespaces, cgroups (v1 and v2), seccomp and privilege drop for the host side of a sandbox.
