//! The whole way: archives made by real tools, through the jailed converter, into the store, and compared with the
//! tree that they were made of.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod archives;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use archives::{check_against_host, oci_layout, run, tree};
use bulkhead_image::{Archive, ConvertLimits, Converter, Owner, Store, StoreError, StoredImage};
use bulkhead_types::ImageName;

fn converter() -> Converter {
    Converter::at(env!("CARGO_BIN_EXE_bulkhead-convert"))
}

fn import(store: &Store, archive: &Path, name: &str) -> Result<StoredImage, StoreError> {
    let archive = Archive::File(File::open(archive).unwrap());
    let name = ImageName::new(name).unwrap();
    store.import(&Owner::Operator, Some(&name), archive, &converter(), &ConvertLimits::default())
}

#[test]
fn a_real_tree_survives_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let Some(source) = tree(dir.path()) else { return };
    let store = Store::open(&dir.path().join("data")).unwrap();
    let mut digests = Vec::new();
    for format in ["posix", "gnu"] {
        let tar = dir.path().join(format!("{format}.tar"));
        run(Command::new("tar")
            .args(["--sparse", "--sort=name", "-c", "-C"])
            .arg(&source)
            .args([&format!("--format={format}"), "-f"])
            .arg(&tar)
            .args(if format == "posix" { &["--xattrs", "--xattrs-include=*"][..] } else { &[][..] })
            .arg("."));
        for (tool, ending) in [(None, ""), (Some("gzip"), ".gz"), (Some("zstd"), ".zst")] {
            let path = dir.path().join(format!("{format}.tar{ending}"));
            if let Some(tool) = tool {
                let Ok(output) = Command::new(tool).arg("-c").arg(&tar).output() else {
                    println!("skipped: a_real_tree_survives_every_format: {tool} is not installed");
                    continue;
                };
                fs::write(&path, output.stdout).unwrap();
            }
            let image = import(&store, &path, format).unwrap();
            check_against_host(&image, &source, format == "posix");
            assert_eq!(image.names, [ImageName::new(format).unwrap()]);
            digests.push(image.digest);
        }
        let image = import(&store, &oci_layout(dir.path(), &[&tar]), format).unwrap();
        check_against_host(&image, &source, format == "posix");
        assert_eq!(image.meta.config.env, ["PATH=/bin"]);
    }
    // However it is compressed, the same tree is the same image.
    assert!(digests[..3].iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn a_real_root_file_system_survives() {
    let Some(archive) = std::env::var_os("BULKHEAD_TEST_IMAGE") else {
        println!("skipped: a_real_root_file_system_survives: `cargo xtask test` says where its archive is");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("data")).unwrap();
    let start = std::time::Instant::now();
    let image = import(&store, Path::new(&archive), "demo").unwrap();
    println!("imported {} bytes in {:?}", image.meta.size(), start.elapsed());
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    run(Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(&archive)
        .arg("-C")
        .arg(&source));
    println!("compared {} files", check_against_host(&image, &source, true));
}

#[test]
fn a_directory_becomes_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let Some(source) = tree(dir.path()) else { return };
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    File::open(source.join("usr/lib/big")).unwrap().set_modified(old).unwrap();
    std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    let store = Store::open(&dir.path().join("data")).unwrap();
    let import = |path: &Path| {
        let limits = ConvertLimits::default();
        store.import(&Owner::Operator, None, Archive::Directory(path), &converter(), &limits)
    };
    let image = import(&source).unwrap();
    let big = archives::Opened::new(&image).at("usr/lib/big").unwrap();
    assert_eq!((big.mtime, big.mtime_nsec), (-2, 500_000_000));
    let modified = fs::metadata(&source).unwrap().modified().unwrap();
    fs::remove_file(source.join("socket")).unwrap();
    File::open(&source).unwrap().set_modified(modified).unwrap();
    check_against_host(&image, &source, true);
    assert!(import(&source.join("etc/shadow")).is_err());
    assert!(import(&source.join("absent")).is_err());
    // Other file systems are left out, but not the directory that they are mounted on.
    if Path::new("/dev/pts/ptmx").exists() {
        let image = import(Path::new("/dev")).unwrap();
        let opened = archives::Opened::new(&image);
        assert!(opened.at("pts").is_some() && opened.at("pts/ptmx").is_none());
    }
}
