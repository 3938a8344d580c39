//! What operators see and do.

use bulkhead_proto::v1::node::Condition;
use bulkhead_proto::v1::*;
use bulkhead_types::AttemptState;
use tonic::Code;

use super::harness::{Running, assert_field, assert_not_found, reason};
use super::node::{GIB, Node, outcome, register};

#[tokio::test]
async fn tenants_are_created_once_and_listed_in_pages() {
    let running = Running::start().await;
    let operator = running.operator().await;
    let mut tenants = operator.tenants();
    let request_id = uuid::Uuid::new_v4().to_string();
    let create = CreateTenantRequest { tenant_id: "acme".into(), request_id, ..Default::default() };
    let first = tenants.create_tenant(create.clone()).await.expect("created").into_inner();
    assert_eq!((first.name.as_str(), first.weight, first.max_active_jobs), ("tenants/acme", 100, 10_000));
    assert_eq!(tenants.create_tenant(create).await.expect("the first answer").into_inner(), first);
    let again = CreateTenantRequest { tenant_id: "acme".into(), ..Default::default() };
    let status = tenants.create_tenant(again).await.expect_err("exists");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "RESOURCE_EXISTS"));
    for (field, id, tenant) in [
        ("tenant_id", "Acme", Tenant::default()),
        ("tenant_id", "../x", Tenant::default()),
        ("tenant.weight", "b", Tenant { weight: 10_001, ..Default::default() }),
        ("tenant.max_active_jobs", "b", Tenant { max_active_jobs: -1, ..Default::default() }),
        ("tenant.display_name", "b", Tenant { display_name: "x".repeat(1000), ..Default::default() }),
    ] {
        let request =
            CreateTenantRequest { tenant_id: id.into(), tenant: Some(tenant), ..Default::default() };
        assert_field(&tenants.create_tenant(request).await.expect_err("wrong"), field);
    }
    running.tenant("beta").await;
    running.tenant("gamma").await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let page =
            tenants.list_tenants(ListTenantsRequest { page_size: 2, page_token }).await.expect("lists");
        let page = page.into_inner();
        seen.extend(page.tenants.into_iter().map(|tenant| tenant.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["tenants/acme", "tenants/beta", "tenants/gamma"]);
    let get = |name: &str| GetTenantRequest { name: name.into() };
    assert_eq!(tenants.get_tenant(get("tenants/acme")).await.expect("is there").into_inner(), first);
    assert_not_found(&tenants.get_tenant(get("tenants/nobody")).await.expect_err("is not"));
    running.stop().await;
}

#[tokio::test]
async fn a_drained_node_gets_nothing_until_it_is_undrained() {
    let running = Running::start().await;
    let (operator, acme) = (running.operator().await, running.tenant("acme").await);
    let mut node = Node::connect_with(&running, "node-1", register(4 * GIB)).await;
    let drain = DrainNodeRequest { name: "nodes/node-1".into(), ..Default::default() };
    let drained = operator.nodes().drain_node(drain).await.expect("drained").into_inner();
    assert_eq!(drained.condition(), Condition::Draining);
    assert_eq!((drained.memory_bytes, drained.sandbox_overhead_bytes), (4 * GIB, 16 << 20));
    let job = acme.create(|_| {}).await.expect("created");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let waiting = acme.jobs().get_job(GetJobRequest { name: job.name.clone() }).await.expect("reads");
    assert_eq!(waiting.get_ref().state(), State::Queued);
    let undrain = UndrainNodeRequest { name: "nodes/node-1".into(), ..Default::default() };
    operator.nodes().undrain_node(undrain).await.expect("undrained");
    let id = node.lease().await.id.expect("an id");
    node.started(&id).await;
    let list = || async {
        operator.nodes().list_nodes(ListNodesRequest::default()).await.expect("lists").into_inner()
    };
    let busy = &list().await.nodes[0];
    assert_eq!((busy.running_attempts, busy.condition()), (1, Condition::Ready));
    assert_eq!(busy.promised_memory_bytes, (512 << 20) + (16 << 20), "limit and overhead");
    assert!(node.finish(&id, &outcome(AttemptState::Succeeded, 0)).await);
    acme.ended(&job.name).await;
    assert_eq!(list().await.nodes[0].promised_memory_bytes, 0);
    let nowhere = DrainNodeRequest { name: "nodes/nowhere".into(), ..Default::default() };
    assert_not_found(&operator.nodes().drain_node(nowhere).await.expect_err("unknown"));
    running.stop().await;
}
