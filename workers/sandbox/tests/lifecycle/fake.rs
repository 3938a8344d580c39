//! The sentry's side of the protocol, and jobs that do what a test needs. Nothing here is a model of the kernel inside.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bulkhead_jail::rlimit::Rlimits;
use bulkhead_jail::spawn::{Child, Ended, Program, spawn};
use bulkhead_jail::{JailConfig, enter};
use bulkhead_types::{SyscallCount, Termination, Usage};
use bulkhead_wire::{Connection, ExitReport, Failed, FailureStage, Frame, OutputStart, Start};
use rustix::event::{PollFd, PollFlags, poll};

/// Bytes of inputs that a sentry under test takes before it refuses them.
const INPUT_MAX: usize = 1 << 20;

struct Fake {
    connection: Connection,
    /// The job's process, started while there still is a root with the C library, and the socket on which it waits.
    job: (Child, Connection),
    job_groups: Vec<OwnedFd>,
    uid: u32,
    received: usize,
}

pub(crate) fn sentry() {
    let control: UnixStream = bulkhead_jail::spawn::inherited(3).expect("descriptor 3").into();
    let connection = Connection::new(control);
    let received = connection.receive().expect("config");
    let Frame::Config(config) = received.frame else { panic!("no config") };
    let mut groups = received.descriptors;
    let job_groups = groups.split_off(config.sentry_cgroups);
    assert_eq!(job_groups.len(), config.job_cgroups);
    if config.mediated_memory {
        // Stands for a sentry that can't jail itself.
        let failed = Failed { stage: FailureStage::Jail, message: "no namespaces here".into() };
        connection.send(&Frame::Failed(failed), &[]).expect("sends");
        return;
    }
    for group in groups {
        File::from(group).write_all(b"0").expect("joins");
    }
    let job = waiting_job();
    enter(JailConfig {
        join: Vec::new(),
        uid: config.host_uid,
        gid: config.host_uid,
        scratch: Some(config.scratch_directory.into()),
        rlimits: Rlimits::default(),
    })
    .expect("enters");
    std::fs::write("/scratch/file", "left for the launcher to remove").expect("scratch");
    connection.send(&Frame::Ready, &[]).expect("sends");
    Fake { connection, job, job_groups, uid: config.host_uid, received: 0 }.serve();
}

fn waiting_job() -> (Child, Connection) {
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let null = File::open("/dev/null").expect("/dev/null");
    let child = spawn(&Program {
        path: c"/proc/self/exe".to_owned(),
        argv: vec![c"job".to_owned()],
        env: Vec::new(),
        descriptors: vec![(null.as_fd(), 0), (theirs.as_fd(), 3)],
        pid_namespace: false,
    })
    .expect("the job's process starts");
    (child, Connection::new(ours))
}

impl Fake {
    fn serve(mut self) {
        // A warm sentry whose launcher has gone ends.
        let Ok(received) = self.connection.receive() else { return };
        let Frame::Start(start) = received.frame else { panic!("no start") };
        let mut descriptors = received.descriptors;
        let streams = descriptors.split_off(descriptors.len() - 3);
        self.take_inputs();
        match start.argv[0].as_str() {
            "die-before-start" => {
                eprintln!("about to fall over");
                std::process::exit(7);
            }
            "refuse-start" => {
                let failed = Failed { stage: FailureStage::Image, message: "the image is torn".into() };
                self.connection.send(&Frame::Failed(failed), &[]).expect("sends");
                return;
            }
            _ => {}
        }
        let descriptors: Vec<_> = streams.iter().chain(&self.job_groups).map(AsFd::as_fd).collect();
        let mut for_job = start.clone();
        for_job.user.spec = self.uid.to_string();
        self.job.1.send(&Frame::Start(for_job), &descriptors).expect("sends");
        drop(streams);
        self.connection.send(&Frame::Started, &[]).expect("sends");
        let ended = self.wait(&self.job.0, &start.argv[0]);
        self.report(&start, ended);
        self.outputs();
    }

    fn take_inputs(&mut self) {
        loop {
            match self.connection.receive().expect("input").frame {
                Frame::Go => return,
                Frame::Data(bytes) => self.received += bytes.len(),
                Frame::Input(_) | Frame::End => {}
                other => panic!("{other:?}"),
            }
            if self.received > INPUT_MAX {
                let failed = Failed { stage: FailureStage::Input, message: "archive too large".into() };
                self.connection.send(&Frame::Failed(failed), &[]).expect("sends");
                std::process::exit(0);
            }
        }
    }

    fn wait(&self, child: &Child, what: &str) -> Ended {
        loop {
            let pidfd = child.pidfd();
            let mut fds =
                [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(self.connection.stream(), PollFlags::IN)];
            poll(&mut fds, None).expect("polls");
            if !fds[0].revents().is_empty() {
                return child.wait().expect("waits");
            }
            match self.connection.receive() {
                Ok(received) => self.obey(received.frame, child, what),
                Err(_) => std::process::exit(0),
            }
        }
    }

    fn obey(&self, frame: Frame, child: &Child, what: &str) {
        let Frame::Signal { signal, .. } = frame else { panic!("{frame:?}") };
        if what == "deaf" {
            return;
        }
        let signal = rustix::process::Signal::from_named_raw(i32::from(signal)).expect("a signal");
        // Until the child has taken the sandbox's uid it is still root's, and no business of ours.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            match rustix::process::pidfd_send_signal(child.pidfd(), signal) {
                Err(rustix::io::Errno::PERM) if std::time::Instant::now() < deadline => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                sent => return sent.expect("sends"),
            }
        }
    }

    fn report(&self, start: &Start, ended: Ended) {
        let byte = |n: i32| u8::try_from(n).expect("a byte");
        let termination = match ended {
            Ended::Exited(code) => Termination::Exited(byte(code)),
            Ended::Signaled(signal) => Termination::Signaled(byte(signal)),
        };
        let calls = |name: &str| vec![SyscallCount { name: name.into(), count: 1 }];
        let lacking = if start.argv[0] == "unsupported" { calls("frobnicate") } else { Vec::new() };
        let usage = Usage { read_bytes: self.received as u64, ..Usage::default() };
        let report = ExitReport {
            termination,
            start_problem: None,
            usage,
            top_syscalls: calls("read"),
            unsupported_syscalls: lacking,
        };
        self.connection.send(&Frame::Exited(Box::new(report)), &[]).expect("sends");
    }

    fn outputs(&self) {
        let Ok(received) = self.connection.receive() else { return };
        let Frame::Collect(collect) = received.frame else { panic!("no collect") };
        for number in 0..collect.outputs.len() {
            let path = format!("/out/{number}").into_bytes();
            let start = OutputStart { path, mode: 0o640, is_directory: number == 1 };
            self.connection.send(&Frame::Output(start), &[]).expect("sends");
            self.connection.send(&Frame::Data(vec![b'a' + number as u8; 1000]), &[]).expect("sends");
            self.connection.send(&Frame::End, &[]).expect("sends");
        }
        self.connection.send(&Frame::OutputProblem("/gone: no such file".into()), &[]).expect("sends");
        self.connection.send(&Frame::Collected, &[]).expect("sends");
        let _ = self.connection.receive();
    }
}

pub(crate) fn job() {
    let control: UnixStream = bulkhead_jail::spawn::inherited(3).expect("descriptor 3").into();
    let Ok(received) = Connection::new(control).receive() else { return };
    let Frame::Start(start) = received.frame else { panic!("no start") };
    let mut streams = received.descriptors;
    for group in streams.split_off(3) {
        File::from(group).write_all(b"0").expect("joins");
    }
    // The sentry may signal only what has its own uid.
    let uid = rustix::process::Uid::from_raw(start.user.spec.parse().expect("a uid"));
    rustix::thread::set_thread_res_uid(uid, uid, uid).expect("takes the sandbox's uid");
    rustix::stdio::dup2_stdin(&streams[0]).expect("standard input");
    rustix::stdio::dup2_stdout(&streams[1]).expect("standard output");
    rustix::stdio::dup2_stderr(&streams[2]).expect("standard error");
    drop(streams);
    match start.argv[0].as_str() {
        "exit" => {
            print!("out");
            eprint!("err");
            std::io::stdout().flush().expect("flushes");
            std::process::exit(start.argv[1].parse().expect("a number"));
        }
        "unsupported" => std::process::exit(1),
        "spin" => loop {
            std::hint::black_box(());
        },
        "sleep" | "deaf" => std::thread::sleep(Duration::from_secs(600)),
        "hog" => {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![1u8; 1 << 20]);
                std::hint::black_box(&kept);
            }
        }
        other => panic!("unknown job {other}"),
    }
}
