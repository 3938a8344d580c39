//! Every frame arrives as it was sent; bytes of any other kind end a connection and nothing else.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use bulkhead_types::{OutputSpec, SyscallCount, Termination, Usage};
use bulkhead_wire::{
    Collect, Config, Connection, Decoder, EnvEntry, ExitCount, ExitReport, Failed, FailureStage, Frame,
    ImageFds, InputStart, JobUser, Kind, MachineConfig, MachineStatistics, OutputStart, SignalTarget, Start,
    WireError, bounds, encode, fuzz,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    // With quotes, control characters and everything else that JSON has to escape.
    vec(any::<char>(), 0..20).prop_map(|chars| chars.into_iter().collect())
}

fn config() -> impl Strategy<Value = Frame> {
    (0usize..40, 0usize..40, any::<u32>(), text(), any::<bool>(), any::<bool>()).prop_map(
        |(sentry_cgroups, job_cgroups, host_uid, scratch_directory, mediated_memory, log_calls)| {
            Frame::Config(Config {
                sentry_cgroups,
                job_cgroups,
                host_uid,
                scratch_directory,
                mediated_memory,
                log_calls,
            })
        },
    )
}

fn start() -> impl Strategy<Value = Frame> {
    let env = vec((text(), text(), any::<bool>()), 0..4);
    (any::<bool>(), vec(text(), 0..4), env, text(), text(), text(), any::<[u64; 4]>()).prop_map(
        |(private, argv, env, working_directory, user, hostname, [memory, cpu, processes, disk])| {
            Frame::Start(Box::new(Start {
                image: ImageFds { private },
                argv,
                env: env.into_iter().map(|(name, value, secret)| EnvEntry { name, value, secret }).collect(),
                working_directory,
                user: JobUser { spec: user },
                hostname,
                memory_bytes: memory,
                cpu_milli: cpu,
                processes,
                disk_bytes: disk,
            }))
        },
    )
}

fn exited() -> impl Strategy<Value = Frame> {
    let termination =
        prop_oneof![any::<u8>().prop_map(Termination::Exited), any::<u8>().prop_map(Termination::Signaled)];
    let calls = || vec((text(), any::<u64>()).prop_map(|(name, count)| SyscallCount { name, count }), 0..4);
    (termination, proptest::option::of(text()), any::<[u64; 3]>(), calls(), calls()).prop_map(
        |(termination, start_problem, [read, written, disk], top_syscalls, unsupported_syscalls)| {
            let usage =
                Usage { read_bytes: read, written_bytes: written, peak_disk_bytes: disk, ..Usage::default() };
            Frame::Exited(Box::new(ExitReport {
                termination,
                start_problem,
                usage,
                top_syscalls,
                unsupported_syscalls,
            }))
        },
    )
}

fn collecting() -> impl Strategy<Value = Frame> {
    let wanted = prop_oneof![text().prop_map(OutputSpec::Glob), text().prop_map(OutputSpec::Directory)];
    prop_oneof![
        vec(wanted, 0..4).prop_map(|outputs| Frame::Collect(Collect { outputs })),
        (vec(any::<u8>(), 0..40), any::<u32>(), any::<bool>())
            .prop_map(|(path, mode, is_directory)| Frame::Output(OutputStart { path, mode, is_directory })),
        text().prop_map(Frame::OutputProblem),
        Just(Frame::Collected),
    ]
}

fn others() -> impl Strategy<Value = Frame> {
    let stages = [
        FailureStage::Jail,
        FailureStage::Platform,
        FailureStage::Machine,
        FailureStage::Image,
        FailureStage::Input,
        FailureStage::Internal,
    ];
    prop_oneof![
        prop::sample::select(vec![Frame::Ready, Frame::End, Frame::Go, Frame::Started]),
        vec(any::<u8>(), 0..2000).prop_map(Frame::Data),
        text().prop_map(|directory| Frame::Input(InputStart::Archive { directory })),
        (text(), any::<u32>()).prop_map(|(path, mode)| Frame::Input(InputStart::File { path, mode })),
        (1u8..=64, any::<bool>()).prop_map(|(signal, all)| Frame::Signal {
            signal,
            target: if all { SignalTarget::All } else { SignalTarget::First },
        }),
        (prop::sample::select(stages.to_vec()), text())
            .prop_map(|(stage, message)| Frame::Failed(Failed { stage, message })),
    ]
}

fn machine() -> impl Strategy<Value = Frame> {
    let config = (0usize..40, any::<u32>(), text(), any::<u8>(), any::<[u64; 2]>(), any::<[bool; 2]>());
    let count = (text(), proptest::option::of(text()), any::<[u64; 2]>())
        .prop_map(|(reason, device, [boot, total])| ExitCount { reason, device, boot, total });
    let counted = (any::<[u64; 2]>(), any::<[Option<u64>; 2]>(), vec(count, 0..6));
    prop_oneof![
        config.prop_map(
            |(vmm_cgroups, host_uid, scratch_directory, vcpus, [memory, disk], [console, statistics])| {
                Frame::Machine(MachineConfig {
                    vmm_cgroups,
                    host_uid,
                    scratch_directory,
                    vcpus,
                    memory_bytes: memory,
                    disk_bytes: disk,
                    console,
                    statistics,
                })
            }
        ),
        counted.prop_map(|([power_on_to_ready_us, own_memory_bytes], [boot, all], exits)| {
            Frame::Statistics(Box::new(MachineStatistics {
                power_on_to_ready_us,
                boot_instructions: boot,
                emulated_instructions: all,
                own_memory_bytes,
                exits,
            }))
        }),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![config(), start(), exited(), collecting(), others(), machine()]
}

fn pair() -> (Connection, Connection) {
    let (a, b) = UnixStream::pair().expect("socket pair");
    (Connection::new(a), Connection::new(b))
}

proptest! {
    #[test]
    fn frames_arrive_in_order_and_whole(frames in vec(frame(), 1..12)) {
        let (a, b) = pair();
        let received = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut received = Vec::new();
                while let Ok(next) = b.receive() {
                    assert!(next.descriptors.is_empty());
                    received.push(next.frame);
                }
                received
            });
            for frame in &frames {
                a.send(frame, &[]).expect("sends");
            }
            drop(a);
            reader.join().expect("reads")
        });
        prop_assert_eq!(received, frames);
    }

    #[test]
    fn frames_come_out_of_a_stream_in_pieces(frames in vec(frame(), 1..8), pieces in vec(any::<usize>(), 1..5)) {
        let bytes: Vec<u8> = frames.iter().flat_map(|f| encode(f).expect("within bounds")).collect();
        fuzz::hostile_pieces(&bytes, &pieces);
        let mut decoder = Decoder::default();
        decoder.push(&bytes[..bytes.len() - 1]);
        let mut received = Vec::new();
        while let Some(frame) = decoder.next_frame().expect("good frames") {
            received.push(frame);
        }
        prop_assert!(!decoder.is_between_frames());
        decoder.push(&bytes[bytes.len() - 1..]);
        received.extend(decoder.next_frame().expect("good frames"));
        prop_assert!(decoder.is_between_frames());
        prop_assert_eq!(received, frames);
    }

    #[test]
    fn hostile_streams_end(bytes in vec(any::<u8>(), 0..400), valid in 0u8..=17, length in 0u32..64) {
        fuzz::hostile_stream(&bytes).expect("only its own sockets can fail");
        // Behind a good header, so that payloads are reached.
        let mut framed = vec![1, valid, 0, 0];
        framed.extend(length.to_le_bytes());
        framed.extend(&bytes);
        fuzz::hostile_stream(&framed).expect("only its own sockets can fail");
        fuzz::hostile_pieces(&framed, &[usize::from(valid), length as usize]);
        fuzz::hostile_payload(&bytes);
    }

    #[test]
    fn damaged_frames_never_panic(frame in frame(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let (a, b) = pair();
        a.send(&frame, &[]).expect("small enough for the socket");
        drop(a);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut b.stream(), &mut bytes).expect("reads");
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        fuzz::hostile_stream(&bytes).expect("only its own sockets can fail");
        fuzz::hostile_payload(&bytes[8..]);
    }
}

#[test]
fn limits_hold_on_both_sides() {
    let (a, b) = pair();
    let long = Frame::Data(vec![0; bounds::DATA_BYTES + 1]);
    assert!(matches!(a.send(&long, &[]), Err(WireError::TooLong { kind: Kind::Data, .. })));
    let problem = Frame::OutputProblem("x".repeat(bounds::CONTROL_BYTES));
    assert!(matches!(a.send(&problem, &[]), Err(WireError::TooLong { .. })));
    let null = std::fs::File::open("/dev/null").expect("opens");
    let many = vec![null.as_fd(); bounds::DESCRIPTORS + 1];
    assert!(matches!(a.send(&Frame::Go, &many), Err(WireError::TooManyDescriptors)));
    a.send(&Frame::Go, &many[1..]).expect("exactly as many as are allowed");
    assert_eq!(b.receive().expect("arrives").descriptors.len(), bounds::DESCRIPTORS);
    for (bytes, what) in [
        (&[9, 1, 0, 0, 0, 0, 0, 0], "version"),
        (&[1, 99, 0, 0, 0, 0, 0, 0], "kind"),
        (&[1, Kind::Go as u8, 0, 0, 1, 0, 0, 0], "length"),
    ] {
        let (a, b) = pair();
        (&mut a.stream()).write_all(bytes).expect("writes");
        assert!(b.receive().is_err(), "{what}");
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        assert!(decoder.next_frame().is_err(), "{what}");
    }
}
