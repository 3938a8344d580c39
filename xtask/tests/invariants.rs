//! The invariants that the dependency graph and the manifests show (README, "Invariants").

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// What may not be linked by what runs beside tenants' code.
const FORBIDDEN_IN_SANDBOX: [&str; 3] = ["tokio", "tonic", "sqlx"];
const SANDBOX_SIDE: [&str; 7] = [
    "bulkhead-sentry",
    "bulkhead-platform",
    "bulkhead-jail",
    "bulkhead-wire",
    "bulkhead-erofs",
    "bulkhead-vmm",
    "bulkhead-guest",
];
/// The only crates that may hold `unsafe`.
const MAY_BE_UNSAFE: [&str; 4] = ["bulkhead-guest", "bulkhead-jail", "bulkhead-platform", "bulkhead-vmm"];

struct Graph {
    /// Package id to name.
    names: BTreeMap<String, String>,
    /// Package id to the ids of its ordinary dependencies.
    edges: BTreeMap<String, Vec<String>>,
    /// Workspace packages: name, id and manifest.
    members: Vec<(String, String, String)>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("cargo metadata has {key}"))
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn graph() -> Graph {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let members: BTreeSet<&str> =
        items(&metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    let packages = items(&metadata, "packages");
    let names = packages.iter().map(|p| (text(p, "id").to_owned(), text(p, "name").to_owned())).collect();
    let own = packages.iter().filter(|p| members.contains(text(p, "id")));
    let members = own
        .map(|p| (text(p, "name").to_owned(), text(p, "id").to_owned(), text(p, "manifest_path").to_owned()))
        .collect();
    let edges = items(&metadata["resolve"], "nodes").iter().map(|node| {
        let ordinary = items(node, "deps")
            .iter()
            .filter(|dep| items(dep, "dep_kinds").iter().any(|kind| kind["kind"].is_null()))
            .map(|dep| text(dep, "pkg").to_owned());
        (text(node, "id").to_owned(), ordinary.collect())
    });
    Graph { names, edges: edges.collect(), members }
}

impl Graph {
    /// The names of everything that a package links.
    fn links(&self, id: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                todo.extend(self.edges.get(id).into_iter().flatten().map(String::as_str));
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }

    fn direct(&self, id: &str) -> BTreeSet<&str> {
        self.edges[id].iter().map(|id| self.names[id].as_str()).collect()
    }
}

#[test]
fn nothing_beside_tenants_code_links_the_service() {
    let graph = graph();
    for name in SANDBOX_SIDE {
        let member = graph.members.iter().find(|(member, ..)| member == name);
        let (_, id, _) = member.unwrap_or_else(|| panic!("{name} is in the workspace"));
        let links = graph.links(id);
        for forbidden in FORBIDDEN_IN_SANDBOX {
            assert!(!links.contains(forbidden), "{name} links {forbidden}");
        }
    }
}

#[test]
fn sql_is_only_in_the_store_and_workers_never_reach_it() {
    let graph = graph();
    for (name, id, _) in &graph.members {
        if name != "bulkhead-store" {
            assert!(!graph.direct(id).contains("sqlx"), "{name} uses sqlx");
        }
        if name == "bulkhead-daemon" || name == "bulkhead-sandbox" {
            assert!(!graph.links(id).contains("bulkhead-store"), "{name} links the store");
        }
    }
}

#[test]
fn placement_does_no_io() {
    let graph = graph();
    let (_, id, _) = graph.members.iter().find(|(name, ..)| name == "bulkhead-placement").expect("a member");
    let allowed = BTreeSet::from(["bulkhead-types", "thiserror"]);
    let direct = graph.direct(id);
    assert!(direct.is_subset(&allowed), "placement may use {allowed:?}, but uses {direct:?}");
}

#[test]
fn placement_reads_no_clock() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scheduler/placement/src");
    for entry in fs::read_dir(&sources).expect("placement's sources") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("readable");
            for clock in ["Instant::now", "SystemTime::now", "std::fs", "std::net", "std::thread"] {
                assert!(!source.contains(clock), "{} uses {clock}", path.display());
            }
        }
    }
}

/// The compiler enforces `unsafe_code = "forbid"` where the workspace's lints hold; this shows where they do.
#[test]
fn unsafe_is_only_where_it_is_listed() {
    for (name, _, manifest) in graph().members {
        let text = fs::read_to_string(&manifest).expect("a manifest");
        let inherits = text.contains("[lints]\nworkspace = true");
        if MAY_BE_UNSAFE.contains(&name.as_str()) {
            assert!(
                text.contains("undocumented_unsafe_blocks = \"deny\""),
                "{name} must prove each unsafe block"
            );
        } else {
            assert!(inherits, "{manifest} does not inherit the workspace's lints, which forbid unsafe");
        }
    }
}
