use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bulkhead_client::v1;
use bulkhead_types::ImageName;
use serde_json::Value;

use super::local;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::{print, progress};

/// Images of one page, at most what the service gives.
const PAGE: i32 = 500;

/// Import, list and delete images
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --server or --token (or their variables) these work on a service; without, on the store \
of --data-dir, whose images are the operator's: `bulkhead serve` shares them with every tenant, and `bulkhead sandbox` \
runs them."
)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum ImageCommand {
    /// Make an image of an OCI layout, a docker-save tar, a tar of a root file system, or (locally) a directory
    Import {
        /// The archive (plain, gzip or zstd), or - for standard input
        archive: PathBuf,
        /// Name of the image; an existing name moves to the new image
        #[arg(long, short, value_name = "NAME")]
        name: Option<ImageName>,
        /// On a service: import it for every tenant (needs the scope operator)
        #[arg(long)]
        shared: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List images
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show an image: its digest, size and defaults
    #[command(visible_alias = "show")]
    Get {
        /// Its name; locally also its digest
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete an image; running jobs keep it to their end
    Delete {
        /// Its name; locally also its digest
        name: String,
        /// Print what was deleted as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn image(args: ImageArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    if settings.names_service() {
        of_service(args.command, settings).await?;
    } else {
        of_store(args.command, &settings.data_dir)
            .map_err(|error| Failure::new(bulkhead_sandbox::chain(error.as_ref())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The store's calls block, and nothing else is going on in this process.
fn of_store(command: ImageCommand, data_dir: &Path) -> Result<(), local::AnyError> {
    match command {
        ImageCommand::Import { archive, name, json, .. } => {
            local::import(data_dir, &archive, name.as_ref(), json)
        }
        ImageCommand::List { json } => local::list(data_dir, json),
        ImageCommand::Get { name, json } => local::get(data_dir, &name, json),
        ImageCommand::Delete { name, json } => local::delete(data_dir, &name, json),
    }
}

async fn of_service(command: ImageCommand, settings: &Settings) -> Result<(), Failure> {
    let client = settings.client()?;
    match command {
        ImageCommand::Import { archive, name, shared, json } => {
            let name =
                name.ok_or_else(|| Failure::new("an image of a service needs a name: use --name NAME"))?;
            let parent = if shared { "operator".to_owned() } else { settings.parent()? };
            let source = progress::open(&archive, "importing").await?;
            let image = client.import_image(&parent, name.as_str(), source).await?;
            show(&image, json)
        }
        ImageCommand::List { json } => {
            let images = all(&client, settings.parent()?).await?;
            if json {
                return print::json(&Value::Array(images.iter().map(crate::json::image).collect()));
            }
            let rows: Vec<_> = images
                .iter()
                .map(|image| vec![image.name.clone(), print::bytes(image.size_bytes), image.digest.clone()])
                .collect();
            print::table(&["IMAGE", "SIZE", "DIGEST"], &rows)
        }
        ImageCommand::Get { name, json } => {
            let image = client.get_image(&full_name(&name, settings)?).await?;
            show(&image, json)
        }
        ImageCommand::Delete { name, json } => {
            let name = full_name(&name, settings)?;
            client.delete_image(&name).await?;
            if json { print::json(&serde_json::json!({ "deleted": name })) } else { print::line(&name) }
        }
    }
}

async fn all(client: &bulkhead_client::Client, parent: String) -> Result<Vec<v1::Image>, Failure> {
    let mut images = Vec::new();
    let mut request = v1::ListImagesRequest { parent, page_size: PAGE, ..Default::default() };
    loop {
        let page = client.list_images(&request).await?;
        images.extend(page.images);
        if page.next_page_token.is_empty() {
            return Ok(images);
        }
        request.page_token = page.next_page_token;
    }
}

fn full_name(name: &str, settings: &Settings) -> Result<String, Failure> {
    if name.contains('/') { Ok(name.to_owned()) } else { Ok(format!("{}/images/{name}", settings.parent()?)) }
}

fn show(image: &v1::Image, json: bool) -> Result<(), Failure> {
    if json {
        return print::json(&crate::json::image(image));
    }
    print::line(&format!("{} {} {}", image.name, image.digest, print::bytes(image.size_bytes)))
}
