//! Row-level security is a wall of its own: these tests are the service's role, without the service's checks.

use bulkhead_store::testing::{
    connect, example_spec, new_job, rival_leader, superuser_of, test_database, test_tenant,
};
use bulkhead_store::{
    AttemptEnd, AttemptStart, Claim, DatabaseUrls, EndReport, NewImage, OutputAppend, RequestKey, Store,
};
use bulkhead_types::{Digest, EnvVar, ImageName, JobId, NodeId, OutputStream, TenantId};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use std::time::Duration;

/// Tables whose rows belong to a tenant, with the column that says so.
const TENANT_TABLES: [(&str, &str); 9] = [
    ("tenants", "id"),
    ("request_ids", "tenant"),
    ("blobs", "tenant"),
    ("images", "owner"),
    ("jobs", "tenant"),
    ("job_events", "tenant"),
    ("attempts", "tenant"),
    ("output_streams", "tenant"),
    ("output_chunks", "tenant"),
];

async fn count(connection: &mut PgConnection, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await.expect(query)
}

async fn refused(connection: &mut PgConnection, statement: &str) -> String {
    let error = sqlx::query(AssertSqlSafe(statement)).execute(connection).await.expect_err(statement);
    error.to_string()
}

async fn act_for(connection: &mut PgConnection, tenant: &str) {
    sqlx::query("SELECT set_config('bulkhead.tenant', $1, false)")
        .bind(tenant)
        .execute(connection)
        .await
        .expect("sets");
}

/// A tenant with a row in every table.
async fn furnish(store: &Store, tenant: &TenantId, fill: u8) -> JobId {
    let node = NodeId::new("node-1").expect("valid");
    let digest = Digest::from_bytes([fill; 32]);
    store.blob_put(tenant, digest, 1).await.expect("blob");
    let name = ImageName::new("own").expect("valid");
    let image = NewImage { name, digest, size_bytes: 1, config: serde_json::json!({}) };
    store.image_put(tenant, &image, None).await.expect("image");
    let request = RequestKey { method: "CreateJob", request_id: "r".into(), body_sha256: [1; 32] };
    let mut spec = example_spec();
    spec.env.push(EnvVar { name: "TOKEN".into(), value: "hunter2-nonce".into(), secret: true });
    let job = store.job_create(tenant, new_job(spec), Some(&request)).await.expect("job").id;
    let mut leader = rival_leader(store).await;
    let claims = [Claim { job, node: node.clone(), memory_bytes: 1 }];
    let claimed =
        leader.claim(&claims, Duration::from_secs(60), Duration::from_secs(60)).await.expect("claims");
    let key = claimed[0].key;
    let chunk = OutputAppend {
        node: &node,
        key,
        stream: OutputStream::Stdout,
        offset: 0,
        bytes: b"private",
        flush: true,
    };
    store.fleet().output_append(chunk).await.expect("output");
    let start = AttemptStart { node, key, age: Duration::ZERO };
    store.fleet().attempts_write(&[start], &[]).await.expect("starts");
    job
}

async fn two_tenants() -> (DatabaseUrls, Store, JobId) {
    let urls = test_database().await;
    let store = connect(&urls).await;
    let (acme, other) = (test_tenant(&store, "acme").await, test_tenant(&store, "other").await);
    furnish(&store, &acme, 1).await;
    let victim = furnish(&store, &other, 2).await;
    (urls, store, victim)
}

#[tokio::test]
async fn the_service_role_sees_one_tenant_and_nothing_without_one() {
    let (urls, _store, _) = two_tenants().await;
    let mut superuser = superuser_of(&urls).await.connect().await.expect("superuser");
    let mut service = urls.service().connect().await.expect("service");
    for (table, column) in TENANT_TABLES {
        let both = count(&mut superuser, &format!("SELECT count(DISTINCT {column}) FROM {table}")).await;
        assert_eq!(both, 2, "{table} holds rows of both tenants");
        act_for(&mut service, "acme").await;
        let others = format!("SELECT count(*) FROM {table} WHERE {column} <> 'acme'");
        assert_eq!(count(&mut service, &others).await, 0, "{table}");
        assert!(count(&mut service, &format!("SELECT count(*) FROM {table}")).await > 0, "{table}");
        for nobody in ["", "nobody"] {
            act_for(&mut service, nobody).await;
            assert_eq!(count(&mut service, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
        }
    }
    let mut fresh = urls.service().connect().await.expect("service");
    assert_eq!(count(&mut fresh, "SELECT count(*) FROM jobs").await, 0, "without any setting");
}

#[tokio::test]
async fn the_service_role_changes_nothing_of_another_tenant() {
    let (urls, _store, victim) = two_tenants().await;
    let mut service = urls.service().connect().await.expect("service");
    act_for(&mut service, "acme").await;
    for statement in [
        format!("UPDATE jobs SET reason = 'stolen' WHERE id = '{victim}'"),
        format!("UPDATE jobs SET cancel_requested_us = 1 WHERE id = '{victim}'"),
        format!("DELETE FROM jobs WHERE id = '{victim}'"),
        "DELETE FROM images WHERE owner = 'other'".into(),
        "UPDATE blobs SET last_used_us = 0 WHERE tenant = 'other'".into(),
        "UPDATE tenants SET stored_bytes = 0 WHERE id = 'other'".into(),
    ] {
        let done =
            sqlx::query(AssertSqlSafe(statement.as_str())).execute(&mut service).await.expect(&statement);
        assert_eq!(done.rows_affected(), 0, "{statement}");
    }
    for statement in [
        "INSERT INTO blobs (tenant, digest, size_bytes) VALUES ('other', decode(repeat('09', 32), 'hex'), 1)"
            .into(),
        "INSERT INTO images (owner, name, digest, size_bytes, config)
            VALUES ('', 'shared', decode(repeat('09', 32), 'hex'), 1, '{}')"
            .into(),
        format!(
            "INSERT INTO job_events (job, seq, tenant, state, attempt, reason)
            VALUES ('{victim}', 99, 'other', 'FAILED', 0, '')"
        ),
        "UPDATE images SET owner = 'other' WHERE owner = 'acme'".into(),
    ] {
        let said = refused(&mut service, &statement).await;
        assert!(said.contains("row-level security"), "{statement}: {said}");
    }
    // Not its business at all.
    for statement in [
        "SELECT * FROM leases",
        "SELECT * FROM nodes",
        "UPDATE jobs SET token = 99",
        "UPDATE jobs SET tenant = 'acme'",
        "UPDATE attempts SET state = 'SUCCEEDED'",
        "INSERT INTO tenants (id, display_name) VALUES ('x', '')",
        "UPDATE tenants SET weight = 1000",
        "UPDATE tenants SET max_stored_bytes = 1000",
        "DELETE FROM request_ids",
        "TRUNCATE jobs",
        "SET ROLE bulkhead_scheduler",
        "SET ROLE bulkhead_owner",
        "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine (x int)",
    ] {
        let said = refused(&mut service, statement).await;
        assert!(said.contains("permission denied") || said.contains("must be owner"), "{statement}: {said}");
    }
    // Naming the victim's blob in one's own job does not open it.
    let named = "INSERT INTO job_blobs (job, tenant, digest)
        SELECT id, 'other', decode(repeat('02', 32), 'hex') FROM jobs";
    assert!(refused(&mut service, named).await.contains("row-level security"));
}

#[tokio::test]
async fn the_roles_own_nothing_and_every_table_is_walled() {
    let (urls, _store, _) = two_tenants().await;
    let mut owner = urls.owner().connect().await.expect("owner");
    let powers = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'bulkhead_%'
        AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)";
    assert_eq!(count(&mut owner, powers).await, 0);
    let owned = "SELECT count(*) FROM pg_class WHERE relowner IN
        (SELECT oid FROM pg_roles WHERE rolname IN ('bulkhead_service', 'bulkhead_scheduler'))";
    assert_eq!(count(&mut owner, owned).await, 0);
    let open = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        AND relname <> '_sqlx_migrations' AND NOT (relrowsecurity AND relforcerowsecurity)";
    assert_eq!(count(&mut owner, open).await, 0);
    let public = "SELECT count(*) FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND grantee = 'PUBLIC'";
    assert_eq!(count(&mut owner, public).await, 0);
}

#[tokio::test]
async fn a_url_of_the_owner_alone_gives_the_same_wall() {
    let (urls, _store, _) = two_tenants().await;
    let socket = urls.owner().get_socket().expect("a socket").display().to_string();
    let database = urls.owner().get_database().expect("a database");
    let url = format!("postgres:///{database}?host={socket}&user=bulkhead_owner&port=5432");
    let by_url = DatabaseUrls::from_owner_url(&url).expect("a valid URL");
    bulkhead_store::migrate(&by_url).await.expect("migrating again changes nothing");
    let mut service = by_url.service().connect().await.expect("service");
    let who: String =
        sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut service).await.expect("asks");
    assert_eq!(who, "bulkhead_service");
    act_for(&mut service, "acme").await;
    assert_eq!(count(&mut service, "SELECT count(*) FROM jobs").await, 1);
    service.close().await.expect("closes");
}

#[tokio::test]
async fn a_secret_is_nowhere_in_clear_and_gone_at_the_end() {
    let (urls, store, victim) = two_tenants().await;
    let mut superuser = superuser_of(&urls).await.connect().await.expect("superuser");
    for (table, _) in TENANT_TABLES {
        let found = format!("SELECT count(*) FROM {table} t WHERE t::text LIKE '%hunter2%'");
        assert_eq!(count(&mut superuser, &found).await, 0, "{table}");
        let hex = format!("SELECT count(*) FROM {table} t WHERE t::text LIKE '%68756e746572%'");
        assert_eq!(count(&mut superuser, &hex).await, 0, "{table}, in hexadecimal");
    }
    let sealed = format!("SELECT count(*) FROM jobs WHERE id = '{victim}' AND secrets IS NOT NULL");
    assert_eq!(count(&mut superuser, &sealed).await, 1);
    let other = TenantId::new("other").expect("valid");
    let attempt = &store.job_get(&other, victim).await.expect("gets").attempts[0];
    let key = bulkhead_types::AttemptKey { job: victim, attempt: attempt.attempt, token: attempt.token };
    for _ in 0..2 {
        let end = AttemptEnd { node: None, key, report: EndReport::Lost("gone".into()) };
        store.fleet().attempts_write(&[], &[end]).await.expect("ends");
    }
    assert_eq!(count(&mut superuser, &sealed).await, 1, "it waits for another attempt, which needs them");
    store.job_cancel(&other, victim, None).await.expect("cancels");
    assert_eq!(count(&mut superuser, &sealed).await, 0);
}

#[tokio::test]
async fn an_ended_job_stays_as_it_ended_whatever_a_statement_says() {
    let (urls, store, _) = two_tenants().await;
    let acme = TenantId::new("acme").expect("valid");
    let job = store.job_create(&acme, new_job(example_spec()), None).await.expect("creates").id;
    store.job_cancel(&acme, job, None).await.expect("cancels");
    let mut superuser = superuser_of(&urls).await.connect().await.expect("superuser");
    let said = refused(&mut superuser, &format!("UPDATE jobs SET state = 'QUEUED' WHERE id = '{job}'")).await;
    assert!(said.contains("has ended as CANCELLED"), "{said}");
}
