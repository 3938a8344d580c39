//! Tenants' requests about blobs and images: which digests a tenant has, not the bytes.

use bulkhead_types::{Digest, ImageName, ImageRef, TenantId, Timestamp};
use sqlx::types::Json;

use crate::error::broken_constraint;
use crate::records::{BlobRecord, ImageRecord, digest, from_db, parse, to_db};
use crate::requests::{RequestKey, request_claim};
use crate::sql::content as sql;
use crate::{MAX_PAGE, Store, StoreError};

/// An image to be registered under a name.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Its name within its owner; a name that exists gets the new digest.
    pub name: ImageName,
    /// Of the EROFS file.
    pub digest: Digest,
    /// Of the EROFS file, in bytes.
    pub size_bytes: u64,
    /// The image's defaults, as the importer writes them.
    pub config: serde_json::Value,
}

/// What a tenant has stored: its blobs, and its images by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// The quota, in bytes.
    pub max_bytes: u64,
    /// What there is, in bytes; more than the quota if jobs have printed it.
    pub stored_bytes: u64,
}

impl Storage {
    /// What may still come, in bytes.
    pub fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(self.stored_bytes)
    }
}

impl Store {
    /// How much the tenant has stored, and how much it may.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the tenant doesn't exist.
    #[tracing::instrument(skip_all, fields(%tenant))]
    pub async fn storage(&self, tenant: &TenantId) -> Result<Storage, StoreError> {
        let mut tx = self.begin(tenant).await?;
        let row: Option<(i64, i64)> = sqlx::query_as(crate::sql::tenants::service::STORAGE)
            .bind(tenant.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let (max, stored) = row.ok_or_else(|| StoreError::not_found("tenant", tenant))?;
        Ok(Storage { max_bytes: from_db(max), stored_bytes: from_db(stored) })
    }

    /// What refused to store something: the quota, or something else.
    async fn refused(&self, tenant: &TenantId, error: sqlx::Error) -> StoreError {
        if broken_constraint(&error) == Some("blobs_tenant_exists") {
            return StoreError::not_found("tenant", tenant);
        }
        if !is_storage_quota(&error) {
            return error.into();
        }
        match self.storage(tenant).await {
            Ok(storage) => StoreError::StorageQuota { tenant: tenant.clone(), limit: storage.max_bytes },
            Err(error) => error,
        }
    }

    /// Notes that the tenant has a blob, or has used it again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the tenant doesn't exist, [`StoreError::StorageQuota`].
    #[tracing::instrument(skip_all, fields(%tenant, %digest))]
    pub async fn blob_put(
        &self,
        tenant: &TenantId,
        digest: Digest,
        size_bytes: u64,
    ) -> Result<BlobRecord, StoreError> {
        let mut tx = self.begin(tenant).await?;
        let put: Result<BlobRow, _> = sqlx::query_as(sql::BLOB_PUT)
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
            Err(error) => {
                drop(tx);
                Err(self.refused(tenant, error).await)
            }
        }
    }

    /// A blob of the tenant.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: also when only others have it.
    #[tracing::instrument(skip_all, fields(%tenant, %digest))]
    pub async fn blob_get(&self, tenant: &TenantId, digest: Digest) -> Result<BlobRecord, StoreError> {
        let mut tx = self.begin(tenant).await?;
        let row: Option<BlobRow> = sqlx::query_as(sql::BLOB_GET)
            .bind(tenant.as_str())
            .bind(&digest.as_bytes()[..])
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        row.ok_or_else(|| StoreError::not_found("blob", digest))?.into_record()
    }

    /// Which of these the tenant lacks, as the error that says so.
    pub(crate) async fn blob_first_missing(
        &self,
        tenant: &TenantId,
        digests: &[Digest],
    ) -> Result<StoreError, StoreError> {
        let wanted: Vec<&[u8]> = digests.iter().map(|digest| &digest.as_bytes()[..]).collect();
        let mut tx = self.begin(tenant).await?;
        let missing: Option<Vec<u8>> = sqlx::query_scalar(sql::BLOBS_MISSING)
            .bind(tenant.as_str())
            .bind(wanted)
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        match missing {
            Some(bytes) => Ok(StoreError::BlobNotFound { digest: digest(&bytes)? }),
            // It came in the meantime.
            None => Ok(StoreError::Unavailable(sqlx::Error::RowNotFound)),
        }
    }

    /// What a reference means to the tenant now: its own image before the operator's.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    #[tracing::instrument(skip_all, fields(%tenant))]
    pub async fn image_resolve(
        &self,
        tenant: &TenantId,
        image: &ImageRef,
    ) -> Result<ImageRecord, StoreError> {
        let mut tx = self.begin(tenant).await?;
        let (row, name): (Option<ImageRow>, String) = match image {
            ImageRef::Name(name) => {
                let query = sqlx::query_as(sql::IMAGE_BY_NAME).bind(name.as_str()).bind(tenant.as_str());
                (query.fetch_optional(&mut *tx).await?, name.to_string())
            }
            ImageRef::Digest(digest) => {
                let bytes = &digest.as_bytes()[..];
                let query = sqlx::query_as(sql::IMAGE_BY_DIGEST).bind(bytes).bind(tenant.as_str());
                (query.fetch_optional(&mut *tx).await?, digest.to_string())
            }
        };
        // Nothing was written: the caller need not wait for its end.
        drop(tx);
        row.ok_or_else(|| StoreError::not_found("image", name))?.into_record()
    }

    /// A page of the images that the tenant can use: the operator's first, then its own, by name. Go on after the
    /// last one (`after`).
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all, fields(%tenant))]
    pub async fn image_list(
        &self,
        tenant: &TenantId,
        page_size: u32,
        after: Option<(Option<TenantId>, ImageName)>,
    ) -> Result<Vec<ImageRecord>, StoreError> {
        let (owner, name) = match &after {
            Some((owner, name)) => (owner.as_ref().map_or("", TenantId::as_str), name.as_str()),
            None => ("", ""),
        };
        let mut tx = self.begin(tenant).await?;
        let rows: Vec<ImageRow> = sqlx::query_as(sql::IMAGE_LIST)
            .bind(tenant.as_str())
            .bind(owner)
            .bind(name)
            .bind(i64::from(page_size.clamp(1, MAX_PAGE)))
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        rows.into_iter().map(ImageRow::into_record).collect()
    }

    /// Registers an image of the tenant. With a `request` that was seen before: the image as it is now.
    ///
    /// # Errors
    /// [`StoreError::RequestIdReused`], [`StoreError::NotFound`] if the tenant doesn't exist or the image of an
    /// earlier request is gone, [`StoreError::StorageQuota`].
    #[tracing::instrument(skip_all, fields(%tenant, name = %image.name))]
    pub async fn image_put(
        &self,
        tenant: &TenantId,
        image: &NewImage,
        request: Option<&RequestKey>,
    ) -> Result<ImageRecord, StoreError> {
        let mut tx = self.begin(tenant).await?;
        let known: Option<bool> = sqlx::query_scalar(crate::sql::tenants::service::TENANT_EXISTS)
            .bind(tenant.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        known.ok_or_else(|| StoreError::not_found("tenant", tenant))?;
        if let Some(request) = request {
            let first = request_claim(&mut tx, tenant.as_str(), request, image.name.as_str()).await?;
            if let Some(first) = first {
                drop(tx);
                return self.image_resolve(tenant, &ImageRef::Name(parse(&first, "image name")?)).await;
            }
        }
        match image_put(&mut tx, tenant.as_str(), image).await {
            Ok(row) => {
                tx.commit().await?;
                row.into_record()
            }
            Err(error) => {
                drop(tx);
                Err(self.refused(tenant, error).await)
            }
        }
    }

    /// Forgets the name of one of the tenant's own images. A repeated `request` succeeds again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: also for the operator's.
    #[tracing::instrument(skip_all, fields(%tenant, %name))]
    pub async fn image_delete(
        &self,
        tenant: &TenantId,
        name: &ImageName,
        request: Option<&RequestKey>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin(tenant).await?;
        if let Some(request) = request {
            let first = request_claim(&mut tx, tenant.as_str(), request, name.as_str()).await?;
            if first.is_some() {
                return Ok(());
            }
        }
        let gone: Option<ImageRow> = sqlx::query_as(sql::IMAGE_DELETE)
            .bind(tenant.as_str())
            .bind(name.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        gone.ok_or_else(|| StoreError::not_found("image", name))?;
        Ok(tx.commit().await?)
    }
}

/// Writes an image of `owner`; the empty one is the operator.
pub(crate) async fn image_put(
    connection: &mut sqlx::PgConnection,
    owner: &str,
    image: &NewImage,
) -> Result<ImageRow, sqlx::Error> {
    sqlx::query_as(sql::IMAGE_PUT)
        .bind(owner)
        .bind(image.name.as_str())
        .bind(&image.digest.as_bytes()[..])
        .bind(to_db(image.size_bytes))
        .bind(Json(&image.config))
        .fetch_one(connection)
        .await
}

/// Whether the tenant's quota of stored bytes has refused.
pub(crate) fn is_storage_quota(error: &sqlx::Error) -> bool {
    broken_constraint(error) == Some("tenants_stored_bytes_quota")
}

#[derive(sqlx::FromRow)]
pub(crate) struct BlobRow {
    digest: Vec<u8>,
    size_bytes: i64,
    created_us: i64,
}

impl BlobRow {
    pub(crate) fn into_record(self) -> Result<BlobRecord, StoreError> {
        Ok(BlobRecord {
            digest: digest(&self.digest)?,
            size_bytes: from_db(self.size_bytes),
            created: Timestamp::from_micros(self.created_us),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct ImageRow {
    owner: String,
    name: String,
    digest: Vec<u8>,
    size_bytes: i64,
    config: Json<serde_json::Value>,
    created_us: i64,
}

impl ImageRow {
    pub(crate) fn into_record(self) -> Result<ImageRecord, StoreError> {
        let owner = if self.owner.is_empty() { None } else { Some(parse(&self.owner, "tenant")?) };
        Ok(ImageRecord {
            owner,
            name: parse(&self.name, "image name")?,
            digest: digest(&self.digest)?,
            size_bytes: from_db(self.size_bytes),
            config: self.config.0,
            created: Timestamp::from_micros(self.created_us),
        })
    }
}
