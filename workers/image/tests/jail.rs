//! The walls around the converter, seen from outside while it waits for an archive.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, channel};

use bulkhead_image::{Archive, ConvertLimits, Converter, Owner, Store};

/// A stream that gives nothing until it is told to end.
struct Waiting(Receiver<()>);

impl Read for Waiting {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        // Whichever way the test ends, so does the stream.
        let _ = self.0.recv();
        Ok(0)
    }
}

/// The converter that this process has started, once it is behind its last wall.
fn converter_process() -> String {
    let own = format!("PPid:\t{}\n", std::process::id());
    for _ in 0..6000 {
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            // Two filters: the list itself, and the one against clone3.
            let locked = status.contains("\nSeccomp_filters:\t2\n");
            if status.contains(&own) && command.starts_with("bulkhead-convert\0") && locked {
                return path.to_str().unwrap().to_owned();
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("no converter behind its walls within a minute");
}

#[test]
fn the_converter_can_reach_nothing() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the_converter_can_reach_nothing: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (end, waiting) = channel();
    std::thread::scope(|scope| {
        // Dropped by a panic too, so that the other thread ends.
        let end = end;
        scope.spawn(move || {
            let converter = Converter::at(env!("CARGO_BIN_EXE_bulkhead-convert"));
            let mut stream = Waiting(waiting);
            let archive = Archive::Stream(&mut stream);
            store.import(&Owner::Operator, None, archive, &converter, &ConvertLimits::default()).unwrap_err();
        });
        let process = converter_process();
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        for line in
            ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            assert!(status.contains(line), "{line}: {status}");
        }
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
        assert!(uid.split('\t').all(|uid| uid != "0"), "{uid}");
        for namespace in ["mnt", "net", "ipc", "uts", "pid", "user"] {
            let of = |process: &str| fs::read_link(format!("{process}/ns/{namespace}")).unwrap();
            assert_ne!(of(&process), of("/proc/self"), "{namespace}");
        }
        let mut root = fs::read_dir(format!("{process}/root")).unwrap();
        assert!(
            root.all(|entry| ["proc", "scratch"].contains(&entry.unwrap().file_name().to_str().unwrap()))
        );
        let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
        assert!(
            limits.lines().any(|line| line.starts_with("Max address space") && line.contains("2147483648"))
        );
        // Nothing but what it was handed, and the same files opened by it.
        let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            fs::read_link(path).unwrap().to_str().unwrap().to_owned()
        });
        let images = dir.path().join("images/tmp");
        for target in descriptors {
            let expected = target.starts_with(images.to_str().unwrap())
                || target.starts_with("pipe:")
                || target == "/dev/null";
            assert!(expected, "{target}");
        }
        end.send(()).unwrap();
    });
}
