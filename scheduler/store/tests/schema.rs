//! The schema that the migrations make is the one that was reviewed, and no migration that has landed changes.

use std::fmt::Write;
use std::path::Path;

use bulkhead_store::MIGRATOR;
use bulkhead_store::testing::test_database;
use sqlx::{ConnectOptions, PgConnection};

async fn lines(connection: &mut PgConnection, text: &mut String, title: &str, query: &'static str) {
    let rows: Vec<String> = sqlx::query_scalar(query).fetch_all(connection).await.expect(title);
    writeln!(text, "\n# {title}").expect("writes to a string");
    for row in rows {
        writeln!(text, "{row}").expect("writes to a string");
    }
}

async fn describe(connection: &mut PgConnection) -> String {
    let mut text = String::from("# migrations: version, first bytes of the SHA-384 of the file\n");
    for migration in MIGRATOR.iter() {
        let hash: String = migration.checksum.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{} {hash} {}", migration.version, migration.description).expect("writes to a string");
    }
    lines(connection, &mut text, "columns", "SELECT table_name || '.' || column_name || ' ' || udt_name
        || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END || coalesce(' default ' || column_default, '')
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations'
        ORDER BY table_name, ordinal_position").await;
    lines(
        connection,
        &mut text,
        "constraints",
        "SELECT conrelid::regclass || ' ' || conname || ' '
        || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        AND conrelid <> '_sqlx_migrations'::regclass ORDER BY 1",
    )
    .await;
    lines(
        connection,
        &mut text,
        "indexes",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        AND tablename <> '_sqlx_migrations' ORDER BY 1",
    )
    .await;
    lines(connection, &mut text, "policies", "SELECT tablename || ' ' || policyname || ' ' || cmd || ' to '
        || array_to_string(roles, ',') || ' using ' || coalesce(qual, '-') || ' check ' || coalesce(with_check, '-')
        FROM pg_policies WHERE schemaname = 'public' ORDER BY 1").await;
    lines(
        connection,
        &mut text,
        "grants",
        "SELECT relname || ' ' || coalesce(array_to_string(relacl, ' '), '-')
        FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        AND relname <> '_sqlx_migrations' ORDER BY 1",
    )
    .await;
    lines(
        connection,
        &mut text,
        "grants on columns",
        "SELECT attrelid::regclass || '.' || attname || ' '
        || array_to_string(attacl, ' ') FROM pg_attribute WHERE attacl IS NOT NULL
        AND attrelid::regclass::text IN (SELECT tablename FROM pg_tables WHERE schemaname = 'public')
        ORDER BY 1",
    )
    .await;
    lines(
        connection,
        &mut text,
        "triggers",
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        ORDER BY 1",
    )
    .await;
    text
}

/// To accept a new migration, run this test with `BLESS_SCHEMA=1` and review what changes in `tests/schema.txt`.
#[tokio::test]
async fn the_migrated_schema_is_the_reviewed_one() {
    let urls = test_database().await;
    let mut connection = urls.owner().connect().await.expect("owner");
    let found = describe(&mut connection).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema.txt");
    if std::env::var_os("BLESS_SCHEMA").is_some() {
        std::fs::write(&path, &found).expect("writes the reviewed schema");
    }
    let reviewed = std::fs::read_to_string(&path).expect("the reviewed schema");
    for (number, (found, reviewed)) in found.lines().zip(reviewed.lines()).enumerate() {
        assert_eq!(found, reviewed, "line {} of tests/schema.txt; see this test's comment", number + 1);
    }
    assert_eq!(found.lines().count(), reviewed.lines().count());
}
