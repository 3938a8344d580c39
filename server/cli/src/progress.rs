use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::AsyncRead;

use crate::failure::Failure;

/// A bar on standard error while `size` bytes are read; on a terminal only, which indicatif looks at itself.
fn bar(size: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(size);
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// Opens a file whose reading shows; `-` is standard input.
pub(crate) async fn open(
    path: &Path,
    what: &'static str,
) -> Result<Box<dyn AsyncRead + Send + Unpin>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(tokio::io::stdin()));
    }
    let failed = |e: std::io::Error| Failure::of(format!("can't read {}", path.display()), &e);
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    if metadata.is_dir() {
        return Err(
            Failure::new(format!("{} is a directory", path.display())).hint("pack it first, with tar")
        );
    }
    Ok(Box::new(bar(metadata.len(), what).wrap_async_read(file)))
}
