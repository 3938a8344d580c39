//! The statements that run all the time use indexes, also when the history is long.

use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};

use crate::testing::{superuser_of, test_database};

/// As many ended jobs as a busy day leaves, and a queue.
const FILL: &str = "
    INSERT INTO tenants (id, display_name) SELECT 't' || n, '' FROM generate_series(1, 20) n;
    INSERT INTO jobs (id, tenant, state, spec, inline_bytes, image_digest, labels, priority, memory_bytes, cpu_milli,
        disk_bytes, run_limit_ms, max_attempts, retry_on_lost, retry_on_failure, ended_us)
    SELECT gen_random_uuid(), 't' || 1 + n % 20, CASE WHEN n % 20 = 0 THEN 'QUEUED' ELSE 'SUCCEEDED' END, '{}', '{}',
        decode(repeat('00', 32), 'hex'), '{}', 1, 1, 1, 1, 1, 1, true, false,
        CASE WHEN n % 20 = 0 THEN NULL ELSE now_us() END
    FROM generate_series(1, 20000) n;
    INSERT INTO leases (job, tenant, attempt, token, node, memory_bytes, cpu_milli, disk_bytes, expires_us,
        deadline_us, progress_us)
    SELECT id, tenant, 1, 1, 'n' || hashtext(id::text) % 50, 1, 1, 1, now_us() + 1000000000, now_us() + 1000000000, 0
    FROM jobs WHERE state <> 'QUEUED' LIMIT 5000;
    ANALYZE";

async fn explain(connection: &mut PgConnection, statement: &str, arguments: &str) -> String {
    let prepare = format!("PREPARE explained AS {statement}");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *connection).await.expect("prepares");
    let explain = format!("EXPLAIN EXECUTE explained ({arguments})");
    let lines: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.expect("explains");
    sqlx::raw_sql("DEALLOCATE explained").execute(&mut *connection).await.expect("deallocates");
    lines.join("\n")
}

#[tokio::test]
async fn the_queue_and_the_leases_are_read_through_indexes() {
    let urls = test_database().await;
    let mut superuser = superuser_of(&urls).await.connect().await.expect("connects");
    sqlx::raw_sql(FILL).execute(&mut superuser).await.expect("fills");
    let mut scheduler = urls.scheduler().connect().await.expect("connects");

    let some = "ARRAY[gen_random_uuid(), gen_random_uuid()]";
    let claim = format!("{some}, ARRAY['n1', 'n1'], ARRAY[1, 1], 1, 1, 'QUEUED', 'LEASED'");
    let reject = format!("{some}, ARRAY['', ''], 'QUEUED', 'REJECTED'");
    let renew = format!("'n1', {some}, ARRAY[1, 1], 1, ARRAY[1, 1], ARRAY[1, 1], ARRAY[1, 1]");
    let cases = [
        ("QUEUE_HEADS", super::queue::QUEUE_HEADS, "8", "jobs_queue"),
        ("CLAIM", super::queue::CLAIM, claim.as_str(), "jobs_pkey"),
        ("REJECT", super::queue::REJECT, reject.as_str(), "jobs_pkey"),
        ("LEASES_RENEW", super::leases::LEASES_RENEW, renew.as_str(), "leases_pkey"),
        ("LEASES_OVERDUE", super::leases::LEASES_OVERDUE, "10", "leases_expires"),
        ("LEASES_OF_NODE", super::leases::LEASES_OF_NODE, "'n1'", "leases_node"),
        ("JOBS_LOCK", super::leases::JOBS_LOCK, some, "jobs_pkey"),
    ];
    for (name, statement, arguments, index) in cases {
        let plan = explain(&mut scheduler, statement, arguments).await;
        assert!(plan.contains(index), "{name} does not use {index}:\n{plan}");
        assert!(!plan.contains("Seq Scan on jobs"), "{name} reads all jobs:\n{plan}");
    }
    let mut service = urls.service().connect().await.expect("connects");
    sqlx::raw_sql("SELECT set_config('bulkhead.tenant', 't1', false)")
        .execute(&mut service)
        .await
        .expect("sets");
    for (arguments, index) in
        [("NULL, NULL, NULL, 50, 't1'", "jobs_list"), ("NULL, ARRAY['QUEUED'], NULL, 50, 't1'", "Index Scan")]
    {
        let plan = explain(&mut service, super::jobs::JOB_LIST, arguments).await;
        assert!(plan.contains(index) && !plan.contains("Seq Scan on jobs"), "{plan}");
    }
}
