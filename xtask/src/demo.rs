//! `cargo xtask demo`: the whole service on this machine, and real jobs for two tenants.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::service::{DataDirectory, Service, TENANT_SCOPES, token};
use crate::{build, guest, image, python, run, setup};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Keep the service's data directory and print where it is.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::packages()?;
    build::product()?;
    guest::install()?;
    let begin = Instant::now();
    let python = python::environment()?;
    let data = DataDirectory::new("demo", arguments.keep)?;
    image::import(&data.path)?;
    println!("demo: image and client ready after {:.1} s", begin.elapsed().as_secs_f64());
    let mut service = Service::start(&data.path)?;
    println!("demo: service ready at {} after {:.1} s", service.address, begin.elapsed().as_secs_f64());
    let result = drive(&python, &service, &data.path);
    service.stop()?;
    println!("demo: {:.1} s after the build", begin.elapsed().as_secs_f64());
    result?;
    run::checked(Command::new(run::product("bulkhead")?).args(["doctor", "--leftovers"]))
}

fn drive(python: &Path, service: &Service, data: &Path) -> Result<()> {
    let mut demo = Command::new(python);
    demo.arg(run::root().join("xtask/demo/demo.py"));
    demo.args(["--server", &service.address, "--serve-pid", &service.child.id().to_string()]);
    demo.arg("--operator").arg(token(data, "operator", "operator")?);
    for tenant in ["acme", "globex"] {
        let file = token(data, tenant, TENANT_SCOPES)?;
        demo.arg("--tenant").arg(format!("{tenant}={}", file.display()));
    }
    run::checked(&mut demo)
}
