//! `bulkhead image`: the images of the local store, without a server. `serve` shares them with all tenants.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bulkhead_image::{Archive, ConvertLimits, Converter, ImageRow, Owner, Store, StoredImage};
use bulkhead_sandbox::chain;
use bulkhead_types::{Digest, ImageName, ImageRef};
use indicatif::{ProgressBar, ProgressStyle};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Import, list and delete images of the local store
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an image of an OCI layout, a `docker save` tar, a root file system tar, or a directory
    Import(ImportArgs),
    /// List images
    List(StoreArgs),
    /// Show an image: its digest, files and defaults
    Show(OneArgs),
    /// Delete an image and all its names; running sandboxes keep it until they end
    Delete(OneArgs),
}

#[derive(Debug, clap::Args)]
struct StoreArgs {
    /// Where images are
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA_DIR", default_value = "/var/lib/bulkhead")]
    data_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Name of the image; it is taken from an image that has it
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// Archive (plain, gzip or zstd), directory, or - for standard input
    #[arg(value_name = "ARCHIVE")]
    source: PathBuf,
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Name or digest
    image: String,
}

/// Runs the command.
pub(crate) fn run(args: ImageArgs) -> ExitCode {
    let result = match args.command {
        Command::Import(args) => import(&args),
        Command::List(args) => list(&args),
        Command::Show(args) => show(&args),
        Command::Delete(args) => delete(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn import(args: &ImportArgs) -> Result<(), AnyError> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "importing an image needs root: the archive is read by a process with a host uid of its own"
                .into(),
        );
    }
    let store = Store::open(&args.store.data_dir)?;
    let converter = Converter::find()?;
    let add = |archive: Archive<'_>| {
        store.import(&Owner::Operator, args.name.as_ref(), archive, &converter, &ConvertLimits::default())
    };
    let image = if args.source == Path::new("-") {
        let bar = progress(None);
        add(Archive::Stream(&mut bar.wrap_read(io::stdin())))?
    } else if args.source.is_dir() {
        add(Archive::Directory(&args.source))?
    } else {
        let opened = File::open(&args.source);
        let file = opened.map_err(|error| format!("can't open {}: {error}", args.source.display()))?;
        if io::stderr().is_terminal() {
            let bar = progress(Some(file.metadata()?.len()));
            add(Archive::Stream(&mut bar.wrap_read(file)))?
        } else {
            add(Archive::File(file))?
        }
    };
    if args.store.json {
        let rows = image.rows();
        let named = rows.iter().find(|row| row.name.as_ref() == args.name.as_ref()).or(rows.first());
        return print(&serde_json::to_string_pretty(&named)?);
    }
    print(&image.digest.to_string())
}

/// Shown on a terminal only.
fn progress(bytes: Option<u64>) -> ProgressBar {
    let bar = bytes.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes} ({bytes_per_sec})");
    // The template is a constant; without it the bar has its own.
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

fn list(args: &StoreArgs) -> Result<(), AnyError> {
    let rows = Store::open(&args.data_dir)?.list()?.iter().flat_map(StoredImage::rows).collect::<Vec<_>>();
    if args.json {
        return print(&serde_json::to_string_pretty(&rows)?);
    }
    print(&table(&rows))
}

fn table(rows: &[ImageRow]) -> String {
    let cells = rows.iter().map(|row| {
        let name = row.name.as_ref().map_or("-", ImageName::as_str);
        [
            name.to_owned(),
            row.digest.to_string(),
            row.owner.clone(),
            indicatif::HumanBytes(row.size).to_string(),
        ]
    });
    let heads = ["NAME", "DIGEST", "OWNER", "SIZE"].map(str::to_owned);
    let cells = std::iter::once(heads).chain(cells).collect::<Vec<_>>();
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (name, digest, owner) = (width(0), width(1), width(2));
    let line =
        |row: &[String; 4]| format!("{:name$}  {:digest$}  {:owner$}  {}", row[0], row[1], row[2], row[3]);
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn find(args: &OneArgs) -> Result<(Store, StoredImage), AnyError> {
    let reference = match args.image.parse::<Digest>() {
        Ok(digest) => ImageRef::Digest(digest),
        Err(_) => ImageRef::Name(ImageName::new(args.image.as_str())?),
    };
    let directory = &args.store.data_dir;
    let store = Store::open(directory)?;
    let image = store.get(&Owner::Operator, &reference)?;
    let absent =
        || format!("there is no image {} in {}: see bulkhead image list", args.image, directory.display());
    let image = image.ok_or_else(absent)?;
    Ok((store, image))
}

fn show(args: &OneArgs) -> Result<(), AnyError> {
    let (_, image) = find(args)?;
    if args.store.json {
        let value = serde_json::json!({
            "digest": image.digest, "names": image.names, "size": image.meta.size(),
            "public": image.meta.public, "private": image.meta.private, "config": image.meta.config,
        });
        return print(&serde_json::to_string_pretty(&value)?);
    }
    let config = &image.meta.config;
    let names = image.names.iter().map(ImageName::as_str).collect::<Vec<_>>().join(" ");
    let mut lines = vec![
        format!("digest      {}", image.digest),
        format!("names       {names}"),
        format!("size        {}", indicatif::HumanBytes(image.meta.size())),
        format!("entrypoint  {:?}", config.entrypoint),
        format!("command     {:?}", config.cmd),
        format!("user        {}", config.user),
        format!("directory   {}", config.working_dir),
    ];
    lines.extend(config.env.iter().map(|variable| format!("env         {variable}")));
    print(&lines.join("\n"))
}

fn delete(args: &OneArgs) -> Result<(), AnyError> {
    let (store, image) = find(args)?;
    store.delete(&Owner::Operator, image.digest)?;
    if args.store.json {
        return print(&serde_json::to_string(&serde_json::json!({ "deleted": image.digest }))?);
    }
    print(&image.digest.to_string())
}

/// A line on standard output; a reader who has seen enough is no error.
fn print(text: &str) -> Result<(), AnyError> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
