use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use bulkhead_client::{Client, v1};

use crate::failure::Failure;
use crate::print::clean;

/// Downloads the collected files of a job's last attempt into `directory`, each at its path in the sandbox; a
/// directory's tar is saved with `.tar` added. Returns where they are.
pub(super) async fn save(client: &Client, job: &v1::Job, directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let Some(attempt) = job.attempts.last() else { return Ok(Vec::new()) };
    let tenant = job.name.split("/jobs/").next().unwrap_or_default();
    let mut saved = Vec::new();
    for file in &attempt.output_files {
        let shown = clean(&String::from_utf8_lossy(&file.path));
        let mut relative = beneath(&file.path).ok_or_else(|| {
            Failure::new(format!("the job's output {shown:?} has a path that can't be saved"))
        })?;
        if file.is_directory {
            relative.as_mut_os_string().push(".tar");
        }
        let path = directory.join(relative);
        let digest = file.blob_digest.strip_prefix("sha256:").unwrap_or(&file.blob_digest);
        download(client, &format!("{tenant}/blobs/{digest}"), &path).await?;
        let failed = |e: std::io::Error| Failure::of(format!("can't write {}", path.display()), &e);
        // Never set-user-ID here, whatever it was there.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode & 0o777))
            .map_err(failed)?;
        saved.push(path);
    }
    Ok(saved)
}

/// Downloads a blob into a new file, which appears when it is complete.
pub(crate) async fn download(client: &Client, name: &str, path: &Path) -> Result<u64, Failure> {
    let failed = |e: std::io::Error| Failure::of(format!("can't write {}", path.display()), &e);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let mut file = tokio::fs::File::create(&unfinished).await.map_err(failed)?;
    let size = client.download_blob(name, &mut file).await?;
    drop(file);
    std::fs::rename(&unfinished, path).map_err(failed)?;
    Ok(size)
}

/// The path without its root. The sandbox chose it: one that could lead out of the target is refused.
fn beneath(path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    let relative = path.strip_prefix("/").unwrap_or(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && relative.components().next().is_some()).then(|| relative.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_sandbox_stays_beneath_the_target() {
        assert_eq!(beneath(b"/out/a.txt"), Some(PathBuf::from("out/a.txt")));
        for bad in [&b"/../etc/passwd"[..], b"/", b"", b"/a/../../b", b".."] {
            assert_eq!(beneath(bad), None, "{bad:?}");
        }
    }
}
