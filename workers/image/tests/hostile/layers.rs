//! Whiteouts and links over several layers.

use bulkhead_image::archive::ArchiveError;

use crate::archives::{Oci, Tar};
use crate::{Loaded, load};

fn stack(layers: Vec<Tar>) -> Result<Loaded, ArchiveError> {
    load(&Oci::new(layers.into_iter().map(Tar::end).collect()).archive()[..])
}

fn lower() -> Tar {
    Tar::new().file("a", b"lower").file("d/x", b"lower").file("d/sub/y", b"lower").file("d/sub/z", b"lower")
}

#[test]
fn whiteouts_remove_what_is_below_them_only() {
    let loaded = stack(vec![lower(), Tar::new().file(".wh.a", b"").file("d/sub/.wh.y", b"")]).unwrap();
    assert_eq!(loaded.paths(), ["d", "d/sub", "d/sub/z", "d/x"]);
    // Of nothing, or in a directory that is not there: no effect, and nothing is made.
    let loaded = stack(vec![lower(), Tar::new().file(".wh.none", b"").file("no/dir/.wh.x", b"")]).unwrap();
    assert_eq!(loaded.paths(), ["a", "d", "d/sub", "d/sub/y", "d/sub/z", "d/x"]);
    // A whole directory.
    let loaded = stack(vec![lower(), Tar::new().file(".wh.d", b"")]).unwrap();
    assert_eq!(loaded.paths(), ["a"]);
}

#[test]
fn the_order_within_a_layer_does_not_matter() {
    let removes = [".wh.d", "d/.wh..wh..opq"];
    for remove in removes {
        let before = Tar::new().file(remove, b"").file("d/sub/new", b"").file("a", b"new");
        let after = Tar::new().file("d/sub/new", b"").file("a", b"new").file(remove, b"").file(".wh.a", b"");
        for layer in [before, after] {
            let loaded = stack(vec![lower(), layer]).unwrap();
            assert_eq!(loaded.paths(), ["a", "d", "d/sub", "d/sub/new"], "{remove}");
            assert_eq!(loaded.text("a").unwrap(), "new");
        }
    }
    // The next layer removes what the earlier ones have made, the whiteouts' own layer included.
    let loaded = stack(vec![
        lower(),
        Tar::new().file("d/.wh..wh..opq", b"").file("d/new", b""),
        Tar::new().file("d/.wh..wh..opq", b""),
    ]);
    assert_eq!(loaded.unwrap().paths(), ["a", "d"]);
    let loaded = stack(vec![lower(), Tar::new().file(".wh..wh..opq", b"").file("only", b"")]);
    assert_eq!(loaded.unwrap().paths(), ["only"]);
}

#[test]
fn whiteouts_of_nonsense_are_refused_and_notes_left_out() {
    for name in [".wh.", "d/.wh..", ".wh..."] {
        let error = stack(vec![lower(), Tar::new().file(name, b"")]).unwrap_err();
        assert!(matches!(error, ArchiveError::Path { .. }), "{name}: {error}");
    }
    let notes = Tar::new().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", b"").file(".wh..wh.aufs", b"");
    assert_eq!(stack(vec![Tar::new().file("a", b""), notes]).unwrap().paths(), ["a"]);
    // In a plain archive they are names like others.
    let plain = Tar::new().file("a", b"").file(".wh.a", b"").file(".wh..wh..opq", b"").end();
    assert_eq!(load(&plain[..]).unwrap().paths(), [".wh..wh..opq", ".wh.a", "a"]);
}

#[test]
fn whiteouts_stay_within_the_image() {
    let links = Tar::new().file("etc/passwd", b"").symlink("out", "../../etc").file("usr/bin/tool", b"");
    let loaded = stack(vec![
        links.symlink("bin", "usr/bin"),
        Tar::new().file("out/.wh.passwd", b"").file("bin/.wh.tool", b""),
    ]);
    assert_eq!(loaded.unwrap().paths(), ["bin", "etc", "out", "usr", "usr/bin"]);
}

#[test]
fn hard_links_reach_over_layers_and_outlive_their_target() {
    let loaded = stack(vec![
        Tar::new().file("a", b"one"),
        Tar::new().hard_link("b", "a"),
        Tar::new().file("a", b"two").hard_link("c", "a"),
    ])
    .unwrap();
    let text = |path| loaded.text(path).unwrap();
    assert_eq!((text("a"), text("b"), text("c")), ("two".into(), "one".into(), "two".into()));
    let gone = stack(vec![Tar::new().file("a", b""), Tar::new().file(".wh.a", b"").hard_link("b", "a")]);
    assert!(matches!(gone.unwrap_err(), ArchiveError::Placement { .. }));
}

#[test]
fn types_change_between_layers() {
    let loaded = stack(vec![
        Tar::new().file("a/x", b"").symlink("l", "a").file("f", b""),
        Tar::new().file("a", b"file").dir("l").file("f/x", b"").file(".wh.f", b""),
    ]);
    // A file is no directory, even when the layer removes it later.
    assert!(matches!(loaded.unwrap_err(), ArchiveError::Placement { .. }));
    let loaded = stack(vec![
        Tar::new().file("a/x", b"").symlink("l", "a").file("f", b""),
        Tar::new().file("a", b"file").dir("l").dir("f").file("f/x", b""),
    ])
    .unwrap();
    assert_eq!(loaded.paths(), ["a", "f", "f/x", "l"]);
}

#[test]
fn many_opaque_marks_cost_little() {
    let mut layer = Tar::new();
    for number in 0..3000 {
        layer = layer.file(&format!("d/{number}"), b"").file("d/.wh..wh..opq", b"");
    }
    let loaded = stack(vec![lower(), layer]).unwrap();
    assert_eq!(loaded.paths().len(), 3002);
}
