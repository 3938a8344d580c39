//! Names, links and nodes that lead somewhere else.

use bulkhead_erofs::Content;
use bulkhead_image::archive::ArchiveError;

use crate::archives::Tar;
use crate::load;

#[test]
fn dot_dot_is_refused_wherever_it_is() {
    for path in ["..", "../x", "a/../x", "/../x", "a/..", "./../../etc/passwd"] {
        let error = load(&Tar::new().file(path, b"x").end()[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Path { .. }), "{path}: {error}");
        let error = load(&Tar::new().file("x", b"").hard_link("y", path).end()[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Path { .. }), "link to {path}: {error}");
        let long = Tar::new().pax(&[("path", path.as_bytes())]).file("harmless", b"x").end();
        assert!(matches!(load(&long[..]).unwrap_err(), ArchiveError::Path { .. }), "{path} in a PAX record");
        let long = Tar::new().entry(b'L', b"././@LongLink", b"", 0, path.as_bytes()).file("x", b"x").end();
        assert!(matches!(load(&long[..]).unwrap_err(), ArchiveError::Path { .. }), "{path} as a long name");
    }
}

#[test]
fn absolute_names_are_names_in_the_image() {
    let tar =
        Tar::new().file("/abs/file", b"1").file(".//a//./b", b"2").hard_link("/link", "/abs/file").end();
    let loaded = load(&tar[..]).unwrap();
    assert_eq!(loaded.paths(), ["a", "a/b", "abs", "abs/file", "link"]);
    assert_eq!(loaded.at("link"), loaded.at("abs/file"));
}

#[test]
fn names_that_no_file_can_have_are_refused() {
    let component = "x".repeat(256);
    let deep = vec!["d"; 257].join("/");
    let long = vec!["d".repeat(200); 21].join("/");
    for path in [component.as_bytes(), deep.as_bytes(), long.as_bytes(), b"a\0b"] {
        let tar = Tar::new().pax(&[("path", path)]).file("x", b"").end();
        let error = load(&tar[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Path { .. }), "{error}");
    }
    let fits = vec!["d"; 256].join("/");
    load(&Tar::new().pax(&[("path", fits.as_bytes())]).file("x", b"").end()[..]).unwrap();
}

#[test]
fn links_are_followed_within_the_image_only() {
    let tar = Tar::new()
        .symlink("up", "../../../../etc")
        .symlink("abs", "/etc/deeper/..")
        .dir("etc/deeper")
        .file("up/passwd", b"up")
        .file("abs/group", b"abs")
        .symlink("dangling", "made/here")
        .file("dangling/file", b"made");
    let loaded = load(&tar.end()[..]).unwrap();
    assert_eq!(loaded.text("etc/passwd").unwrap(), "up");
    assert_eq!(loaded.text("etc/group").unwrap(), "abs");
    assert_eq!(loaded.text("made/here/file").unwrap(), "made");
    // The targets themselves are kept as they are: they mean something in the sandbox only.
    assert_eq!(loaded.content("up"), Some(&Content::Symlink(b"../../../../etc"[..].into())));
}

#[test]
fn a_link_is_replaced_not_written_through() {
    let tar = Tar::new().file("target", b"old").symlink("link", "target").file("link", b"new");
    let loaded = load(&tar.end()[..]).unwrap();
    assert_eq!((loaded.text("target").unwrap(), loaded.text("link").unwrap()), ("old".into(), "new".into()));
    let tar = Tar::new().dir("target").file("target/x", b"").symlink("link", "target").dir("link");
    let loaded = load(&tar.end()[..]).unwrap();
    assert_eq!(loaded.paths(), ["link", "target", "target/x"]);
}

#[test]
fn loops_and_files_on_the_way_are_errors() {
    let cases = [
        Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b""),
        Tar::new().symlink("a", "a").file("a/x", b""),
        Tar::new().symlink("a", "./a/a/a").file("a/x", b""),
        Tar::new().file("a", b"").file("a/x", b""),
        Tar::new().entry(b'6', b"a", b"", 0o644, b"").file("a/b/x", b""),
        Tar::new().file(".", b"not a directory"),
    ];
    for (number, tar) in cases.into_iter().enumerate() {
        let error = load(&tar.end()[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Placement { .. }), "{number}: {error}");
    }
}

#[test]
fn hard_links_lead_to_files_that_are_there() {
    let cases = [
        Tar::new().hard_link("x", "/etc/passwd"),
        Tar::new().hard_link("x", "later").file("later", b""),
        Tar::new().hard_link("x", "x"),
        Tar::new().dir("dir").hard_link("x", "dir"),
        Tar::new().hard_link("x", "/"),
        Tar::new().symlink("etc", "/outside").hard_link("x", "etc/passwd"),
    ];
    for (number, tar) in cases.into_iter().enumerate() {
        let error = load(&tar.end()[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Placement { .. }), "{number}: {error}");
    }
    let tar = Tar::new().symlink("s", "nowhere").hard_link("t", "s").file("f", b"1").hard_link("f", "f");
    let loaded = load(&tar.end()[..]).unwrap();
    assert_eq!(loaded.at("s"), loaded.at("t"));
    assert_eq!(loaded.text("f").unwrap(), "1");
}

#[test]
fn the_last_of_several_entries_wins_whatever_it_is() {
    let tar = Tar::new()
        .file("a", b"first")
        .hard_link("kept", "a")
        .file("a", b"second")
        .file("d/x", b"")
        .file("d", b"now a file")
        .entry(b'3', b"n", b"", 0o666, b"")
        .dir("n")
        .file("n/x", b"");
    let loaded = load(&tar.end()[..]).unwrap();
    assert_eq!(loaded.paths(), ["a", "d", "kept", "n", "n/x"]);
    assert_eq!((loaded.text("a").unwrap(), loaded.text("kept").unwrap()), ("second".into(), "first".into()));
    // A directory that comes again keeps what is in it, and gets the new mode.
    let tar = Tar::new().file("d/x", b"").entry(b'5', b"d", b"", 0o700, b"");
    let loaded = load(&tar.end()[..]).unwrap();
    assert_eq!(loaded.paths(), ["d", "d/x"]);
    assert_eq!(loaded.imported.tree.node(loaded.at("d").unwrap()).meta.mode, 0o700);
}

#[test]
fn overlay_notes_and_labels_are_dropped_from_attributes() {
    let tar = Tar::new().pax(&[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("SCHILY.xattr.system.unknown", b""),
        ("SCHILY.xattr.user.", b""),
        ("SCHILY.xattr.user.nul\0", b""),
        ("SCHILY.xattr.security.capability", b"\n\0"),
        ("SCHILY.xattr.user.kept", b"=\n="),
    ]);
    let loaded = load(&tar.file("f", b"").end()[..]).unwrap();
    let xattrs = &loaded.imported.tree.node(loaded.at("f").unwrap()).meta.xattrs;
    let found = xattrs.iter().map(|xattr| (&xattr.name[..], &xattr.value[..])).collect::<Vec<_>>();
    assert_eq!(found, [(&b"security.capability"[..], &b"\n\0"[..]), (b"user.kept", b"=\n=")]);
}
