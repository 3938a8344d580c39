//! Indexes, manifests and configurations that promise something else than there is.

use bulkhead_image::archive::{ArchiveError, ArchiveKind};

use crate::archives::{Oci, Tar, sha256};
use crate::load;

fn layer(name: &str) -> Vec<u8> {
    Tar::new().file(name, b"content").end()
}

fn oci() -> Oci {
    Oci::new(vec![layer("a"), layer("b")])
}

#[test]
fn a_layout_is_read_with_its_configuration() {
    let loaded = load(&oci().archive()[..]).unwrap();
    assert_eq!(loaded.imported.kind, ArchiveKind::Oci);
    assert_eq!(loaded.paths(), ["a", "b"]);
    let config = &loaded.imported.config;
    assert_eq!(
        (&config.entrypoint[..], &config.cmd[..]),
        (&["/entry".to_owned()][..], &["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("app", "/w"));
    for compressed in [zstd::encode_all(&layer("c")[..], 3).unwrap(), layer("c")] {
        let diff_ids =
            format!(r#","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, sha256(&layer("c")));
        let mut oci = Oci::new(vec![compressed]);
        oci.config = oci.config.strip_suffix('}').unwrap().to_owned() + &diff_ids;
        assert_eq!(load(&oci.archive()[..]).unwrap().paths(), ["c"]);
    }
}

#[test]
fn forged_blobs_are_found() {
    let good = oci().archive();
    // Every blob by turns, changed without its length.
    let text = String::from_utf8_lossy(&good);
    let names = text.match_indices("blobs/sha256/").map(|(at, _)| text[at + 13..at + 77].to_owned());
    let names = names.collect::<Vec<_>>();
    assert_eq!(names.len(), 4);
    for name in names {
        let at = good.windows(64).position(|bytes| bytes == name.as_bytes()).unwrap() - 13;
        let mut bad = good.clone();
        // A byte of the blob that leaves JSON and tar headers as they are: of the file's text, or of a string.
        let blob = at + 512;
        let from = bad[blob..]
            .windows(7)
            .position(|bytes| bytes == b"content" || bytes == b"PATH=/b" || bytes == b"applica");
        bad[blob + from.unwrap()] ^= 1;
        let error = load(&bad[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Digest { .. }), "{name}: {error}");
    }
}

#[test]
fn wrong_descriptions_are_told() {
    let description = |oci: Oci| load(&oci.archive()[..]).unwrap_err();
    let mut other = oci();
    other.platform = r#"{"architecture":"arm64","os":"linux"}"#;
    let error = description(other).to_string();
    assert!(error.contains("linux/arm64") && error.contains("linux/amd64"), "{error}");
    let configs = [
        "not json",
        "\"text\"",
        r#"{"architecture":"arm64","os":"linux"}"#,
        r#"{"os":"windows"}"#,
        r#"{"config":{"Env":["=x"]}}"#,
        r#"{"config":{"WorkingDir":"relative"}}"#,
        r#"{"config":{"Cmd":["nul\u0000"]}}"#,
        r#"{"rootfs":{"diff_ids":["sha256:00"]}}"#,
        r#"{"rootfs":{"diff_ids":["sha256:00","sha256:00"]}}"#,
    ];
    for config in configs {
        let error = description(Oci { config: config.into(), ..oci() });
        assert!(matches!(error, ArchiveError::Description { .. }), "{config}: {error}");
    }
    let zeros = "0".repeat(64);
    let config = format!(r#"{{"rootfs":{{"diff_ids":["sha256:{zeros}","sha256:{zeros}"]}}}}"#);
    assert!(matches!(description(Oci { config, ..oci() }), ArchiveError::Digest { .. }));
    let encrypted = Oci { media_type: "application/vnd.oci.image.layer.v1.tar+encrypted", ..oci() };
    assert!(matches!(description(encrypted), ArchiveError::Unsupported { .. }));
}

#[test]
fn indexes_that_are_no_use_are_told() {
    let with = |index: &str| {
        let tar = Tar::new().file("oci-layout", b"{}").file("index.json", index.as_bytes()).end();
        load(&tar[..]).unwrap_err()
    };
    let digest = "a".repeat(64);
    let cases = [
        "{}".to_owned(),
        r#"{"manifests":[]}"#.into(),
        r#"{"manifests":[{"digest":"sha256:xyz","size":1}]}"#.into(),
        format!(r#"{{"manifests":[{{"digest":"sha256:{digest}","size":1}}]}}"#),
        format!(r#"{{"manifests":[{{"digest":"sha256:{digest}","size":-1}}]}}"#),
        "[".repeat(100_000),
    ];
    for case in cases {
        assert!(
            matches!(with(&case), ArchiveError::Description { .. }),
            "{}: {}",
            &case[..40.min(case.len())],
            with(&case)
        );
    }
    let sha512 = r#"{"manifests":[{"digest":"sha512:aa","size":1}]}"#;
    assert!(matches!(with(sha512), ArchiveError::Unsupported { .. }));
}

#[test]
fn docker_archives_old_and_new() {
    let config = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"]}}"#;
    let name = sha256(config);
    let manifest = format!(
        r#"[{{"Config":"{name}.json","RepoTags":["x:1"],"Layers":["one/layer.tar","two/layer.tar"]}}]"#
    );
    let archive = |config: &[u8], manifest: &str| {
        Tar::new()
            .file("one/layer.tar", &layer("a"))
            // Older versions link to a layer that another image has too.
            .symlink("two/layer.tar", "../three/layer.tar")
            .file("three/layer.tar", &layer("b"))
            .file("repositories", b"{}")
            .entry(b'0', format!("{name}.json").as_bytes(), b"", 0o644, config)
            .file("manifest.json", manifest.as_bytes())
            .end()
    };
    let loaded = load(&archive(config, &manifest)[..]).unwrap();
    assert_eq!(loaded.imported.kind, ArchiveKind::Docker);
    assert_eq!(loaded.paths(), ["a", "b"]);
    assert_eq!(loaded.imported.config.cmd, ["/bin/sh"]);
    let forged = archive(&config.to_ascii_uppercase(), &manifest);
    assert!(matches!(load(&forged[..]).unwrap_err(), ArchiveError::Digest { .. }));
    let several =
        format!("[{0},{1}]", &manifest[1..manifest.len() - 1], r#"{"Config":"other.json","Layers":[]}"#);
    for bad in [
        several.as_str(),
        "[]",
        r#"[{"Config":"none.json","Layers":[]}]"#,
        r#"[{"Config":"repositories","Layers":["none"]}]"#,
    ] {
        let error = load(&archive(config, bad)[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Description { .. }), "{bad}: {error}");
    }
    // Names that lead out of the archive lead nowhere.
    let out = r#"[{"Config":"../../etc/passwd","Layers":[]}]"#;
    assert!(matches!(load(&archive(config, out)[..]).unwrap_err(), ArchiveError::Path { .. }));
    // A root file system may have a file of that name.
    let root = Tar::new().file("manifest.json", b"{\"name\": \"my app\"}").file("bin/sh", b"").end();
    assert_eq!(load(&root[..]).unwrap().imported.kind, ArchiveKind::Root);
}
