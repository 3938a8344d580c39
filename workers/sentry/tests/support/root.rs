//! A small root file system: busybox and the guests, compiled here, as an EROFS image.

use std::fs::{self, File};
use std::io::{BufWriter, Seek};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_erofs::Pair;
use bulkhead_sandbox::ImageFiles;

/// Guests below `guests/`.
const GUESTS: [&str; 4] = ["fuzz", "memory", "processes", "signals"];
/// Names of busybox in the root.
const APPLETS: [&str; 18] = [
    "cat", "chmod", "cp", "echo", "false", "head", "kill", "ls", "mkdir", "ps", "seq", "sh", "sleep", "sort",
    "tr", "true", "wc", "yes",
];
/// Bytes of the root, at most.
const ROOT_MAX: u64 = 64 << 20;

/// Whether the suite of `guests/table` is to be in the root. Set before the root is made.
pub(crate) static WITH_CASES: AtomicBool = AtomicBool::new(false);

struct Root {
    _directory: tempfile::TempDir,
    tree: PathBuf,
    image: ImageFiles,
}

fn root() -> &'static Root {
    static ROOT: OnceLock<Root> = OnceLock::new();
    ROOT.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let tree = directory.path().join("root");
        fill(&tree);
        let public = directory.path().join("root.erofs");
        write_image(&tree, &public, directory.path());
        Root { _directory: directory, tree, image: ImageFiles { public, private: None } }
    })
}

/// Compiles the suite of `guests/table` into one static program.
pub(crate) fn compile_cases(to: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/table");
    let objects = tempfile::tempdir().expect("a directory");
    let compile = |source: PathBuf| {
        let object = objects.path().join(source.with_extension("o").file_name().expect("a name"));
        let mut compiler = Command::new("cc");
        compiler
            .args(["-O1", "-w", "-Werror=implicit-function-declaration", "-c", "-o"])
            .arg(&object)
            .arg(&source);
        (source, object, compiler.spawn().expect("a C compiler"))
    };
    let files = fs::read_dir(&sources).expect("the suite").map(|entry| entry.expect("a file").path());
    let c_files = files.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    let mut linker = Command::new("cc");
    linker.args(["-static", "-pthread", "-o"]).arg(to);
    for (source, object, mut compiler) in c_files.map(compile).collect::<Vec<_>>() {
        assert!(compiler.wait().expect("a C compiler").success(), "{} does not compile", source.display());
        linker.arg(object);
    }
    assert!(linker.status().expect("a linker").success(), "the suite does not link");
}

/// The tree that the image holds.
pub(crate) fn tree() -> &'static Path {
    &root().tree
}

/// The image.
pub(crate) fn image() -> &'static ImageFiles {
    &root().image
}

/// A guest's executable on the host, to be run natively.
pub(crate) fn native(guest: &str) -> PathBuf {
    root().tree.join("bin").join(guest)
}

fn fill(tree: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "tmp"] {
        fs::create_dir_all(tree.join(directory)).expect("a directory");
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("a file");
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let busybox = busybox.expect("busybox-static is installed (cargo xtask setup)");
    fs::copy(busybox, tree.join("bin/busybox")).expect("busybox");
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(applet)).expect("a link");
    }
    for guest in GUESTS {
        compile(guest, &tree.join("bin").join(guest));
    }
    if WITH_CASES.load(Ordering::Relaxed) {
        compile_cases(&tree.join("bin/cases"));
    }
    // A program of another machine (aarch64), and a file that is none.
    let mut foreign = b"\x7fELF\x02\x01\x01".to_vec();
    foreign.resize(16, 0);
    foreign.extend([2, 0, 183, 0]);
    foreign.resize(120, 0);
    for (name, bytes) in [("foreign", &foreign[..]), ("script", b"#!/bin/sh\necho script $0 $1\n")] {
        fs::write(tree.join("bin").join(name), bytes).expect("a file");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(tree.join("bin").join(name), executable).expect("a mode");
    }
    fs::write(tree.join("bin/plain"), "not executable\n").expect("a file");
}

fn compile(guest: &str, to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(guest).with_extension("c");
    let status = Command::new("cc")
        .args(["-O1", "-static", "-w", "-pthread", "-o"])
        .arg(to)
        .arg(source)
        .status()
        .expect("a C compiler");
    assert!(status.success(), "{guest} does not compile");
}

fn write_image(tree: &Path, to: &Path, temporary: &Path) {
    let mut tar = tempfile::tempfile_in(temporary).expect("a file");
    bulkhead_image::pack(tree, &mut tar).expect("the root is packed");
    tar.rewind().expect("a file");
    let spool = tempfile::tempfile_in(temporary).expect("a file");
    let data = spool.try_clone().expect("a descriptor");
    let imported = bulkhead_image::archive::import(tar, spool, ROOT_MAX).expect("the root is imported");
    let writer = Pair::new(&imported.tree).expect("an image");
    let mut out = BufWriter::new(File::create(to).expect("a file"));
    writer.write_public(&data, &mut out).expect("an image");
}
