//! Tenants' requests about jobs.

use bulkhead_types::{
    Digest, JobId, JobSpec, JobState, OutputStream, TenantId, Timestamp, Transition, bounds, next,
};
use sqlx::types::Json;
use sqlx::{PgTransaction, Row};

use crate::error::broken_constraint;
use crate::notify::Change;
use crate::page::{self, JobFilter};
use crate::records::{
    AttemptRow, JobEvent, JobProgress, JobRecord, JobRow, OutputSlice, StreamRecord, attempt_number, digest,
    from_db, parse, priority_number, stream_number, stream_of, to_db, without_nul,
};
use crate::requests::{RequestKey, request_claim, request_first};
use crate::spec::{blobs, restore_inline, split};
use crate::sql::jobs as sql;
use crate::{Store, StoreError};

/// Largest page of a list, in jobs: 1000 descriptions of some KiB each.
pub const MAX_PAGE: u32 = 1000;
/// Most events that one call answers with; a watcher asks again.
pub const MAX_EVENTS: u32 = 256;
/// Most chunks that one read of output looks at.
const MAX_CHUNKS: i64 = 64;

/// A job to be queued.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id: [`JobId::generate`].
    pub id: JobId,
    /// Validated.
    pub spec: JobSpec,
    /// What the image reference means now.
    pub image_digest: Digest,
    /// Why no known node could ever hold it, if that is so: it is REJECTED at once.
    pub refusal: Option<String>,
}

impl Store {
    /// Queues a job and wakes the scheduler. With a `request` that was seen before: the job of then.
    ///
    /// # Errors
    /// [`StoreError::BlobNotFound`] if it names a blob that the tenant doesn't have, [`StoreError::NotFound`] if
    /// the tenant doesn't exist, [`StoreError::JobQuota`], [`StoreError::StorageQuota`],
    /// [`StoreError::RequestIdReused`].
    #[tracing::instrument(skip_all, fields(%tenant, job = %job.id))]
    pub async fn job_create(
        &self,
        tenant: &TenantId,
        job: NewJob,
        request: Option<&RequestKey>,
    ) -> Result<JobRecord, StoreError> {
        let mut tx = self.begin(tenant).await?;
        if let Some(request) = request {
            let resource = job.id.to_string();
            if let Some(first) = request_claim(&mut tx, tenant.as_str(), request, &resource).await? {
                drop(tx);
                return self.job_get(tenant, parse(&first, "request's resource")?).await;
            }
        }
        check_quota(&mut tx, tenant).await?;
        let digests = blobs(&job.spec);
        let inserted = self.job_insert(&mut tx, tenant, job).await;
        match inserted {
            Ok(record) => {
                tx.commit().await?;
                // One that has ended nobody can know yet.
                self.fleet().notifier().tell((!record.state.is_terminal()).then_some(Change::Queue));
                Ok(record)
            }
            Err(StoreError::Database(error)) => match broken_constraint(&error) {
                Some("jobs_tenant_exists") => Err(StoreError::not_found("tenant", tenant)),
                Some("job_blobs_blob_exists") => {
                    drop(tx);
                    Err(self.blob_first_missing(tenant, &digests).await?)
                }
                _ => Err(StoreError::Database(error)),
            },
            Err(error) => Err(error),
        }
    }

    /// The job that an earlier call with this `request` created, as it is now; none if there was no such call.
    ///
    /// # Errors
    /// [`StoreError::RequestIdReused`] for another body, [`StoreError::NotFound`] if the job is deleted.
    #[tracing::instrument(skip_all, fields(%tenant))]
    pub async fn job_of_request(
        &self,
        tenant: &TenantId,
        request: &RequestKey,
    ) -> Result<Option<JobRecord>, StoreError> {
        let mut tx = self.begin(tenant).await?;
        let first = request_first(&mut tx, tenant.as_str(), request).await?;
        drop(tx);
        match first {
            Some(first) => self.job_get(tenant, parse(&first, "request's resource")?).await.map(Some),
            None => Ok(None),
        }
    }

    async fn job_insert(
        &self,
        tx: &mut PgTransaction<'_>,
        tenant: &TenantId,
        job: NewJob,
    ) -> Result<JobRecord, StoreError> {
        let digests: Vec<Vec<u8>> = blobs(&job.spec).iter().map(|d| d.as_bytes().to_vec()).collect();
        let parts = split(job.spec);
        let secrets = match parts.secrets.as_slice() {
            [] => None,
            values => Some(self.key.seal(job.id, values)?),
        };
        let spec = &parts.spec;
        let row: JobRow = sqlx::query_as(sql::JOB_INSERT)
            .bind(job.id.as_uuid())
            .bind(tenant.as_str())
            .bind(JobState::Queued.as_str())
            .bind(Json(spec))
            .bind(&parts.inline)
            .bind(secrets)
            .bind(&job.image_digest.as_bytes()[..])
            .bind(Json(&spec.labels))
            .bind(priority_number(spec.priority))
            .bind(to_db(spec.limits.memory_bytes))
            .bind(to_db(spec.limits.cpu_milli))
            .bind(to_db(spec.node_disk_bytes()))
            .bind(to_db(spec.limits.wall_time_ms.saturating_add(spec.grace_period_ms)))
            .bind(i32::try_from(spec.retry.max_attempts.min(bounds::ATTEMPTS)).unwrap_or(1))
            .bind(spec.retry.on_lost)
            .bind(spec.retry.on_failure)
            .bind(&digests)
            .fetch_one(&mut **tx)
            .await?;
        let row = match &job.refusal {
            Some(reason) => refuse(tx, job.id, reason).await?,
            None => row,
        };
        let mut record = row.into_record()?;
        restore_inline(&mut record.spec, parts.inline)?;
        Ok(record)
    }

    /// A job with its attempts and inline contents.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    #[tracing::instrument(skip_all, fields(%tenant, %job))]
    pub async fn job_get(&self, tenant: &TenantId, job: JobId) -> Result<JobRecord, StoreError> {
        let mut tx = self.begin(tenant).await?;
        let row: Option<JobRow> =
            sqlx::query_as(sql::JOB_GET).bind(job.as_uuid()).fetch_optional(&mut *tx).await?;
        let mut record = row.ok_or_else(|| StoreError::not_found("job", job))?.into_record()?;
        let has_inline = {
            let mut parts = split(record.spec.clone());
            parts.inline.pop().is_some()
        };
        if has_inline {
            let inline =
                sqlx::query_scalar(sql::JOB_INLINE_GET).bind(job.as_uuid()).fetch_one(&mut *tx).await?;
            restore_inline(&mut record.spec, inline)?;
        }
        attach_attempts(&mut tx, std::slice::from_mut(&mut record)).await?;
        // Nothing was written: the caller need not wait for its end.
        drop(tx);
        Ok(record)
    }

    /// A page of jobs, newest first, at most `page_size` (itself at most [`MAX_PAGE`]), with the token of the next
    /// page if there is one. Inline contents are left out.
    ///
    /// # Errors
    /// [`StoreError::PageTokenInvalid`] if the token is of another tenant or filter.
    #[tracing::instrument(skip_all, fields(%tenant))]
    pub async fn job_list(
        &self,
        tenant: &TenantId,
        filter: &JobFilter,
        page_size: u32,
        page_token: Option<&str>,
    ) -> Result<(Vec<JobRecord>, Option<String>), StoreError> {
        let before = page_token.map(|token| page::decode(tenant, filter, token)).transpose()?;
        let size = page_size.clamp(1, MAX_PAGE);
        let states: Option<Vec<&str>> =
            (!filter.states.is_empty()).then(|| filter.states.iter().map(|state| state.as_str()).collect());
        let labels = (!filter.labels.is_empty()).then_some(Json(&filter.labels));
        let mut tx = self.begin(tenant).await?;
        let rows: Vec<JobRow> = sqlx::query_as(sql::JOB_LIST)
            .bind(before)
            .bind(states)
            .bind(labels)
            .bind(i64::from(size) + 1)
            .bind(tenant.as_str())
            .fetch_all(&mut *tx)
            .await?;
        let more = rows.len() > size as usize;
        let mut records: Vec<JobRecord> =
            rows.into_iter().take(size as usize).map(JobRow::into_record).collect::<Result<_, _>>()?;
        attach_attempts(&mut tx, &mut records).await?;
        tx.commit().await?;
        let token = records.last().filter(|_| more).map(|job| page::encode(tenant, filter, job.id.as_uuid()));
        Ok((records, token))
    }

    /// Asks for a job's end: one that waits ends at once, one that is under way when its node has ended it; one
    /// that has ended stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::RequestIdReused`].
    #[tracing::instrument(skip_all, fields(%tenant, %job))]
    pub async fn job_cancel(
        &self,
        tenant: &TenantId,
        job: JobId,
        request: Option<&RequestKey>,
    ) -> Result<JobRecord, StoreError> {
        let mut tx = self.begin(tenant).await?;
        if let Some(request) = request {
            let first = request_claim(&mut tx, tenant.as_str(), request, &job.to_string()).await?;
            if first.is_some() {
                drop(tx);
                return self.job_get(tenant, job).await;
            }
        }
        let state = self.job_lock(&mut tx, job).await?;
        let mut changes = Vec::new();
        match next(state, Transition::Cancel) {
            Ok(cancelled) => {
                changes.push(Change::Ended(job));
                sqlx::query(sql::JOB_CANCEL_WAITING)
                    .bind(job.as_uuid())
                    .bind(state.as_str())
                    .bind(cancelled.as_str())
                    .bind("cancelled before it started")
                    .execute(&mut *tx)
                    .await?;
            }
            Err(_) if !state.is_terminal() => {
                changes.extend([Change::Cancel, Change::Job(job)]);
                sqlx::query(sql::JOB_CANCEL_REQUEST).bind(job.as_uuid()).execute(&mut *tx).await?;
            }
            Err(_) => {}
        }
        tx.commit().await?;
        self.fleet().notifier().tell(changes);
        self.job_get(tenant, job).await
    }

    /// Deletes a job that has ended, with all that is known of it. A repeated `request` succeeds again.
    ///
    /// # Errors
    /// [`StoreError::NotEnded`], [`StoreError::NotFound`], [`StoreError::RequestIdReused`].
    #[tracing::instrument(skip_all, fields(%tenant, %job))]
    pub async fn job_delete(
        &self,
        tenant: &TenantId,
        job: JobId,
        request: Option<&RequestKey>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin(tenant).await?;
        if let Some(request) = request {
            let first = request_claim(&mut tx, tenant.as_str(), request, &job.to_string()).await?;
            if first.is_some() {
                return Ok(());
            }
        }
        let state = self.job_lock(&mut tx, job).await?;
        if !state.is_terminal() {
            return Err(StoreError::NotEnded { job, state });
        }
        sqlx::query(sql::JOB_DELETE).bind(job.as_uuid()).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }

    async fn job_lock(&self, tx: &mut PgTransaction<'_>, job: JobId) -> Result<JobState, StoreError> {
        let row = sqlx::query(sql::JOB_LOCK).bind(job.as_uuid()).fetch_optional(&mut **tx).await?;
        let row = row.ok_or_else(|| StoreError::not_found("job", job))?;
        parse(row.try_get("state")?, "state")
    }

    /// What happened to a job after event `after` (0: all), and what is stored of its output.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    #[tracing::instrument(skip_all, fields(%tenant, %job))]
    pub async fn job_progress(
        &self,
        tenant: &TenantId,
        job: JobId,
        after: u64,
    ) -> Result<JobProgress, StoreError> {
        let mut tx = self.begin(tenant).await?;
        // Streams last: whoever sees the terminal event then sees the whole length of the output.
        let head: Option<(String, i64, i32)> =
            sqlx::query_as(sql::JOB_PROGRESS).bind(job.as_uuid()).fetch_optional(&mut *tx).await?;
        let (state, event_seq, attempt) = head.ok_or_else(|| StoreError::not_found("job", job))?;
        let mut events = Vec::new();
        if from_db(event_seq) > after {
            let rows: Vec<(i64, String, i32, String, i64)> = sqlx::query_as(sql::EVENTS_AFTER)
                .bind(job.as_uuid())
                .bind(to_db(after))
                .bind(i64::from(MAX_EVENTS))
                .fetch_all(&mut *tx)
                .await?;
            for (seq, state, attempt, reason, at) in rows {
                events.push(JobEvent {
                    seq: from_db(seq),
                    state: parse(&state, "state")?,
                    attempt: attempt_number(attempt),
                    reason,
                    at: Timestamp::from_micros(at),
                });
            }
        }
        let rows: Vec<StreamRow> =
            sqlx::query_as(sql::STREAMS).bind(job.as_uuid()).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(JobProgress {
            state: parse(&state, "state")?,
            event_seq: from_db(event_seq),
            attempt: attempt_number(attempt),
            events,
            streams: rows.into_iter().map(StreamRow::into_record).collect::<Result<_, _>>()?,
        })
    }

    /// The bytes of a stream from `offset`, as far as the database has them (the first 64 KiB), at most
    /// `max_bytes`. A stream that nothing was written to is empty.
    ///
    /// # Errors
    /// Only the database's.
    #[tracing::instrument(skip_all, fields(%tenant, %job, attempt))]
    pub async fn output_read(
        &self,
        tenant: &TenantId,
        job: JobId,
        attempt: u32,
        stream: OutputStream,
        offset: u64,
        max_bytes: usize,
    ) -> Result<OutputSlice, StoreError> {
        let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
        let mut tx = self.begin(tenant).await?;
        let row: Option<StreamRow> = sqlx::query_as(sql::STREAM)
            .bind(job.as_uuid())
            .bind(attempt)
            .bind(stream_number(stream))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else {
            return Ok(OutputSlice { bytes: Vec::new(), stored_bytes: 0, digest: None });
        };
        let chunks: Vec<(i64, Vec<u8>)> = sqlx::query_as(sql::CHUNKS_FROM)
            .bind(job.as_uuid())
            .bind(attempt)
            .bind(stream_number(stream))
            .bind(to_db(offset))
            .bind(MAX_CHUNKS)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let mut bytes = Vec::new();
        for (start, chunk) in chunks {
            let start = from_db(start);
            let skip =
                usize::try_from((offset + bytes.len() as u64).saturating_sub(start)).unwrap_or(usize::MAX);
            let room = max_bytes - bytes.len();
            bytes.extend(chunk.into_iter().skip(skip).take(room));
        }
        let record = row.into_record()?;
        Ok(OutputSlice { bytes, stored_bytes: record.stored_bytes, digest: record.digest })
    }
}

/// Whether the tenant may have one more job, which it may not while it has stored more than its quota. Creates that come at the same moment don't see each other, so that a
/// tenant may exceed its quota by as many as there are connections.
async fn check_quota(tx: &mut PgTransaction<'_>, tenant: &TenantId) -> Result<(), StoreError> {
    let row: Option<(i64, i64, i64, i64)> = sqlx::query_as(crate::sql::tenants::service::JOB_QUOTA)
        .bind(tenant.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let (limit, active, max_stored, stored) = row.ok_or_else(|| StoreError::not_found("tenant", tenant))?;
    if stored > max_stored {
        return Err(StoreError::StorageQuota { tenant: tenant.clone(), limit: from_db(max_stored) });
    }
    if active < limit {
        return Ok(());
    }
    Err(StoreError::JobQuota { tenant: tenant.clone(), limit: from_db(limit) })
}

/// Ends a job as REJECTED in the transaction that has made it: nobody sees it wait.
async fn refuse(tx: &mut PgTransaction<'_>, job: JobId, reason: &str) -> Result<JobRow, StoreError> {
    let rejected = next(JobState::Queued, Transition::Reject)?;
    Ok(sqlx::query_as(sql::JOB_REFUSE)
        .bind(job.as_uuid())
        .bind(JobState::Queued.as_str())
        .bind(rejected.as_str())
        .bind(without_nul(reason))
        .fetch_one(&mut **tx)
        .await?)
}

/// Adds their attempts to jobs.
async fn attach_attempts(tx: &mut PgTransaction<'_>, jobs: &mut [JobRecord]) -> Result<(), StoreError> {
    let ids: Vec<uuid::Uuid> = jobs.iter().map(|job| job.id.as_uuid()).collect();
    let rows: Vec<AttemptRow> = sqlx::query_as(sql::ATTEMPTS_OF_JOBS).bind(&ids).fetch_all(&mut **tx).await?;
    for row in rows {
        let id = JobId::from_uuid(row.job);
        // Lists are sorted by id, newest first.
        if let Ok(at) = jobs.binary_search_by(|job| id.cmp(&job.id)) {
            jobs[at].attempts.push(row.into_record()?);
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct StreamRow {
    attempt: i32,
    stream: i16,
    stored_bytes: i64,
    digest: Option<Vec<u8>>,
}

impl StreamRow {
    fn into_record(self) -> Result<StreamRecord, StoreError> {
        Ok(StreamRecord {
            attempt: attempt_number(self.attempt),
            stream: stream_of(self.stream)?,
            stored_bytes: from_db(self.stored_bytes),
            digest: self.digest.as_deref().map(digest).transpose()?,
        })
    }
}
