use std::time::Duration;

use bulkhead_proto::v1::node::Condition;
use bulkhead_proto::v1::node_service_server::NodeService;
use bulkhead_proto::v1::{DrainNodeRequest, ListNodesRequest, ListNodesResponse, Node, UndrainNodeRequest};
use bulkhead_scheduler::IntakeError;
use bulkhead_store::{NodeRecord, NodeUsage};
use bulkhead_types::{NodeId, Timestamp};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::convert::{self, Page, int64};
use crate::error::ApiError;

/// A node that was silent for longer than a lease has lost its attempts.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(30);
/// Nodes that are forgotten by then have no use to show.
const USE_HORIZON: Duration = Duration::from_secs(365 * 86_400);

/// Serves nodes to operators.
pub(crate) struct Nodes(pub(crate) Shared);

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Result<Response<Node>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.drain(&request.name, "DrainNode", &request.request_id, true).await?))
    }

    async fn undrain_node(&self, request: Request<UndrainNodeRequest>) -> Result<Response<Node>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.drain(&request.name, "UndrainNode", &request.request_id, false).await?))
    }
}

impl Nodes {
    async fn list(&self, request: ListNodesRequest) -> Result<ListNodesResponse, ApiError> {
        let page = convert::page(request.page_size, request.page_token)?;
        let after = page.after()?.map(NodeId::new).transpose().map_err(|_| Page::bad_token())?;
        let fleet = self.0.store.fleet();
        let nodes = fleet.node_list(page.size, after.as_ref()).await?;
        let uses = fleet.node_usage(USE_HORIZON).await?;
        let full = nodes.len() >= page.size as usize;
        let last = nodes.last().filter(|_| full).map(|node| convert::page_token(node.id.as_str()));
        let show = |node: NodeRecord| {
            let used = uses.iter().find(|used| used.node.id == node.id);
            message(&node, used)
        };
        Ok(ListNodesResponse {
            nodes: nodes.into_iter().map(show).collect(),
            next_page_token: last.unwrap_or_default(),
        })
    }

    async fn drain(
        &self,
        name: &str,
        method: &'static str,
        request_id: &str,
        draining: bool,
    ) -> Result<Node, ApiError> {
        let node = convert::node_name(name)?;
        let key = self.0.bodies.request(method, request_id, || name.as_bytes().to_vec())?;
        let record = self.0.intake.node_drain(&node, draining, key.as_ref()).await.map_err(refused)?;
        let uses = self.0.store.fleet().node_usage(USE_HORIZON).await?;
        Ok(message(&record, uses.iter().find(|used| used.node.id == node)))
    }
}

/// What the scheduler says of an operator's request.
fn refused(error: IntakeError) -> ApiError {
    match error {
        IntakeError::Store(error) => error.into(),
        other => ApiError::Unavailable { what: "the scheduler", source: Some(other.into()) },
    }
}

fn message(node: &NodeRecord, used: Option<&NodeUsage>) -> Node {
    let now = used.map_or(node.last_heartbeat, |used| used.now);
    Node {
        name: format!("nodes/{}", node.id),
        condition: condition(node, now).into(),
        last_heartbeat_time: Some(convert::timestamp(node.last_heartbeat)),
        memory_bytes: int64(node.capacity.memory_bytes),
        cpu_milli: int64(node.capacity.cpu_milli),
        disk_bytes: int64(node.capacity.disk_bytes),
        promised_memory_bytes: int64(used.map_or(0, |used| used.memory_bytes)),
        promised_cpu_milli: int64(used.map_or(0, |used| used.cpu_milli)),
        running_attempts: used.map_or(0, |used| i32::try_from(used.sandboxes).unwrap_or(i32::MAX)),
        backends: node.backends.iter().map(|backend| backend.to_ascii_lowercase()).collect(),
        version: node.version.clone(),
        sandbox_overhead_bytes: int64(node.overhead.memory_bytes),
    }
}

fn condition(node: &NodeRecord, now: Timestamp) -> Condition {
    if now.since(node.last_heartbeat) > UNREACHABLE_AFTER {
        Condition::Unreachable
    } else if node.draining {
        Condition::Draining
    } else {
        Condition::Ready
    }
}
