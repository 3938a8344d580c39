use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_types::TenantId;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool, PgTransaction};

use crate::fleet::FleetStore;
use crate::notify::Notifier;
use crate::roles::{SCHEDULER_ROLE, SERVICE_ROLE, ensure_roles};
use crate::{SecretKey, StoreError};

/// The forward-only migrations of `migrations/`.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// How long a call waits for a connection of the pool before it is [`StoreError::Unavailable`].
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is asked whether it lives before it is used: less than any restart of the
/// database takes, so that one that has died with it is never handed out; busy ones save the round trip.
const FRESH: Duration = Duration::from_millis(100);

/// How to reach one database as each of the three roles.
#[derive(Debug, Clone)]
pub struct DatabaseUrls {
    owner: PgConnectOptions,
    service: PgConnectOptions,
    scheduler: PgConnectOptions,
}

impl DatabaseUrls {
    /// From the URL of the owner: the service's connections log in as the owner and become the unprivileged
    /// roles at once.
    ///
    /// # Errors
    /// [`StoreError::Database`] if the URL can't be parsed.
    pub fn from_owner_url(url: &str) -> Result<Self, StoreError> {
        let owner: PgConnectOptions = url.parse().map_err(StoreError::Database)?;
        let as_role = |role: &str| owner.clone().options([("role", role)]);
        Ok(Self { service: as_role(SERVICE_ROLE), scheduler: as_role(SCHEDULER_ROLE), owner })
    }

    /// The private cluster: each role logs in by itself on the socket in `directory`.
    pub(crate) fn from_socket(directory: &Path, owner: &str, database: &str) -> Self {
        let login = |role: &str| {
            PgConnectOptions::new_without_pgpass()
                .socket(directory)
                .port(crate::cluster::PORT)
                .username(role)
                .database(database)
        };
        Self { owner: login(owner), service: login(SERVICE_ROLE), scheduler: login(SCHEDULER_ROLE) }
    }

    /// The same server and roles, another database.
    pub fn with_database(&self, database: &str) -> Self {
        Self {
            owner: self.owner.clone().database(database),
            service: self.service.clone().database(database),
            scheduler: self.scheduler.clone().database(database),
        }
    }

    /// Connects as the owner, who migrates. For tests that look beneath the store, too.
    pub fn owner(&self) -> &PgConnectOptions {
        &self.owner
    }

    /// Connects as the role that serves tenants.
    pub fn service(&self) -> &PgConnectOptions {
        &self.service
    }

    /// Connects as the role that sees all tenants.
    pub fn scheduler(&self) -> &PgConnectOptions {
        &self.scheduler
    }
}

/// Most connections of each kind; PostgreSQL pays some MiB for each.
#[derive(Debug, Clone, Copy)]
pub struct PoolSizes {
    /// For tenants' requests.
    pub service: u32,
    /// For the scheduler and operators; one of them listens.
    pub scheduler: u32,
}

impl Default for PoolSizes {
    fn default() -> Self {
        Self { service: 16, scheduler: 12 }
    }
}

/// Makes the roles and applies the migrations, as the owner.
///
/// # Errors
/// [`StoreError::Role`], [`StoreError::Migrate`], or that the database can't be reached.
#[tracing::instrument(skip_all)]
pub async fn migrate(urls: &DatabaseUrls) -> Result<(), StoreError> {
    let mut connection = urls.owner.connect().await?;
    ensure_roles(&mut connection).await?;
    MIGRATOR.run_direct(None, &mut connection, false).await.map_err(StoreError::Migrate)
}

/// The database as tenants' requests see it. Cheap to clone.
///
/// Every method takes the tenant first, runs as the role `bulkhead_service` in a transaction of that tenant,
/// and answers [`StoreError::NotFound`] for what belongs to another. What spans tenants is in [`FleetStore`].
#[derive(Clone)]
pub struct Store {
    pub(crate) service: PgPool,
    pub(crate) key: Arc<SecretKey>,
    fleet: FleetStore,
}

impl Store {
    /// Makes the pools; connections are made when needed, and made again when the database restarts.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the database can't be reached now.
    pub async fn connect(urls: &DatabaseUrls, key: SecretKey, sizes: PoolSizes) -> Result<Self, StoreError> {
        let pool = |options: &PgConnectOptions, name: &str, size: u32| {
            PgPoolOptions::new()
                .max_connections(size)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(Duration::from_secs(300))
                .test_before_acquire(false)
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        // A connection that does not answer is thrown away and another one taken.
                        Ok(meta.idle_for < FRESH || connection.ping().await.is_ok())
                    })
                })
                .connect_with(options.clone().application_name(name))
        };
        let key = Arc::new(key);
        let service = pool(&urls.service, "bulkhead service", sizes.service).await?;
        let scheduler = pool(&urls.scheduler, "bulkhead scheduler", sizes.scheduler).await?;
        let notifier = Notifier::start(urls.scheduler.clone().application_name("bulkhead listen"));
        let fleet = FleetStore { pool: scheduler, key: key.clone(), notifier };
        Ok(Self { service, key, fleet })
    }

    /// What spans tenants: for the scheduler and for operators' requests, never for a tenant's.
    pub fn fleet(&self) -> &FleetStore {
        &self.fleet
    }

    /// Ends all connections; calls after it fail.
    pub async fn close(&self) {
        self.fleet.notifier.stop();
        self.service.close().await;
        self.fleet.pool.close().await;
    }

    /// Starts a transaction of `tenant`: one round trip.
    pub(crate) async fn begin(&self, tenant: &TenantId) -> Result<PgTransaction<'static>, StoreError> {
        // A TenantId holds only a-z, 0-9, '-', '_' and '.': nothing that ends a literal.
        let begin = format!("BEGIN; SELECT set_config('bulkhead.tenant', '{tenant}', true)");
        Ok(self.service.begin_with(AssertSqlSafe(begin)).await?)
    }
}
