//! Operators' requests, and what tidies up.

use std::time::Duration;

use bulkhead_types::{Digest, ImageName, TenantId, Timestamp};

use super::FleetStore;
use super::queue::micros;
use crate::content::{BlobRow, ImageRow, NewImage, image_put, is_storage_quota};
use crate::records::{BlobRecord, ImageRecord, TenantRecord, digest, from_db, parse, to_db};
use crate::requests::{RequestKey, request_claim};
use crate::sql::content::fleet as content_sql;
use crate::sql::tenants as sql;
use crate::{MAX_PAGE, StoreError};

/// A tenant to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTenant {
    /// For people.
    pub display_name: String,
    /// Share of the fleet relative to other tenants: above 0, at most 1,000.
    pub weight: f64,
    /// Most jobs that wait or run at once: 1 to 1,000,000.
    pub max_active_jobs: u64,
    /// Most that blobs and images have together, in bytes: 1 to 16 TiB.
    pub max_stored_bytes: u64,
}

impl NewTenant {
    /// Weight 1, 10,000 jobs and 16 GiB.
    pub fn named(display_name: impl Into<String>) -> Self {
        Self {
            display_name: display_name.into(),
            weight: 1.0,
            max_active_jobs: 10_000,
            max_stored_bytes: 16 << 30,
        }
    }
}

impl FleetStore {
    /// Creates a tenant. With a `request` that was seen before: the tenant of then.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`], [`StoreError::RequestIdReused`].
    #[tracing::instrument(skip_all, fields(tenant = %id))]
    pub async fn tenant_create(
        &self,
        id: &TenantId,
        tenant: &NewTenant,
        request: Option<&RequestKey>,
    ) -> Result<TenantRecord, StoreError> {
        let mut tx = self.pool.begin().await?;
        if let Some(request) = request {
            let first = request_claim(&mut tx, "", request, id.as_str()).await?;
            if first.is_some() {
                drop(tx);
                return self.tenant_get(id).await;
            }
        }
        let row: Option<TenantRow> = sqlx::query_as(sql::TENANT_INSERT)
            .bind(id.as_str())
            .bind(&tenant.display_name)
            .bind(tenant.weight)
            .bind(to_db(tenant.max_active_jobs))
            .bind(to_db(tenant.max_stored_bytes))
            .fetch_optional(&mut *tx)
            .await?;
        let exists = || StoreError::AlreadyExists { what: "tenant", name: id.to_string() };
        let record = row.ok_or_else(exists)?.into_record()?;
        tx.commit().await?;
        Ok(record)
    }

    /// A tenant.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    #[tracing::instrument(skip_all, fields(tenant = %id))]
    pub async fn tenant_get(&self, id: &TenantId) -> Result<TenantRecord, StoreError> {
        let row: Option<TenantRow> =
            sqlx::query_as(sql::TENANT_GET).bind(id.as_str()).fetch_optional(&self.pool).await?;
        row.ok_or_else(|| StoreError::not_found("tenant", id))?.into_record()
    }

    /// A page of tenants by id, after `after`.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn tenant_list(
        &self,
        page_size: u32,
        after: Option<&TenantId>,
    ) -> Result<Vec<TenantRecord>, StoreError> {
        let rows: Vec<TenantRow> = sqlx::query_as(sql::TENANT_LIST)
            .bind(after.map_or("", TenantId::as_str))
            .bind(i64::from(page_size.clamp(1, MAX_PAGE)))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(TenantRow::into_record).collect()
    }

    /// Shares an image with all tenants, under a name.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all, fields(name = %image.name))]
    pub async fn image_share(&self, image: &NewImage) -> Result<ImageRecord, StoreError> {
        let mut connection = self.pool.acquire().await?;
        image_put(&mut connection, "", image).await.map_err(StoreError::from)?.into_record()
    }

    /// An image that the operator shares, if there is one of that name.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all, fields(%name))]
    pub async fn image_shared(&self, name: &ImageName) -> Result<Option<ImageRecord>, StoreError> {
        let row: Option<ImageRow> = sqlx::query_as(crate::sql::content::IMAGE_BY_NAME)
            .bind(name.as_str())
            .bind("")
            .fetch_optional(&self.pool)
            .await?;
        row.map(ImageRow::into_record).transpose()
    }

    /// Forgets the name of an image that the operator shares. A repeated `request` succeeds again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::RequestIdReused`].
    #[tracing::instrument(skip_all, fields(%name))]
    pub async fn image_unshare(
        &self,
        name: &ImageName,
        request: Option<&RequestKey>,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        if let Some(request) = request {
            let first = request_claim(&mut tx, "", request, name.as_str()).await?;
            if first.is_some() {
                return Ok(());
            }
        }
        let row: Option<ImageRow> = sqlx::query_as(crate::sql::content::IMAGE_DELETE)
            .bind("")
            .bind(name.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        row.ok_or_else(|| StoreError::not_found("image", name))?;
        Ok(tx.commit().await?)
    }

    /// Every digest that a name means or that a job needs which has not ended; files of others may go.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn image_digests(&self) -> Result<Vec<Digest>, StoreError> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(content_sql::IMAGE_DIGESTS).fetch_all(&self.pool).await?;
        rows.iter().map(|bytes| digest(bytes)).collect()
    }

    /// Notes a blob that a node uploaded for a tenant's attempt. What a job has printed (`printed`) is never refused:
    /// a tenant that is over its quota by it can't create jobs until it has deleted enough.
    ///
    /// # Errors
    /// [`StoreError::StorageQuota`].
    #[tracing::instrument(skip_all, fields(%tenant, %digest))]
    pub async fn blob_put(
        &self,
        tenant: &TenantId,
        digest: Digest,
        size_bytes: u64,
        printed: bool,
    ) -> Result<BlobRecord, StoreError> {
        let mut tx = self.pool.begin().await?;
        if printed {
            sqlx::query(content_sql::OVER_QUOTA).execute(&mut *tx).await?;
        }
        let put: Result<BlobRow, _> = sqlx::query_as(crate::sql::content::BLOB_PUT)
            .bind(tenant.as_str())
            .bind(&digest.as_bytes()[..])
            .bind(to_db(size_bytes))
            .fetch_one(&mut *tx)
            .await;
        match put {
            Ok(row) => {
                tx.commit().await?;
                row.into_record()
            }
            Err(error) if is_storage_quota(&error) => {
                drop(tx);
                let limit = self.tenant_get(tenant).await?.max_stored_bytes;
                Err(StoreError::StorageQuota { tenant: tenant.clone(), limit })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether any tenant has a blob.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all, fields(%digest))]
    pub async fn blob_is_held(&self, digest: Digest) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar(content_sql::BLOB_IS_HELD).bind(&digest.as_bytes()[..]);
        Ok(query.fetch_one(&self.pool).await?)
    }

    /// A blob of a tenant, for a node that runs the tenant's attempt.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    #[tracing::instrument(skip_all, fields(%tenant, %digest))]
    pub async fn blob_get(&self, tenant: &TenantId, digest: Digest) -> Result<BlobRecord, StoreError> {
        let row: Option<BlobRow> = sqlx::query_as(crate::sql::content::BLOB_GET)
            .bind(tenant.as_str())
            .bind(&digest.as_bytes()[..])
            .fetch_optional(&self.pool)
            .await?;
        row.ok_or_else(|| StoreError::not_found("blob", digest))?.into_record()
    }

    /// Forgets up to `limit` blobs that no job names and nobody has used for `unused_for`. Answers with the digests
    /// that no tenant has any more: their bytes may go.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn blobs_prune(&self, unused_for: Duration, limit: u32) -> Result<Vec<Digest>, StoreError> {
        let rows: Vec<Vec<u8>> = sqlx::query_scalar(content_sql::BLOBS_PRUNE)
            .bind(micros(unused_for))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|bytes| digest(bytes)).collect()
    }

    /// Forgets `request_id`s older than `age` (at least 24 hours in service). Answers with how many.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all)]
    pub async fn requests_prune(&self, age: Duration) -> Result<u64, StoreError> {
        let done = sqlx::query(sql::REQUESTS_PRUNE).bind(micros(age)).execute(&self.pool).await?;
        Ok(done.rows_affected())
    }
}

#[derive(sqlx::FromRow)]
struct TenantRow {
    id: String,
    display_name: String,
    weight: f64,
    max_active_jobs: i64,
    max_stored_bytes: i64,
    stored_bytes: i64,
    created_us: i64,
}

impl TenantRow {
    fn into_record(self) -> Result<TenantRecord, StoreError> {
        Ok(TenantRecord {
            id: parse(&self.id, "tenant")?,
            display_name: self.display_name,
            weight: self.weight,
            max_active_jobs: from_db(self.max_active_jobs),
            max_stored_bytes: from_db(self.max_stored_bytes),
            stored_bytes: from_db(self.stored_bytes),
            created: Timestamp::from_micros(self.created_us),
        })
    }
}
