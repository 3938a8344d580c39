//! Real machines on this host's /dev/kvm: what Linux finds in them, and every way to end. Guests that need no Linux are the
//! page of code in `guests/bare.c`.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_vmm::devices::block::DiskKind;
use bulkhead_vmm::devices::serial::LOG_BYTES;
use bulkhead_vmm::devices::vsock::Port;
use bulkhead_vmm::machine::{End, Machine};
use support::{Wanted, assert_good, duplex, file_with, finish, linux, read_all, sparse, start_bare};

macro_rules! needs {
    ($what:ident, $name:literal) => {
        match support::$what() {
            Ok(found) => found,
            Err(why) => return eprintln!("skipped: {}: {why}", $name),
        }
    };
}

/// Disks, entropy and streams, with Linux's own drivers.
#[test]
fn linux_finds_its_devices_and_their_bounds() {
    let kernel = needs!(kernel, "linux_finds_its_devices_and_their_bounds");
    let mut image = vec![0; 3 << 20];
    image[..12].copy_from_slice(b"first sector");
    image.extend(b"last");
    let scratch = sparse(8 << 20);
    let written = scratch.try_clone().expect("a second descriptor");
    let (echo, echo_end) = duplex(1024);
    let (half, mut half_end) = duplex(1028);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let nobody_reads = Port { number: 1026, from_host: None, to_host: Some(OwnedFd::from(writer)) };
    let mut wanted = Wanted::new("devices");
    wanted.disks = vec![(file_with(&image), DiskKind::Image), (scratch, DiskKind::Scratch)];
    wanted.ports = vec![echo, half, nobody_reads];
    let mut machine = linux(&kernel, wanted);

    // More than all buffers on the way together, so that credit has to come back.
    let data: Vec<u8> = (0..700_000u32).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    let (mut sending, sent) = (echo_end.try_clone().expect("a second descriptor"), data.clone());
    let sender = thread::spawn(move || {
        sending.write_all(&sent).expect("the guest reads");
        sending.shutdown(Shutdown::Write).expect("an end");
    });
    let echoed = read_all(&echo_end);
    sender.join().expect("sent");
    assert!(echoed == data, "{} of {} bytes came back", echoed.len(), data.len());
    assert_eq!(read_all(&half_end), b"question");
    half_end.write_all(b"answer").expect("the guest reads");
    half_end.shutdown(Shutdown::Write).expect("an end");

    let (end, console) = finish(&mut machine);
    assert_eq!(end, End::Reset, "{console}");
    assert_good(
        &console,
        &[
            "image open",
            "image size",
            "image first",
            "image last",
            "image end",
            "image read-only",
            "scratch write",
            "scratch flush",
            "scratch read",
            "scratch discard",
            "scratch end",
            "rng",
            "vsock connect",
            "vsock end",
            "vsock again",
            "vsock nobody",
            "half connect",
            "half send",
            "half answer",
            "refused connect",
            "refused write",
        ],
    );
    assert_eq!(written.metadata().expect("metadata").len(), 8 << 20, "the guest made its disk larger");
    let report = machine.report();
    for device in ["serial", "clock", "block", "vsock", "rng"] {
        assert!(report.exits.iter().any(|exit| exit.device == Some(device)), "{device}: {report:?}");
    }
    assert!(report.exits_total < 20_000, "something is polled: {report:?}");
    if report.software_kvm {
        let emulated = report.emulated_instructions.expect("this KVM counts them");
        assert!((1_000_000..100_000_000).contains(&emulated), "{report:?}");
    }
}

/// Two processors, and the panic that the first program's end is.
#[test]
fn processors_run_and_a_panic_ends_them() {
    let kernel = needs!(kernel, "processors_run_and_a_panic_ends_them");
    let mut wanted = Wanted::new("cpus");
    wanted.vcpus = 2;
    let (end, console) = finish(&mut linux(&kernel, wanted));
    assert_eq!(end, End::Reset, "{console}");
    assert!(console.contains("cpus 2"), "{console}");
    assert!(console.contains("Kernel panic") && console.contains("exitcode=0x00000300"), "{console}");
}

fn with_devices(test: &'static str) -> Wanted {
    let mut wanted = Wanted::new(test);
    wanted.disks = vec![(sparse(1 << 20), DiskKind::Scratch)];
    wanted.ports = vec![duplex(1024).0];
    wanted
}

#[test]
fn garbage_in_registers_and_ports_stops_at_worst_the_guest() {
    needs!(kvm, "garbage_in_registers_and_ports_stops_at_worst_the_guest");
    let (end, console) = finish(&mut start_bare(with_devices("garbage")));
    assert_eq!(end, End::Reset, "{console}");
    assert!(console.contains("garbage survived"), "{console}");
}

#[test]
fn rings_of_garbage_stop_at_worst_the_device() {
    needs!(kvm, "rings_of_garbage_stop_at_worst_the_device");
    let (end, console) = finish(&mut start_bare(with_devices("rings")));
    assert_eq!(end, End::Reset, "{console}");
    assert!(console.contains("rings survived"), "{console}");
}

#[test]
fn an_address_without_a_device_reads_as_ones() {
    needs!(kvm, "an_address_without_a_device_reads_as_ones");
    let (end, console) = finish(&mut start_bare(with_devices("beyond")));
    assert_eq!(end, End::Reset, "{console}");
    assert!(console.contains("nothing there"), "{console}");
}

#[test]
fn guests_that_hang_or_halt_can_be_stopped() {
    needs!(kvm, "guests_that_hang_or_halt_can_be_stopped");
    for (test, vcpus) in [("hang", 1), ("halt", 1), ("hang", 2)] {
        let mut wanted = Wanted::new(test);
        wanted.vcpus = vcpus;
        let mut machine = start_bare(wanted);
        wait_for(&machine, "bare guest");
        machine.stop().expect("it stops");
        assert_eq!(machine.ended().get(), Some(End::Stopped), "{test}");
    }
}

#[test]
fn a_machine_that_is_dropped_is_stopped() {
    needs!(kvm, "a_machine_that_is_dropped_is_stopped");
    let (port, mut ours) = duplex(1024);
    let mut wanted = Wanted::new("hang");
    wanted.ports = vec![port];
    let machine = start_bare(wanted);
    ours.write_all(b"nobody connects").expect("into the socket's buffer");
    drop(machine);
    // Its side is closed: an end, or a reset since our bytes were never read.
    assert!(matches!(ours.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn a_triple_fault_ends_the_machine() {
    needs!(kvm, "a_triple_fault_ends_the_machine");
    let (end, console) = finish(&mut start_bare(Wanted::new("triple")));
    assert_eq!(end, End::TripleFault, "{console}");
}

#[test]
fn a_flooded_console_keeps_its_bound() {
    needs!(kvm, "a_flooded_console_keeps_its_bound");
    let mut machine = start_bare(Wanted::new("chatter"));
    while machine.console().len() < LOG_BYTES {
        assert_eq!(machine.ended().wait(Duration::from_millis(20)), None);
    }
    thread::sleep(Duration::from_millis(50));
    assert_eq!(machine.console().len(), LOG_BYTES);
    assert!(machine.console().last_lines(3).contains("chatter"));
    machine.stop().expect("it stops");
}

/// Waits for words on the console.
fn wait_for(machine: &Machine, words: &str) {
    let deadline = Instant::now() + support::LIMIT;
    while !machine.console().contains(words) {
        let end = machine.ended().wait(Duration::from_millis(10));
        assert_eq!(end, None, "{}", machine.console().last_lines(30));
        assert!(Instant::now() < deadline, "{words} never came");
    }
}
