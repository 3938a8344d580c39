//! A real PostgreSQL for tests: one cluster per test binary, a database per test. For the tests of this workspace.
//!
//! The cluster ends with the process that made it, however that ends: a shell beside it waits for the end of a pipe
//! and then stops the cluster and removes its files.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use bulkhead_types::{Digest, ImageName, ImageRef, JobId, JobSpec, TenantId};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::OnceCell;

use crate::cluster::PrivateCluster;
use crate::{DatabaseUrls, Leader, NewJob, PoolSizes, SecretKey, Store, migrate};

static CLUSTER: OnceCell<TestCluster> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The migrated database that others are copied from.
const TEMPLATE: &str = "template_bulkhead";

/// Waits for the end of its input, then removes a cluster: first argument the directory.
const KEEPER: &str = r#"
cat >/dev/null
pid=$(head -n 1 "$1/postgres/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
    kill -QUIT "$pid" 2>/dev/null
    tries=0
    while kill -0 "$pid" 2>/dev/null && [ $tries -lt 500 ]; do sleep 0.02; tries=$((tries + 1)); done
fi
rm -rf "$1"
"#;

struct TestCluster {
    urls: DatabaseUrls,
    superuser: sqlx::postgres::PgConnectOptions,
    _keeper: Keeper,
}

/// A directory, with whatever PostgreSQL runs in it, that is gone after the process.
pub struct Keeper {
    directory: PathBuf,
    child: Child,
}

impl Keeper {
    /// A new directory under the system's temporary one, which an unprivileged PostgreSQL can reach.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(name: &str) -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("bulkhead-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory for the test's PostgreSQL");
        let child = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not in the terminal's group: a Ctrl-C that ends the test must not end what tidies up after it.
            .process_group(0)
            .spawn()
            .expect("a shell that tidies up");
        Self { directory, child }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(mut input) = self.child.stdin.take() {
            let _ = input.flush();
        }
        let _ = self.child.wait();
    }
}

async fn test_cluster() -> &'static TestCluster {
    let make = || async {
        let keeper = Keeper::new("test-postgres");
        let cluster = PrivateCluster::start(keeper.path()).await.expect("PostgreSQL starts");
        let superuser = cluster.superuser("postgres");
        let mut connection = superuser.connect().await.expect("connects");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {TEMPLATE} OWNER bulkhead_owner")))
            .execute(&mut connection)
            .await
            .expect("template");
        connection.close().await.expect("closes");
        let urls = cluster.urls();
        migrate(&urls.with_database(TEMPLATE)).await.expect("migrates");
        TestCluster { urls, superuser, _keeper: keeper }
    };
    CLUSTER.get_or_init(make).await
}

/// A migrated database of one's own.
///
/// # Panics
/// If PostgreSQL can't be started or refuses.
pub async fn test_database() -> DatabaseUrls {
    let cluster = test_cluster().await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let mut connection = cluster.superuser.connect().await.expect("connects");
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER bulkhead_owner")))
        .execute(&mut connection)
        .await
        .expect("a database for the test");
    connection.close().await.expect("closes");
    cluster.urls.with_database(&name)
}

/// A store on a database of its own, with few connections.
///
/// # Panics
/// If PostgreSQL can't be started or refuses.
pub async fn test_store() -> Store {
    connect(&test_database().await).await
}

/// The superuser of the test's cluster, on the database of `urls`: for tests that look beneath the policies.
///
/// # Panics
/// If PostgreSQL can't be started.
pub async fn superuser_of(urls: &DatabaseUrls) -> sqlx::postgres::PgConnectOptions {
    let database = urls.owner().get_database().expect("a test's database has a name");
    test_cluster().await.superuser.clone().database(database)
}

/// Another store on the same database, as another control process has.
///
/// # Panics
/// If PostgreSQL refuses.
pub async fn connect(urls: &DatabaseUrls) -> Store {
    let sizes = PoolSizes { service: 4, scheduler: 4 };
    Store::connect(urls, SecretKey::new(&[42; 32]), sizes).await.expect("connects")
}

/// A leader that has not asked for the lock.
///
/// # Panics
/// If PostgreSQL can't be reached.
pub async fn rival_leader(store: &Store) -> Leader {
    Leader::rival(store.fleet()).await.expect("connects")
}

/// A tenant that exists.
///
/// # Panics
/// If PostgreSQL refuses.
pub async fn test_tenant(store: &Store, name: &str) -> TenantId {
    let tenant = TenantId::new(name).expect("a valid tenant id");
    store.fleet().tenant_create(&tenant, &crate::NewTenant::named(name), None).await.expect("creates");
    tenant
}

/// A small valid description.
///
/// # Panics
/// Never.
pub fn example_spec() -> JobSpec {
    JobSpec::new(ImageRef::Name(ImageName::new("demo").expect("valid")), vec!["/bin/true".into()])
}

/// A new job of that description.
pub fn new_job(spec: JobSpec) -> NewJob {
    NewJob { id: JobId::generate(), spec, image_digest: Digest::from_bytes([1; 32]), refusal: None }
}
