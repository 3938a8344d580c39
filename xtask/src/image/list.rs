//! The Debian images: what each holds beside Debian's essential packages, and how it is made.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Debian's release; the same as the machines that the project supports.
pub(super) const SUITE: &str = "bookworm";
/// No file of an image is younger, in seconds since 1970: the day of Debian 12.11.
pub(super) const EPOCH: &str = "1747440000";
/// Manuals, translations and change logs are half of an image's files, and nothing reads them.
pub(super) const OPTIONS: &[&str] = &[
    "--quiet",
    "--format=tar",
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    // Java's alternatives make links to their manuals, and fail where the folder is missing.
    "--essential-hook=mkdir -p \"$1/usr/share/man/man1\"",
];

/// An image.
#[derive(Debug)]
pub(crate) struct Image {
    /// The name under which it is imported.
    pub(crate) name: &'static str,
    /// Debian's names of its packages.
    pub(super) packages: &'static [&'static str],
}

/// The image of the demo, the tests and the README's tour.
pub(crate) const DEMO: &Image =
    &Image { name: "demo", packages: &["python3", "bash", "coreutils", "busybox"] };

/// Compilers, build systems and scripting languages.
#[rustfmt::skip]
const TOOLCHAIN: &Image = &Image {
    name: "toolchain",
    packages: &[
        "python3", "python3-venv", "python3-pip", "python3-wheel", "bash", "coreutils", "gcc", "g++", "libc6-dev",
        "clang", "cmake", "ninja-build", "make", "autoconf", "automake", "git", "perl", "ruby", "php-cli", "sqlite3",
        "busybox-static", "musl-tools", "xz-utils", "zstd", "gzip", "bzip2", "inotify-tools", "gawk", "bc", "file",
        "openssl", "procps", "lsof", "psmisc", "rsync", "jq", "tcl", "lua5.4", "util-linux", "dpkg-dev", "patch",
    ],
};

/// Language runtimes that bring their own threads, signals and collectors.
#[rustfmt::skip]
const LANGUAGES: &Image = &Image {
    name: "languages",
    packages: &[
        "nodejs", "npm", "golang", "default-jdk-headless", "cargo", "rustc", "gcc", "libc6-dev", "python3", "git",
        "ca-certificates",
    ],
};

/// Databases, media, and a debugger of memory.
#[rustfmt::skip]
const DATA: &Image = &Image {
    name: "data",
    packages: &[
        "postgresql", "ffmpeg", "openssl", "valgrind", "gcc", "libc6-dev", "python3", "redis-server", "imagemagick",
        "procps",
    ],
};

/// All of them.
pub(super) const IMAGES: &[&Image] = &[DEMO, TOOLCHAIN, LANGUAGES, DATA];

impl Image {
    /// The image of a name.
    pub(crate) fn named(name: &str) -> Result<&'static Image> {
        let all = || IMAGES.iter().map(|image| image.name).collect::<Vec<_>>().join(", ");
        IMAGES
            .iter()
            .copied()
            .find(|image| image.name == name)
            .with_context(|| format!("there is no image {name:?}; there are: {}", all()))
    }

    /// Its name and a hash of everything that it is made from (but for the mirror's state): what is cached under it
    /// is made anew when the list changes.
    pub(super) fn key(&self) -> String {
        let mut hash = Sha256::new();
        for part in [SUITE, EPOCH].iter().chain(OPTIONS).chain(self.packages) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let digest: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", self.name)
    }
}
