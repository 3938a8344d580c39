//! What jobs run on.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// Where Debian's busybox-static puts its program.
const BUSYBOX: &str = "/bin/busybox";

/// A tar of a root file system of a few hundred files: busybox and its commands.
pub(crate) fn tiny() -> &'static Path {
    static TAR: OnceLock<PathBuf> = OnceLock::new();
    TAR.get_or_init(|| {
        let folder = env::temp_dir().join(format!("bulkhead-tiny.{}", std::process::id()));
        let root = folder.join("root");
        for name in ["bin", "tmp", "etc"] {
            fs::create_dir_all(root.join(name)).expect("a folder");
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox is installed");
        let list = Command::new(BUSYBOX).arg("--list").output().expect("busybox runs");
        for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.join("bin").join(name)).expect("a link");
        }
        fs::write(root.join("etc/motd"), "hello\n").expect("a file");
        let tar = env::temp_dir().join(format!("bulkhead-tiny.{}.tar", std::process::id()));
        let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.expect("tar runs").success());
        fs::remove_dir_all(&folder).expect("the folder goes");
        tar
    })
}

/// The tar of the Debian image, if the tests were told of one.
pub(crate) fn debian() -> Option<PathBuf> {
    env::var_os("BULKHEAD_TEST_IMAGE").map(PathBuf::from)
}

/// Numbers of machines in an ELF header.
pub(crate) mod elf {
    pub(crate) const X86_64: u16 = 62;
    pub(crate) const AARCH64: u16 = 183;

    /// Where the program lies in memory.
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;

    /// A static program of a machine that does nothing but `code`.
    pub(crate) fn program(machine: u16, code: &[u8]) -> Vec<u8> {
        let size = HEADERS + code.len() as u64;
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out.extend(2u16.to_le_bytes());
        out.extend(machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        for word in [BASE + HEADERS, 64, 0] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 0, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        // One segment to load, readable and executable.
        out.extend(1u32.to_le_bytes());
        out.extend(5u32.to_le_bytes());
        for word in [0, BASE, BASE, size, size, 0x1000] {
            out.extend(word.to_le_bytes());
        }
        out.extend(code);
        out
    }
}
