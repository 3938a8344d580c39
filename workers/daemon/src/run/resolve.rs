use bulkhead_image::ImageConfig;
use bulkhead_types::{EnvVar, JobSpec};

use super::Problem;

/// Where programs are looked for when neither the job nor the image says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the job leaves to its image, filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<EnvVar>,
    pub(super) working_directory: String,
    pub(super) user: String,
    pub(super) hostname: String,
}

/// The job's own words first, then the image's, then the defaults. A job's argv replaces the image's entrypoint and
/// command together.
pub(super) fn resolve(spec: &JobSpec, image: &ImageConfig, hostname: String) -> Result<Resolved, Problem> {
    let argv = if spec.argv.is_empty() {
        image.entrypoint.iter().chain(&image.cmd).cloned().collect()
    } else {
        spec.argv.clone()
    };
    if argv.is_empty() {
        return Err(Problem::Job("the job has no argv, and its image no entrypoint or command".into()));
    }
    let user = spec.user.as_ref().map_or(&image.user, |user| &user.0).clone();
    let mut env: Vec<EnvVar> = Vec::new();
    let from_image = image.env.iter().filter_map(|text| text.split_once('='));
    for (name, value) in from_image {
        set(&mut env, EnvVar { name: name.into(), value: value.into(), secret: false });
    }
    for var in &spec.env {
        set(&mut env, var.clone());
    }
    let home = if matches!(user.split(':').next(), Some("" | "0" | "root")) { "/root" } else { "/" };
    for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", home), ("HOSTNAME", hostname.as_str())] {
        if !env.iter().any(|var| var.name == name) {
            env.push(EnvVar { name: name.into(), value: value.into(), secret: false });
        }
    }
    let directory = spec.working_directory.as_ref().unwrap_or(&image.working_dir);
    let working_directory = if directory.is_empty() { "/".to_owned() } else { directory.clone() };
    Ok(Resolved { argv, env, working_directory, user, hostname })
}

/// The later of two variables of one name counts, in the place of the first.
fn set(env: &mut Vec<EnvVar>, var: EnvVar) {
    match env.iter_mut().find(|have| have.name == var.name) {
        Some(have) => *have = var,
        None => env.push(var),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bulkhead_types::{Backend, ImageName, ImageRef, Limits, Priority, RetryPolicy, UserSpec};

    use super::*;

    fn spec() -> JobSpec {
        JobSpec {
            image: ImageRef::Name(ImageName::new("demo").expect("valid")),
            argv: vec![],
            env: vec![EnvVar { name: "A".into(), value: "job".into(), secret: true }],
            working_directory: None,
            user: None,
            stdin: None,
            input_files: vec![],
            input_archives: vec![],
            outputs: vec![],
            backend: Backend::Auto,
            priority: Priority::Normal,
            labels: BTreeMap::new(),
            retry: RetryPolicy::default(),
            grace_period_ms: 0,
            limits: Limits::default(),
        }
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["x".into()],
            env: vec!["A=image".into(), "B=c=d".into()],
            user: "app".into(),
            working_dir: "/w".into(),
        }
    }

    fn env(resolved: &Resolved, name: &str) -> String {
        let found: Vec<_> = resolved.env.iter().filter(|var| var.name == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0].value.clone()
    }

    #[test]
    fn the_image_fills_what_the_job_leaves_out() {
        let resolved = resolve(&spec(), &image(), "h".into()).expect("resolves");
        assert_eq!(resolved.argv, ["/entry", "x"]);
        assert_eq!((resolved.working_directory.as_str(), resolved.user.as_str()), ("/w", "app"));
        assert_eq!((env(&resolved, "A"), env(&resolved, "B")), ("job".into(), "c=d".into()));
        assert_eq!((env(&resolved, "PATH"), env(&resolved, "HOME")), (DEFAULT_PATH.into(), "/".into()));
    }

    #[test]
    fn the_job_overrides_its_image() {
        let mut own = spec();
        own.argv = vec!["mine".into()];
        own.user = Some(UserSpec("0:0".into()));
        own.working_directory = Some("/tmp".into());
        let resolved = resolve(&own, &image(), "h".into()).expect("resolves");
        assert_eq!(resolved.argv, ["mine"]);
        assert_eq!((resolved.working_directory.as_str(), resolved.user.as_str()), ("/tmp", "0:0"));
        assert_eq!(env(&resolved, "HOME"), "/root");
        let nothing = resolve(&spec(), &ImageConfig::default(), "h".into());
        assert!(matches!(nothing, Err(Problem::Job(_))));
    }
}
