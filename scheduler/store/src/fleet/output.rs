//! Output as it comes in from nodes.

use bulkhead_types::{AttemptKey, Digest, NodeId, OutputStream, TenantId};
use uuid::Uuid;

use super::FleetStore;
use crate::StoreError;
use crate::notify::Change;
use crate::records::{from_db, stream_number, to_db};
use crate::sql::results as sql;

/// How much of each stream is kept in the database, in bytes; the whole is a blob.
const IN_DATABASE: u64 = 64 << 10;

/// A chunk of output.
#[derive(Debug, Clone, Copy)]
pub struct OutputAppend<'a> {
    /// The node that sends it.
    pub node: &'a NodeId,
    /// The attempt that wrote it.
    pub key: AttemptKey,
    /// Where to.
    pub stream: OutputStream,
    /// Where it begins in the stream, in bytes.
    pub offset: u64,
    /// What was written.
    pub bytes: &'a [u8],
    /// Whether to wait for the disk. If not, the chunk is durable with the attempt's end, which has to follow.
    pub flush: bool,
}

impl FleetStore {
    /// Appends a chunk and answers with the length of the stream that is stored now; durable, if it was to be flushed. What lies behind the first
    /// 64 KiB is only counted: the caller has stored it before it calls this. A chunk that was seen before changes
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::StaleAttempt`] if the lease is not current or another node's, [`StoreError::OutputGap`] if a part is missing.
    #[tracing::instrument(level = "debug", skip_all, fields(key = %chunk.key, offset = chunk.offset))]
    pub async fn output_append(&self, chunk: OutputAppend<'_>) -> Result<u64, StoreError> {
        let OutputAppend { node, key, stream, offset, bytes, flush } = chunk;
        let attempt = i32::try_from(key.attempt).unwrap_or(i32::MAX);
        let mut tx = if flush { self.pool.begin().await? } else { self.begin_unflushed().await? };
        let found: Option<(String, i64)> = sqlx::query_as(sql::OUTPUT_STORED)
            .bind(key.job.as_uuid())
            .bind(attempt)
            .bind(to_db(key.token))
            .bind(stream_number(stream))
            .bind(node.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let (tenant, stored) = found.ok_or(StoreError::StaleAttempt { key })?;
        let stored = from_db(stored);
        if offset > stored {
            return Err(StoreError::OutputGap { offset, stored_bytes: stored });
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if end <= stored {
            return Ok(stored);
        }
        let new = &bytes[usize::try_from(stored - offset).unwrap_or(usize::MAX).min(bytes.len())..];
        let room = usize::try_from(IN_DATABASE.saturating_sub(stored)).unwrap_or(usize::MAX);
        sqlx::query(sql::OUTPUT_PUT)
            .bind(key.job.as_uuid())
            .bind(attempt)
            .bind(stream_number(stream))
            .bind(to_db(stored))
            .bind(tenant)
            .bind(&new[..room.min(new.len())])
            .bind(to_db(end))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.notifier.tell([Change::Job(key.job)]);
        Ok(end)
    }

    /// Notes the blob that holds a whole stream, before the attempt's end is reported. Answers with the length that
    /// was appended.
    ///
    /// # Errors
    /// [`StoreError::StaleAttempt`] if the lease is not current or another node's, or the stream is empty.
    #[tracing::instrument(level = "debug", skip_all, fields(%key))]
    pub async fn output_seal(
        &self,
        node: &NodeId,
        key: AttemptKey,
        stream: OutputStream,
        digest: Digest,
    ) -> Result<u64, StoreError> {
        let stored: Option<i64> = sqlx::query_scalar(sql::OUTPUT_SEAL)
            .bind(key.job.as_uuid())
            .bind(i32::try_from(key.attempt).unwrap_or(i32::MAX))
            .bind(to_db(key.token))
            .bind(stream_number(stream))
            .bind(&digest.as_bytes()[..])
            .bind(node.as_str())
            .fetch_optional(&self.pool)
            .await?;
        stored.map(from_db).ok_or(StoreError::StaleAttempt { key })
    }

    /// Who owns the job of a current attempt: what a node may read and write for it is that tenant's.
    ///
    /// # Errors
    /// [`StoreError::StaleAttempt`] if the lease is not current or another node's.
    #[tracing::instrument(level = "debug", skip_all, fields(%key))]
    pub async fn attempt_tenant(&self, node: &NodeId, key: AttemptKey) -> Result<TenantId, StoreError> {
        let row: Option<(Uuid, i32, i64, String, String)> = sqlx::query_as(crate::sql::leases::LEASE_GET)
            .bind(key.job.as_uuid())
            .bind(i32::try_from(key.attempt).unwrap_or(i32::MAX))
            .bind(to_db(key.token))
            .fetch_optional(&self.pool)
            .await?;
        match row {
            Some((.., tenant, holder)) if holder == node.as_str() => crate::records::parse(&tenant, "tenant"),
            _ => Err(StoreError::StaleAttempt { key }),
        }
    }
}
