//! The Debian packages that the project needs, each with its reason.

/// A package and what it is for.
pub(crate) struct Package {
    /// Debian's name.
    pub(crate) name: &'static str,
    /// Why we need it.
    pub(crate) reason: &'static str,
}

const fn package(name: &'static str, reason: &'static str) -> Package {
    Package { name, reason }
}

/// Everything that `setup`, `demo`, `test` and `bench` need.
pub(crate) const PACKAGES: &[Package] = &[
    package("gcc", "crates that build C, and the tests' guest programs"),
    package("libc6-dev", "the same"),
    package("make", "a guest program of the tests"),
    package("git", "a guest program of the tests"),
    package("procps", "a guest program of the tests"),
    package("postgresql-15", "the service's private database cluster"),
    package("mmdebstrap", "building the demo image"),
    package("busybox-static", "the tests' smallest image"),
    package("erofs-utils", "reading our images with another implementation"),
    package("iproute2", "planting a network device in the leftovers test"),
    package("python3", "the Python client, the demo's driver"),
    package("python3-venv", "a place of its own for the Python client"),
    package("zstd", "compressed archives in tests"),
    package("linux-source-6.1", "the guest's kernel of microVMs"),
    package("xz-utils", "unpacking its source"),
    package("flex", "building it"),
    package("bison", "building it"),
    package("bc", "building it"),
    package("libelf-dev", "building it"),
    package("qemu-system-x86", "testing microVMs on hardware KVM, which it emulates"),
    package("e2fsprogs", "checking the guest's scratch file system with another implementation"),
    package("bubblewrap", "a peer in the benchmarks"),
    package("crun", "a peer in the benchmarks"),
    package("runsc", "a peer in the benchmarks"),
];
