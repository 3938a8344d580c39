use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::failure::Failure;
use crate::settings::Settings;
use crate::{jobs, print, progress};

/// Upload and download content-addressed bytes
#[derive(Debug, clap::Args)]
pub(crate) struct BlobArgs {
    #[command(subcommand)]
    command: BlobCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BlobCommand {
    /// Upload a file (- for standard input) and print its digest
    Upload {
        /// The file
        file: PathBuf,
        /// Digest that the bytes must have (sha256:...)
        #[arg(long, value_name = "DIGEST")]
        expect: Option<String>,
        /// As JSON: name, digest, size_bytes
        #[arg(long)]
        json: bool,
    },
    /// Download a blob to a file (- for standard output)
    Download {
        /// Digest, or the blob's name
        blob: String,
        /// The file
        file: PathBuf,
        /// Print path and size_bytes as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn blob(args: BlobArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    let client = settings.client()?;
    match args.command {
        BlobCommand::Upload { file, expect, json } => {
            let source = progress::open(&file, "uploading").await?;
            let blob = client.upload_blob(&settings.parent()?, source, expect.as_deref()).await?;
            if json { print::json(&crate::json::blob(&blob))? } else { print::line(&blob.digest)? }
        }
        BlobCommand::Download { blob, file, json } => {
            let name = if blob.starts_with("tenants/") {
                blob
            } else {
                format!("{}/blobs/{}", settings.parent()?, blob.strip_prefix("sha256:").unwrap_or(&blob))
            };
            if file == Path::new("-") {
                client.download_blob(&name, &mut tokio::io::stdout()).await?;
            } else {
                let size = jobs::download(&client, &name, &file).await?;
                if json {
                    print::json(&json!({ "path": file.display().to_string(), "size_bytes": size }))?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
