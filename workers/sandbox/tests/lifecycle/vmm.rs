//! The VMM's side of the protocol, without a machine: it jails itself, and plays what a guest and its agent would say.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bulkhead_jail::rlimit::Rlimits;
use bulkhead_jail::{JailConfig, enter};
use bulkhead_types::{SyscallCount, Termination, Usage};
use bulkhead_wire::{
    Connection, ExitCount, ExitReport, Failed, FailureStage, Frame, MachineConfig, MachineStatistics, bounds,
};

/// What the launcher's guest directory must hold.
pub(crate) const KERNEL: &str = "a kernel";
pub(crate) const INITRAMFS: &str = "an agent";
/// How long the slow machine boots.
pub(crate) const SLOW_BOOT: Duration = Duration::from_millis(1500);

pub(crate) fn main() {
    let control: UnixStream = bulkhead_jail::spawn::inherited(3).expect("descriptor 3").into();
    let connection = Connection::new(control);
    let received = connection.receive().expect("the machine");
    let Frame::Machine(config) = received.frame else { panic!("no machine") };
    let mut groups = received.descriptors;
    let files = groups.split_off(config.vmm_cgroups);
    check(&config, files);
    enter(JailConfig {
        join: groups,
        uid: config.host_uid,
        gid: config.host_uid,
        scratch: Some(config.scratch_directory.clone().into()),
        rlimits: Rlimits::default(),
    })
    .expect("enters");
    std::fs::write("/scratch/disk", "left for the launcher to remove").expect("scratch");
    connection.send(&Frame::Ready, &[]).expect("sends");
    Machine { connection, config }.serve();
}

fn check(config: &MachineConfig, files: Vec<OwnedFd>) {
    let [kvm, kernel, initramfs] = <[OwnedFd; 3]>::try_from(files).expect("three files");
    let rdev = rustix::fs::fstat(&kvm).expect("stat").st_rdev;
    assert_eq!((rustix::fs::major(rdev), rustix::fs::minor(rdev)), (10, 232), "not /dev/kvm");
    for (file, want) in [(kernel, KERNEL), (initramfs, INITRAMFS)] {
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).expect("reads");
        assert_eq!(text, want);
    }
    assert!(config.memory_bytes > 64 << 20 && config.disk_bytes > 1 << 30 && config.vcpus == 1, "{config:?}");
}

struct Machine {
    connection: Connection,
    config: MachineConfig,
}

impl Machine {
    fn send(&self, frame: &Frame) {
        self.connection.send(frame, &[]).expect("sends");
    }

    fn broke(&self, message: &str) -> ! {
        self.send(&Frame::Failed(Failed { stage: FailureStage::Machine, message: message.into() }));
        std::process::exit(0);
    }

    fn serve(self) {
        let Ok(received) = self.connection.receive() else { return };
        let Frame::Start(start) = received.frame else { panic!("no start") };
        let mut descriptors = received.descriptors;
        let streams = descriptors.split_off(descriptors.len() - 3);
        loop {
            match self.connection.receive().expect("inputs").frame {
                Frame::Go => break,
                Frame::Input(_) | Frame::Data(_) | Frame::End => {}
                other => panic!("{other:?}"),
            }
        }
        let what = start.argv[0].as_str();
        match what {
            "never-ready" => self.broke("the guest was not ready after 60 s; its console ends: Kernel panic"),
            "slow-boot" => {
                // A boot that uses cpu, as it does where the guest's kernel is emulated.
                let end = std::time::Instant::now() + SLOW_BOOT;
                while std::time::Instant::now() < end {
                    std::hint::black_box(());
                }
            }
            _ => {}
        }
        self.send(&Frame::Started);
        let termination = self.run(what, &streams);
        drop(streams);
        if self.config.statistics {
            self.send(&Frame::Statistics(Box::new(counted(what))));
        }
        self.send(&Frame::Exited(Box::new(report(what, termination))));
        while let Ok(received) = self.connection.receive() {
            let Frame::Collect(_) = received.frame else { panic!("{:?}", received.frame) };
            self.send(&Frame::Collected);
        }
    }

    /// What the job does.
    fn run(&self, what: &str, streams: &[OwnedFd]) -> Termination {
        match what {
            "panic" => self.broke("the guest's kernel panicked: sysrq triggered crash"),
            "sleep" => match self.connection.receive().map(|received| received.frame) {
                Ok(Frame::Signal { signal, .. }) => Termination::Signaled(signal),
                Ok(other) => panic!("{other:?}"),
                Err(_) => std::process::exit(0),
            },
            "oom" => Termination::Signaled(9),
            "lie" => Termination::Exited(1),
            _ => {
                let out = streams[1].try_clone().expect("duplicates");
                File::from(out).write_all(b"out").expect("writes");
                Termination::Exited(3)
            }
        }
    }
}

fn report(what: &str, termination: Termination) -> ExitReport {
    let call = |name: &str| vec![SyscallCount { name: name.into(), count: 1 }];
    let (usage, calls) = match what {
        "oom" => (Usage { oom_kills: 1, peak_memory_bytes: 60 << 20, ..Usage::default() }, Vec::new()),
        "lie" => {
            (Usage { peak_memory_bytes: u64::MAX, cpu_user_us: u64::MAX, ..Usage::default() }, call("frob"))
        }
        _ => (Usage { peak_memory_bytes: 1 << 20, ..Usage::default() }, Vec::new()),
    };
    ExitReport {
        termination,
        start_problem: None,
        usage,
        top_syscalls: calls.clone(),
        unsupported_syscalls: calls,
    }
}

fn counted(what: &str) -> MachineStatistics {
    let exit = ExitCount { reason: "hlt".into(), device: None, boot: 1, total: 2 };
    let many = if what == "lie" { bounds::EXIT_COUNTS + 1 } else { 1 };
    MachineStatistics { power_on_to_ready_us: 5, exits: vec![exit; many], ..MachineStatistics::default() }
}
