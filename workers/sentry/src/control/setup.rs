//! From a root child of the launcher to a locked-in process with a platform.

use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_jail::{JailConfig, seccomp};
use bulkhead_platform::{Config as PlatformConfig, Platform, ZygoteSetup, layout};
use bulkhead_wire::{Config, Failed, FailureStage, Frame, Launcher};

use crate::kernel::{Server, log};

/// A sentry that waits for its job.
pub(super) struct Sandbox {
    pub(super) platform: Arc<Platform>,
    pub(super) server: Arc<Server>,
}

/// Descriptors of a stub: the image's fixed number and a few more; guests' descriptors are the sentry's.
const STUB_OPEN_FILES: u64 = layout::IMAGE_FD as u64 + 64;
/// Whom the host kills first when the job's memory limit is reached: guests, never the sentry.
const GUEST_OOM_SCORE: i32 = 1000;

/// Does everything up to "Ready".
pub(super) fn enter(launcher: &Launcher) -> Result<Sandbox, Failed> {
    let received = launcher.receive()?;
    let Frame::Config(config) = received.frame else {
        return Err(Failed::of(FailureStage::Internal, "the first frame must be the configuration"));
    };
    let mut descriptors = received.descriptors.into_iter();
    let own: Vec<_> = descriptors.by_ref().take(config.sentry_cgroups).collect();
    let job: Vec<_> = descriptors.by_ref().take(config.job_cgroups).collect();
    if own.len() != config.sentry_cgroups || job.len() != config.job_cgroups {
        return Err(Failed::of(FailureStage::Jail, "control group descriptors are missing"));
    }
    if config.log_calls {
        log::enable();
    }
    jail(&config, own)?;
    let platform = platform(&config, job)?;
    seccomp::install(seccomp::Role::Sentry)
        .map_err(|error| Failed::new(FailureStage::Jail, "system-call list", &error))?;
    let server = Arc::new(Server::default());
    platform
        .serve(server.clone())
        .map_err(|error| Failed::new(FailureStage::Platform, "starting the server threads", &error))?;
    Ok(Sandbox { platform: Arc::new(platform), server })
}

fn jail(config: &Config, join: Vec<std::os::fd::OwnedFd>) -> Result<(), Failed> {
    let jail = JailConfig {
        join,
        uid: config.host_uid,
        gid: config.host_uid,
        scratch: Some(PathBuf::from(&config.scratch_directory)),
        rlimits: bulkhead_jail::rlimit::Rlimits::default(),
    };
    bulkhead_jail::enter(jail).map_err(|error| Failed::new(FailureStage::Jail, "the jail", &error))
}

fn platform(config: &Config, job: Vec<std::os::fd::OwnedFd>) -> Result<Platform, Failed> {
    /// RLIMIT_NOFILE and RLIMIT_CORE. A core limit of 1 keeps the host from starting a core pipe.
    const NOFILE: u32 = 7;
    const CORE: u32 = 4;
    let zygote = ZygoteSetup {
        cgroup_procs: job,
        oom_score_adj: Some(GUEST_OOM_SCORE),
        rlimits: vec![(NOFILE, STUB_OPEN_FILES, STUB_OPEN_FILES), (CORE, 1, 1)],
    };
    let config = PlatformConfig { zygote, mediated_mm: config.mediated_memory, ..PlatformConfig::default() };
    Platform::start(config).map_err(|error| Failed::new(FailureStage::Platform, "the platform", &error))
}
