//! CreateJob: from a description to a job that is queued, or REJECTED at once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead_image::{ImageConfig, ImageMeta};
use bulkhead_placement::{KNOWN_FOR, Need, Node, Snapshot, WaitingJob, plan};
use bulkhead_proto::v1::CreateJobRequest;
use bulkhead_store::{JobRecord, NewJob, NodeRecord, RequestKey, StoreError};
use bulkhead_types::{Backend, Content, ImageRef, JobId, JobSpec, TenantId, Timestamp};
use tokio::sync::Mutex;

use super::Service;
use crate::auth::Caller;
use crate::convert;
use crate::error::ApiError;

/// How long the list of known nodes is good for: a job that is too large for a node that came within this time is
/// rejected a moment later by the scheduler instead.
const NODES_FRESH: Duration = Duration::from_secs(1);
/// Most nodes whose reasons for lacking a backend are told.
const REASONS: usize = 3;
/// Most nodes that are looked at.
const MAX_NODES: u32 = 1000;

/// The nodes that could get jobs, as of a moment ago.
#[derive(Default)]
pub(super) struct KnownNodes(Mutex<Option<(Instant, Arc<Vec<NodeRecord>>)>>);

impl KnownNodes {
    async fn get(&self, service: &Service) -> Result<Arc<Vec<NodeRecord>>, ApiError> {
        let mut known = self.0.lock().await;
        if let Some((when, nodes)) = &*known
            && when.elapsed() < NODES_FRESH
        {
            return Ok(nodes.clone());
        }
        let now = now();
        let mut nodes = service.store.fleet().node_list(MAX_NODES, None).await?;
        nodes.retain(|node| now.since(node.last_heartbeat) < KNOWN_FOR);
        let nodes = Arc::new(nodes);
        *known = Some((Instant::now(), nodes.clone()));
        Ok(nodes)
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Creates the job, or answers with the one that the same request created before.
pub(super) async fn create(
    service: &Service,
    known: &KnownNodes,
    caller: &Caller,
    request: CreateJobRequest,
) -> Result<JobRecord, ApiError> {
    let tenant = convert::parent(&request.parent)?;
    caller.works_for(&tenant, "tenant", &request.parent)?;
    let spec = convert::job_spec(request.spec)?;
    let key = service.bodies.request("CreateJob", &request.request_id, || {
        // Sorted maps and a fixed order of fields: the same description has the same text.
        serde_json::to_vec(&spec).unwrap_or_default()
    })?;
    let refused = match create_new(service, known, &tenant, spec, key.as_ref()).await {
        Err(refused) => refused,
        created => return created,
    };
    // What the job needs may have gone since the same request created it.
    if let Some(key) = &key
        && let Some(first) = service.store.job_of_request(&tenant, key).await?
    {
        return Ok(first);
    }
    Err(refused)
}

async fn create_new(
    service: &Service,
    known: &KnownNodes,
    tenant: &TenantId,
    spec: JobSpec,
    key: Option<&RequestKey>,
) -> Result<JobRecord, ApiError> {
    let nodes = known.get(service).await?;
    check_backend(spec.backend, &nodes)?;
    // No image goes between its resolution and the row that keeps it.
    let _content = service.content.read().await;
    let image = service.store.image_resolve(tenant, &spec.image).await.map_err(unknown_image(&spec.image))?;
    check_command(&spec, &image.config)?;
    let refusal = refusal(tenant, &spec, &nodes);
    let job = NewJob { id: JobId::generate(), spec, image_digest: image.digest, refusal };
    let blobs = blob_fields(&job.spec);
    service.store.job_create(tenant, job, key).await.map_err(|error| match error {
        StoreError::BlobNotFound { digest } => {
            let named = blobs.iter().find(|(_, other)| *other == digest);
            let field = named.map_or("spec", |(field, _)| field);
            ApiError::field(field, format!("the blob {digest} does not exist; upload it first"))
        }
        other => other.into(),
    })
}

fn check_backend(backend: Backend, nodes: &[NodeRecord]) -> Result<(), ApiError> {
    let name = backend.runs_on();
    if backend != Backend::Microvm || nodes.iter().any(|node| node.offered(name).is_some()) {
        return Ok(());
    }
    let of_node = |node: &NodeRecord| {
        let why = node.offers.iter().find(|offer| offer.name == name)?.unavailable.as_deref()?;
        Some(format!("{} says: {why}", node.id))
    };
    let said: Vec<String> = nodes.iter().filter_map(of_node).take(REASONS).collect();
    let why = match (nodes, said.as_slice()) {
        ([], _) => "no node is known".to_owned(),
        (_, []) => "none of the nodes has it".to_owned(),
        _ => said.join("; "),
    };
    Err(ApiError::BackendUnavailable { backend: "MICROVM", why })
}

fn unknown_image(image: &ImageRef) -> impl FnOnce(StoreError) -> ApiError {
    let (field, text) = match image {
        ImageRef::Name(name) => ("spec.image_name", name.to_string()),
        ImageRef::Digest(digest) => ("spec.image_digest", digest.to_string()),
    };
    move |error| match error {
        StoreError::NotFound { .. } => {
            ApiError::field(field, format!("unknown image {text}: import it first, or see ListImages"))
        }
        other => other.into(),
    }
}

/// There must be something to run: the job's command or the image's.
fn check_command(spec: &JobSpec, image: &serde_json::Value) -> Result<(), ApiError> {
    if !spec.argv.is_empty() {
        return Ok(());
    }
    let config = config_of(image)?;
    if config.entrypoint.is_empty() && config.cmd.is_empty() {
        return Err(ApiError::field(
            "spec.argv",
            "a command is needed: the image has no entrypoint and no command",
        ));
    }
    Ok(())
}

/// The configuration in what the database keeps of an image.
pub(super) fn config_of(image: &serde_json::Value) -> Result<ImageConfig, ApiError> {
    let meta: ImageMeta = serde_json::from_value(image.clone()).map_err(ApiError::internal)?;
    Ok(meta.config)
}

/// Why no known node could ever hold the job; none if one could, or none is known.
fn refusal(tenant: &TenantId, spec: &JobSpec, nodes: &[NodeRecord]) -> Option<String> {
    let job = WaitingJob {
        job: JobId::generate(),
        tenant: tenant.clone(),
        weight: 1.0,
        priority: spec.priority,
        need: Need {
            memory_bytes: spec.limits.memory_bytes,
            cpu_milli: spec.limits.cpu_milli,
            disk_bytes: spec.node_disk_bytes(),
        },
        backend: spec.backend,
        avoid: Vec::new(),
        created: now(),
    };
    let empty = |node: &NodeRecord| Node {
        node: node.id.clone(),
        capacity: node.capacity,
        overhead: node.overhead,
        microvm: node.offered(Backend::Microvm.runs_on()),
        used_memory_bytes: 0,
        used_cpu_milli: 0,
        used_disk_bytes: 0,
        used_sandboxes: 0,
        available: true,
    };
    let nodes = nodes.iter().map(empty).collect();
    let snapshot = Snapshot { queue: vec![job], nodes, ..Default::default() };
    plan(&snapshot, now()).reject.pop().map(|reject| reject.reason)
}

/// The blobs that a description names, with the fields that name them.
fn blob_fields(spec: &JobSpec) -> Vec<(String, bulkhead_types::Digest)> {
    let mut fields = Vec::new();
    if let Some(Content::Blob(digest)) = spec.stdin {
        fields.push(("spec.stdin.blob_digest".to_owned(), digest));
    }
    for (index, file) in spec.input_files.iter().enumerate() {
        if let Content::Blob(digest) = file.content {
            fields.push((format!("spec.input_files[{index}].content.blob_digest"), digest));
        }
    }
    for (index, archive) in spec.input_archives.iter().enumerate() {
        fields.push((format!("spec.input_archives[{index}].blob_digest"), archive.blob));
    }
    fields
}
