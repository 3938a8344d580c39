use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_client::v1;
use bulkhead_server::identity::{Authority, KeyDirectory};
use bulkhead_types::NodeId;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::print;
use crate::settings::Settings;

/// Nodes of one page, at most what the service gives.
const PAGE: i32 = 500;

/// List and drain nodes, and make credentials for new ones
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum NodeCommand {
    /// List nodes: their condition, capacity and what is promised
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Place no new jobs on a node; running ones end by themselves
    Drain {
        /// The node
        node: NodeId,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Place jobs on a node again
    Undrain {
        /// The node
        node: NodeId,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the certificate with which a worker on another machine joins; needs the service's data directory
    Credentials {
        /// The node
        node: NodeId,
        /// Directory for authority.pem, node.pem and node.key.pem: keep it secret, and give it to
        /// `bulkhead worker --identity`
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

pub(crate) async fn node(args: NodeArgs, settings: &Settings) -> Result<ExitCode, Failure> {
    match args.command {
        NodeCommand::List { json } => list(settings, json).await?,
        NodeCommand::Drain { node, json } => {
            let node = settings.client()?.drain_node(&format!("nodes/{node}")).await?;
            show(&node, json)?;
        }
        NodeCommand::Undrain { node, json } => {
            let node = settings.client()?.undrain_node(&format!("nodes/{node}")).await?;
            show(&node, json)?;
        }
        NodeCommand::Credentials { node, out } => {
            let failed =
                |e: bulkhead_server::identity::IdentityError| Failure::of("can't make credentials", &e);
            let keys = KeyDirectory::open(&settings.data_dir).map_err(failed)?;
            Authority::open_or_create(&keys).map_err(failed)?.write_node(&node, &out).map_err(failed)?;
            print::line(&out.display().to_string())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(settings: &Settings, json: bool) -> Result<(), Failure> {
    let client = settings.client()?;
    let mut nodes = Vec::new();
    let mut request = v1::ListNodesRequest { page_size: PAGE, ..Default::default() };
    loop {
        let page = client.list_nodes(&request).await?;
        nodes.extend(page.nodes);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if json {
        return print::json(&Value::Array(nodes.iter().map(crate::json::node).collect()));
    }
    let rows: Vec<_> = nodes.iter().map(row).collect();
    print::table(&["NODE", "CONDITION", "RUNNING", "MEMORY", "PROMISED", "CPU", "BACKENDS"], &rows)
}

fn row(node: &v1::Node) -> Vec<String> {
    vec![
        node.name.clone(),
        node.condition().as_str_name().to_owned(),
        node.running_attempts.to_string(),
        print::bytes(node.memory_bytes),
        print::bytes(node.promised_memory_bytes),
        format!("{} of {} milli", node.promised_cpu_milli, node.cpu_milli),
        node.backends.join(","),
    ]
}

fn show(node: &v1::Node, json: bool) -> Result<(), Failure> {
    if json {
        return print::json(&json!(crate::json::node(node)));
    }
    print::line(&format!("{} {}", node.name, node.condition().as_str_name()))
}
