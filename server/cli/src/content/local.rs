//! `bulkhead image` without a server: the images of the local store, which `serve` shares with all tenants.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use bulkhead_image::{Archive, ConvertLimits, Converter, ImageRow, Owner, Store, StoredImage};
use bulkhead_types::{Digest, ImageName, ImageRef};
use indicatif::{ProgressBar, ProgressStyle};

pub(super) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Makes an image of an archive, of a directory, or of standard input (-), for the operator.
pub(super) fn import(
    data_dir: &Path,
    source: &Path,
    name: Option<&ImageName>,
    json: bool,
) -> Result<(), AnyError> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "importing an image needs root: the archive is read by a process with a host uid of its own"
                .into(),
        );
    }
    let store = Store::open(data_dir)?;
    let converter = Converter::find()?;
    let add = |archive: Archive<'_>| {
        store.import(&Owner::Operator, name, archive, &converter, &ConvertLimits::default())
    };
    let image = if source == Path::new("-") {
        let bar = progress(None);
        add(Archive::Stream(&mut bar.wrap_read(io::stdin())))?
    } else if source.is_dir() {
        add(Archive::Directory(source))?
    } else {
        let opened = File::open(source);
        let file = opened.map_err(|error| format!("can't open {}: {error}", source.display()))?;
        if io::stderr().is_terminal() {
            let bar = progress(Some(file.metadata()?.len()));
            add(Archive::Stream(&mut bar.wrap_read(file)))?
        } else {
            add(Archive::File(file))?
        }
    };
    if json {
        let rows = image.rows();
        let named = rows.iter().find(|row| row.name.as_ref() == name).or(rows.first());
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

/// Lists the images of everybody.
pub(super) fn list(data_dir: &Path, json: bool) -> Result<(), AnyError> {
    let rows = Store::open(data_dir)?.list()?.iter().flat_map(StoredImage::rows).collect::<Vec<_>>();
    if json {
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

fn find(directory: &Path, image: &str) -> Result<(Store, StoredImage), AnyError> {
    let reference = match image.parse::<Digest>() {
        Ok(digest) => ImageRef::Digest(digest),
        Err(_) => ImageRef::Name(ImageName::new(image)?),
    };
    let store = Store::open(directory)?;
    let found = store.get(&Owner::Operator, &reference)?;
    let absent = || format!("there is no image {image} in {}: see bulkhead image list", directory.display());
    Ok((store, found.ok_or_else(absent)?))
}

/// Shows an image: its digest, files and defaults.
pub(super) fn get(data_dir: &Path, image: &str, json: bool) -> Result<(), AnyError> {
    let (_, image) = find(data_dir, image)?;
    if json {
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

/// Deletes an image and all its names; running sandboxes keep it until they end.
pub(super) fn delete(data_dir: &Path, image: &str, json: bool) -> Result<(), AnyError> {
    let (store, image) = find(data_dir, image)?;
    store.delete(&Owner::Operator, image.digest)?;
    if json {
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
