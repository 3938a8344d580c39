//! `bulkhead image` on a store of its own. Needs the converter's program beside `bulkhead`, as a workspace build puts it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn image(data: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.arg("image").args(args).arg("--data-dir").arg(data).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_directory_is_imported_listed_shown_and_deleted() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a_directory_is_imported_listed_shown_and_deleted: importing needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (data, root) = (dir.path().join("data"), dir.path().join("root"));
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/tool"), b"tool").unwrap();
    assert_eq!(json(&image(&data, &["list", "--json"])), serde_json::json!([]));
    let row = json(&image(&data, &["import", "--json", "--name", "tools", root.to_str().unwrap()]));
    assert_eq!(row["name"], "tools");
    let list = json(&image(&data, &["list", "--json"]));
    assert_eq!(list, serde_json::json!([row]));
    let digest = row["digest"].as_str().unwrap();
    assert_eq!(json(&image(&data, &["show", "--json", digest]))["names"][0], "tools");
    assert!(image(&data, &["delete", "tools"]).status.success());
    assert_eq!(json(&image(&data, &["list", "--json"])), serde_json::json!([]));
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.tar");
    fs::write(&bad, "this is no archive\n".repeat(100)).unwrap();
    let said = |args: &[&str]| {
        let output = image(dir.path(), args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&["show", "absent"]).contains("there is no image absent"));
    assert!(said(&["delete", "NOT A NAME"]).contains("an image name must be"));
    if rustix::process::geteuid().is_root() {
        assert!(said(&["import", bad.to_str().unwrap()]).contains("not a tar archive"));
        assert!(said(&["import", "/no/such/file"]).contains("can't open /no/such/file"));
    }
}
