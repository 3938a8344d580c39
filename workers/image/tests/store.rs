//! The store: names, owners, leftovers, damage, and images that come from elsewhere.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod archives;

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use archives::{Oci, Opened, Tar};
use bulkhead_image::archive::ArchiveError;
use bulkhead_image::{
    Archive, ConvertError, ConvertLimits, Converter, ImageConfig, ImageMeta, Owner, Store, StoreError,
    StoredImage,
};
use bulkhead_types::{ImageName, ImageRef, TenantId};

fn converter() -> Converter {
    Converter::at(env!("CARGO_BIN_EXE_bulkhead-convert"))
}

fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

fn tenant(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

fn by_name(text: &str) -> ImageRef {
    ImageRef::Name(name(text))
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: store: the converter needs root");
    }
    root
}

fn import(store: &Store, owner: &Owner, image: &str, archive: &[u8]) -> Result<StoredImage, StoreError> {
    let mut archive = Cursor::new(archive.to_vec());
    let limits = ConvertLimits { max_bytes: 64 << 20, ..ConvertLimits::default() };
    store.import(owner, Some(&name(image)), Archive::Stream(&mut archive), &converter(), &limits)
}

fn archive(text: &str) -> Vec<u8> {
    let secret = Tar::new().entry(b'0', b"etc/shadow", b"", 0o600, text.as_bytes());
    secret.file("etc/passwd", text.as_bytes()).end()
}

#[test]
fn an_image_is_its_owners_and_the_operators_are_everybodys() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (a, b) = (tenant("a"), tenant("b"));
    let shared = import(&store, &Owner::Operator, "base", &archive("shared")).unwrap();
    let own = import(&store, &Owner::Tenant(a.clone()), "base", &archive("own")).unwrap();
    assert_eq!(store.find(&a, &by_name("base")).unwrap().unwrap().digest, own.digest);
    assert_eq!(store.find(&b, &by_name("base")).unwrap().unwrap().digest, shared.digest);
    // Knowing a digest grants nothing.
    assert!(store.find(&b, &ImageRef::Digest(own.digest)).unwrap().is_none());
    assert!(store.find(&a, &ImageRef::Digest(shared.digest)).unwrap().is_some());
    assert_eq!(store.list().unwrap().len(), 2);
    // The same image of another owner is stored, and goes, by itself.
    let copy = import(&store, &Owner::Tenant(b.clone()), "mine", &archive("own")).unwrap();
    assert_eq!((copy.digest, copy.public_path() == own.public_path()), (own.digest, false));
    assert!(store.delete(&Owner::Tenant(a), own.digest).unwrap());
    assert_eq!(Opened::new(&copy).text("etc/passwd").unwrap(), "own");
}

#[test]
fn files_belong_to_root_and_private_ones_to_nobody_else() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = import(&store, &Owner::Operator, "x", &archive("text")).unwrap();
    let mode = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.uid(), meta.permissions().mode() & 0o7777)
    };
    assert_eq!(mode(&image.public_path()), (0, 0o644));
    assert_eq!(mode(&image.private_path().unwrap()), (0, 0o600));
    assert_eq!(Opened::new(&image).text("etc/shadow").unwrap(), "text");
    let without = import(&store, &Owner::Operator, "y", &Tar::new().file("a", b"b").end()).unwrap();
    assert_eq!(without.private_path(), None);
    let files = fs::read_dir(without.public_path().parent().unwrap()).unwrap().count();
    assert_eq!(files, 2);
}

#[test]
fn names_move_and_go_with_their_image() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let owner = Owner::Operator;
    let first = import(&store, &owner, "x", &archive("1")).unwrap();
    let second = import(&store, &owner, "x", &archive("2")).unwrap();
    assert_eq!(store.get(&owner, &by_name("x")).unwrap().unwrap().digest, second.digest);
    assert_eq!(store.get(&owner, &ImageRef::Digest(first.digest)).unwrap().unwrap().names, []);
    store.set_name(&owner, &name("y"), second.digest).unwrap();
    let again = import(&store, &owner, "z", &archive("2")).unwrap();
    assert_eq!(again.names, [name("x"), name("y"), name("z")]);
    let rows = store.list().unwrap().iter().flat_map(StoredImage::rows).collect::<Vec<_>>();
    let json = serde_json::to_value(&rows).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 4);
    assert_eq!(json[1]["name"], "x");
    assert!(store.delete(&owner, second.digest).unwrap());
    assert!(!store.delete(&owner, second.digest).unwrap());
    assert!(store.get(&owner, &by_name("y")).unwrap().is_none());
    let absent = store.set_name(&owner, &name("y"), second.digest);
    assert!(matches!(absent, Err(StoreError::NotFound { .. })));
    assert_eq!(fs::read_dir(dir.path().join("images/tmp")).unwrap().count(), 0);
}

#[test]
fn what_dead_makers_left_goes_and_living_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let living = store.stage(&Owner::Operator).unwrap();
    let tmp = dir.path().join("images/tmp");
    for dead in ["1-2-3", "no-lock"] {
        fs::create_dir(tmp.join(dead)).unwrap();
        fs::write(tmp.join(dead).join("public.erofs"), b"half").unwrap();
    }
    fs::write(tmp.join("1-2-3/lock"), b"").unwrap();
    Store::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 1);
    drop(living);
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn an_image_from_elsewhere_must_be_what_it_is_called() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let here = Store::open(&dir.path().join("here")).unwrap();
    let there = Store::open(&dir.path().join("there")).unwrap();
    let image = import(&here, &Owner::Operator, "x", &archive("text")).unwrap();
    let description = image.meta.to_json();
    let meta = ImageMeta::from_json(description.as_bytes()).unwrap();
    assert_eq!(meta.digest(), image.digest);
    let receive = |spoil: bool, private: bool| {
        let stage = there.stage(&Owner::Operator).unwrap();
        let mut public = fs::read(image.public_path()).unwrap();
        public[5000] ^= u8::from(spoil);
        stage.public().write_all(&public).unwrap();
        if private {
            stage.private().write_all(&fs::read(image.private_path().unwrap()).unwrap()).unwrap();
        }
        stage.commit_as(&meta, None)
    };
    assert!(matches!(receive(true, true), Err(StoreError::WrongFile { file: "public" })));
    assert!(matches!(receive(false, false), Err(StoreError::WrongFile { file: "private" })));
    assert!(there.list().unwrap().is_empty());
    let copy = receive(false, true).unwrap();
    assert_eq!(copy.digest, image.digest);
    assert_eq!(Opened::new(&copy).text("etc/shadow").unwrap(), "text");
}

#[test]
fn a_damaged_image_is_told_left_out_and_replaced() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = import(&store, &Owner::Operator, "x", &archive("1")).unwrap();
    File::options().write(true).open(image.public_path()).unwrap().set_len(4096).unwrap();
    assert!(matches!(store.get(&Owner::Operator, &by_name("x")), Err(StoreError::Damaged { .. })));
    assert!(store.list().unwrap().is_empty());
    let image = import(&store, &Owner::Operator, "x", &archive("1")).unwrap();
    assert_eq!(Opened::new(&image).text("etc/passwd").unwrap(), "1");
    fs::write(image.public_path().with_file_name("image.json"), b"{}").unwrap();
    assert!(matches!(store.get(&Owner::Operator, &by_name("x")), Err(StoreError::Damaged { .. })));
    assert!(store.delete(&Owner::Operator, image.digest).unwrap());
}

#[test]
fn a_refused_archive_changes_nothing() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let bad = Tar::new().file("../x", b"").end();
    let error = import(&store, &Owner::Operator, "x", &bad).unwrap_err();
    assert!(
        matches!(error, StoreError::Convert(ConvertError::Archive(ArchiveError::Path { .. }))),
        "{error}"
    );
    let mut forged = Oci::new(vec![Tar::new().file("a", b"").end()]);
    forged.config = "{\"config\":{\"Env\":[\"=\"]}}".into();
    assert!(import(&store, &Owner::Operator, "x", &forged.archive()).is_err());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("images/tmp")).unwrap().count(), 0);
}

/// A stream that breaks off.
struct Broken(Cursor<Vec<u8>>);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            count => Ok(count),
        }
    }
}

#[test]
fn a_broken_stream_is_an_error_even_behind_a_whole_archive() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut stream = Broken(Cursor::new(archive("1")));
    let limits = ConvertLimits::default();
    let result = store.import(&Owner::Operator, None, Archive::Stream(&mut stream), &converter(), &limits);
    assert!(matches!(result, Err(StoreError::Convert(ConvertError::Stream(_)))));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_converter_that_hits_its_limits_is_told_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let many = (0..50_000).fold(Tar::new(), |tar, number| tar.file(&format!("file-{number}"), b"")).end();
    let run = |limits: ConvertLimits| {
        let mut stream = Cursor::new(many.clone());
        store.import(&Owner::Operator, None, Archive::Stream(&mut stream), &converter(), &limits)
    };
    let limits = ConvertLimits { memory_bytes: 16 << 20, ..ConvertLimits::default() };
    let error = run(limits).unwrap_err();
    assert!(matches!(error, StoreError::Convert(ConvertError::Died { .. })), "{error}");
    let limits = ConvertLimits { max_bytes: 1 << 20, ..ConvertLimits::default() };
    let error = run(limits).unwrap_err();
    assert!(
        matches!(error, StoreError::Convert(ConvertError::Archive(ArchiveError::TooMuch { .. }))),
        "{error}"
    );
    assert!(run(ConvertLimits::default()).is_ok());
    assert_eq!(fs::read_dir(dir.path().join("images/tmp")).unwrap().count(), 0);
    let nothing = Converter::at("/no/such/program");
    let result = store.import(
        &Owner::Operator,
        None,
        Archive::Stream(&mut io::empty()),
        &nothing,
        &ConvertLimits::default(),
    );
    assert!(matches!(result, Err(StoreError::Convert(ConvertError::Start(_)))));
    assert_eq!(ImageConfig::default().validate(), Ok(()));
}

/// An archive of so many empty files with names of 80 bytes, a thousand in each directory.
struct Many {
    files: u32,
    made: u32,
    buffer: Cursor<Vec<u8>>,
}

impl Read for Many {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.buffer.position() == self.buffer.get_ref().len() as u64 && self.made < self.files {
            let mut tar = Tar::new();
            for number in self.made..self.made + 1000 {
                tar = tar.file(&format!("{:040}/{number:039}", number / 1000), b"");
            }
            self.made += 1000;
            self.buffer = Cursor::new(if self.made < self.files { tar.0 } else { tar.end() });
        }
        self.buffer.read(buffer)
    }
}

#[test]
fn as_many_files_as_are_allowed_fit_into_the_converter() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    // The bound counts the 998 directories too.
    let mut many = Many { files: 998_000, made: 0, buffer: Cursor::default() };
    // Half of what it gets by default.
    let limits = ConvertLimits { memory_bytes: 1 << 30, ..ConvertLimits::default() };
    let image =
        store.import(&Owner::Operator, None, Archive::Stream(&mut many), &converter(), &limits).unwrap();
    let opened = Opened::new(&image);
    assert_eq!(opened.public.inode_count(), 998_000 + 998 + 1);
    assert!(opened.at(&format!("{:040}/{:039}", 997, 997_999)).is_some());
}
