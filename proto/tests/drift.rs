//! The checked-in generated code is what the .proto files say.

use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

const PUBLIC: [&str; 6] = ["job", "blob", "image", "tenant", "node", "version"];
const GENERATED: [&str; 3] = ["bulkhead.v1.rs", "bulkhead.worker.v1.rs", "descriptors.bin"];

fn generate(into: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let public: Vec<PathBuf> =
        PUBLIC.iter().map(|name| root.join(format!("bulkhead/v1/{name}.proto"))).collect();
    let descriptors = protox::compile(&public, [&root]).expect("the public .proto files compile");
    fs::write(into.join("descriptors.bin"), descriptors.encode_to_vec()).expect("descriptors are written");
    let mut all = public;
    all.push(root.join("bulkhead/worker/v1/worker.proto"));
    let descriptors = protox::compile(&all, [&root]).expect("the .proto files compile");
    tonic_prost_build::configure()
        .out_dir(into)
        .codec_path("crate::codec::MessageCodec")
        .compile_fds(descriptors)
        .expect("code is generated");
}

/// The Python client builds its messages from the same descriptors.
#[test]
fn the_python_client_has_the_same_descriptors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let want = fs::read(root.join("src/gen/descriptors.bin")).expect("checked in");
    let copy = root.join("../clients/python/src/bulkhead/descriptors.bin");
    if env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&copy, &want).expect("written");
    }
    let have = fs::read(&copy).unwrap_or_default();
    assert!(want == have, "{} is stale: run this test again with UPDATE_GENERATED=1", copy.display());
}

#[test]
fn generated_code_matches_the_protos() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    let update = env::var_os("UPDATE_GENERATED").is_some();
    let fresh = tempfile::tempdir().expect("temporary directory");
    generate(fresh.path());
    for name in GENERATED {
        let want = fs::read(fresh.path().join(name)).expect("generated");
        if update {
            fs::write(checked_in.join(name), &want).expect("written");
        }
        let have = fs::read(checked_in.join(name)).unwrap_or_default();
        assert!(
            want == have,
            "{name} is stale: run UPDATE_GENERATED=1 cargo test --release -p bulkhead-proto --test drift"
        );
    }
}
