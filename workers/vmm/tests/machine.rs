//! Real machines on this host's /dev/kvm: boot, devices, and every way to end.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bulkhead_vmm::devices::block::DiskKind;
use bulkhead_vmm::devices::serial::LOG_BYTES;
use bulkhead_vmm::devices::vsock::Port;
use bulkhead_vmm::machine::End;
use support::{Wanted, assert_good, duplex, file_with, finish, read_all, run, sparse, start};

macro_rules! needs_kernel {
    ($name:literal) => {
        match support::kernel() {
            Ok(kernel) => kernel,
            Err(why) => return eprintln!("skipped: {}: {why}", $name),
        }
    };
}

#[test]
fn a_guest_boots_to_its_first_program_and_reboots() {
    let kernel = needs_kernel!("a_guest_boots_to_its_first_program_and_reboots");
    let mut machine = start(&kernel, Wanted::new("ready"));
    let (end, console) = finish(&mut machine);
    assert_eq!(end, End::Reset, "{console}");
    assert!(console.contains("guest alive: ready\nguest done"), "{console}");
    let report = machine.report();
    assert!(report.exits.iter().any(|exit| exit.device == Some("serial")), "{report:?}");
    assert!(report.exits_total < 20_000, "the boot polls something: {report:?}");
    if report.software_kvm {
        let emulated = report.emulated_instructions.expect("this KVM counts them");
        assert!((1_000_000..60_000_000).contains(&emulated), "{report:?}");
    }
}

#[test]
fn disks_are_read_written_and_bounded() {
    let kernel = needs_kernel!("disks_are_read_written_and_bounded");
    let mut image = vec![0; 3 << 20];
    image[..12].copy_from_slice(b"first sector");
    image.extend(b"last");
    let scratch = sparse(8 << 20);
    let written = scratch.try_clone().expect("a second descriptor");
    let mut wanted = Wanted::new("disks");
    wanted.disks = vec![(file_with(&image), DiskKind::Image), (scratch, DiskKind::Scratch)];
    let (end, console) = run(&kernel, wanted);
    assert_eq!(end, End::Reset, "{console}");
    let results = [
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
    ];
    assert_good(&console, &results);
    assert_eq!(written.metadata().expect("metadata").len(), 8 << 20, "the guest made its disk larger");
}

#[test]
fn streams_echo_with_credit_both_ways() {
    let kernel = needs_kernel!("streams_echo_with_credit_both_ways");
    // More than all buffers on the way together, so that credit has to come back.
    let data: Vec<u8> = (0..700_000u32).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    let (port, ours) = duplex(1024);
    let mut wanted = Wanted::new("echo");
    wanted.ports = vec![port];
    let mut machine = start(&kernel, wanted);
    let mut sending = ours.try_clone().expect("a second descriptor");
    let sent = data.clone();
    let sender = thread::spawn(move || {
        sending.write_all(&sent).expect("the guest reads");
        sending.shutdown(Shutdown::Write).expect("an end");
    });
    let echoed = read_all(&ours);
    sender.join().expect("sent");
    assert!(echoed == data, "{} of {} bytes came back", echoed.len(), data.len());
    let (end, console) = finish(&mut machine);
    assert_eq!(end, End::Reset, "{console}");
    assert_good(&console, &["vsock connect", "vsock end", "vsock again", "vsock nobody"]);
}

#[test]
fn half_closed_streams_carry_the_other_half() {
    let kernel = needs_kernel!("half_closed_streams_carry_the_other_half");
    let (port, mut ours) = duplex(1024);
    let mut wanted = Wanted::new("half");
    wanted.ports = vec![port];
    let mut machine = start(&kernel, wanted);
    assert_eq!(read_all(&ours), b"question");
    ours.write_all(b"answer").expect("the guest reads");
    ours.shutdown(Shutdown::Write).expect("an end");
    let (end, console) = finish(&mut machine);
    assert_eq!(end, End::Reset, "{console}");
    assert_good(&console, &["half connect", "half send", "half answer"]);
}

#[test]
fn a_guest_learns_that_nobody_reads() {
    let kernel = needs_kernel!("a_guest_learns_that_nobody_reads");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut wanted = Wanted::new("refused");
    wanted.ports = vec![Port { number: 1026, from_host: None, to_host: Some(OwnedFd::from(writer)) }];
    drop(reader);
    let (end, console) = run(&kernel, wanted);
    assert_eq!(end, End::Reset, "{console}");
    assert_good(&console, &["refused connect", "refused write"]);
}

#[test]
fn two_processors_run() {
    let kernel = needs_kernel!("two_processors_run");
    let mut wanted = Wanted::new("cpus");
    wanted.vcpus = 2;
    let (end, console) = run(&kernel, wanted);
    assert_eq!(end, End::Reset, "{console}");
    assert!(console.contains("cpus 2"), "{console}");
}

#[test]
fn garbage_in_registers_stops_at_worst_the_guest() {
    let kernel = needs_kernel!("garbage_in_registers_stops_at_worst_the_guest");
    let mut wanted = Wanted::new("garbage");
    wanted.disks = vec![(sparse(1 << 20), DiskKind::Scratch)];
    wanted.ports = vec![duplex(1024).0];
    let (end, console) = run(&kernel, wanted);
    assert!(matches!(end, End::Reset | End::TripleFault), "{end:?}: {console}");
    assert!(console.contains("garbage"), "{console}");
}

#[test]
fn a_guest_that_hangs_can_be_stopped() {
    let kernel = needs_kernel!("a_guest_that_hangs_can_be_stopped");
    let mut machine = start(&kernel, Wanted::new("hang"));
    wait_for(&machine, "guest alive: hang", &kernel);
    machine.stop().expect("it stops");
    assert_eq!(machine.ended().get(), Some(End::Stopped));
}

#[test]
fn a_panic_ends_the_machine_and_is_on_the_console() {
    let kernel = needs_kernel!("a_panic_ends_the_machine_and_is_on_the_console");
    let (end, console) = run(&kernel, Wanted::new("panic"));
    assert_eq!(end, End::Reset, "{console}");
    assert!(console.contains("Kernel panic") && console.contains("exitcode=0x00000300"), "{console}");
}

#[test]
fn a_triple_fault_ends_the_machine() {
    let kernel = needs_kernel!("a_triple_fault_ends_the_machine");
    let mut wanted = Wanted::new("ready");
    // The last of the two words counts.
    wanted.words = "reboot=t";
    let (end, console) = run(&kernel, wanted);
    assert_eq!(end, End::TripleFault, "{console}");
}

#[test]
fn a_console_that_is_flooded_keeps_its_bound() {
    let kernel = needs_kernel!("a_console_that_is_flooded_keeps_its_bound");
    let mut machine = start(&kernel, Wanted::new("chatter"));
    while machine.console().len() < LOG_BYTES {
        assert_eq!(machine.ended().wait(Duration::from_millis(50)), None);
    }
    let lines = machine.console().last_lines(3);
    assert!(lines.contains("chatter chatter"), "{lines}");
    assert_eq!(machine.console().len(), LOG_BYTES);
    machine.stop().expect("it stops");
}

#[test]
fn a_guest_may_end_while_the_host_still_writes() {
    let kernel = needs_kernel!("a_guest_may_end_while_the_host_still_writes");
    let (port, mut ours) = duplex(1024);
    let mut wanted = Wanted::new("ready");
    wanted.ports = vec![port];
    let mut machine = start(&kernel, wanted);
    ours.write_all(b"nobody connects").expect("into the socket's buffer");
    let (end, console) = finish(&mut machine);
    assert_eq!(end, End::Reset, "{console}");
    let mut rest = [0; 1];
    // The machine's end closes its side: an end, or a reset since our bytes were never read.
    assert!(matches!(ours.read(&mut rest), Ok(0) | Err(_)));
}

fn wait_for(machine: &bulkhead_vmm::machine::Machine, words: &str, _kernel: &Path) {
    while !machine.console().contains(words) {
        let end = machine.ended().wait(Duration::from_millis(50));
        assert_eq!(end, None, "{}", machine.console().last_lines(30));
    }
}
