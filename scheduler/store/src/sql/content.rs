statements! { Service:
    BLOB_PUT = "INSERT INTO blobs (tenant, digest, size_bytes) VALUES ($1, $2, $3)
        ON CONFLICT (tenant, digest) DO UPDATE SET last_used_us = now_us()
        RETURNING tenant, digest, size_bytes, created_us";
    BLOB_GET = "SELECT tenant, digest, size_bytes, created_us FROM blobs WHERE tenant = $1 AND digest = $2";
    BLOBS_MISSING = "SELECT wanted FROM unnest($2::bytea[]) AS w (wanted)
        WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE tenant = $1 AND digest = wanted)";
    /// The tenant's own before the operator's.
    IMAGE_BY_NAME = "SELECT owner, name, digest, size_bytes, config, created_us FROM images
        WHERE name = $1 AND owner IN ($2, '') ORDER BY owner DESC LIMIT 1";
    IMAGE_BY_DIGEST = "SELECT owner, name, digest, size_bytes, config, created_us FROM images
        WHERE digest = $1 AND owner IN ($2, '') ORDER BY owner DESC, name LIMIT 1";
    IMAGE_LIST = "SELECT owner, name, digest, size_bytes, config, created_us FROM images
        WHERE owner IN ($1, '') AND (owner, name) > ($2, $3) ORDER BY owner, name LIMIT $4";
    IMAGE_PUT = "INSERT INTO images (owner, name, digest, size_bytes, config) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (owner, name) DO UPDATE
        SET digest = $3, size_bytes = $4, config = $5, created_us = now_us()
        RETURNING owner, name, digest, size_bytes, config, created_us";
    IMAGE_DELETE = "DELETE FROM images WHERE owner = $1 AND name = $2
        RETURNING owner, name, digest, size_bytes, config, created_us";
}

/// What spans tenants.
pub(crate) mod fleet {
    /// Of the statements above, those that the scheduler runs too.
    #[cfg(test)]
    pub(crate) const SHARED: &[(crate::sql::Role, &str, &str)] = &[
        (crate::sql::Role::Scheduler, "IMAGE_PUT", super::IMAGE_PUT),
        (crate::sql::Role::Scheduler, "IMAGE_DELETE", super::IMAGE_DELETE),
        (crate::sql::Role::Scheduler, "IMAGE_BY_NAME", super::IMAGE_BY_NAME),
        (crate::sql::Role::Scheduler, "BLOB_PUT", super::BLOB_PUT),
        (crate::sql::Role::Scheduler, "BLOB_GET", super::BLOB_GET),
    ];

    statements! { Scheduler:
        /// What a job has printed is kept whatever the quota says.
        OVER_QUOTA = "SELECT set_config('bulkhead.over_quota', 'on', true)";
        BLOB_IS_HELD = "SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = $1)";
        /// Of names, and of jobs that have not ended.
        IMAGE_DIGESTS = "SELECT digest FROM images
            UNION SELECT image_digest FROM jobs WHERE state IN ('QUEUED', 'LEASED', 'RUNNING')";
        /// Blobs that no job names and nobody has used for a while; the digests that no tenant has any more.
        BLOBS_PRUNE = "WITH old AS (
                SELECT tenant, digest FROM blobs b
                WHERE last_used_us < now_us() - $1
                    AND NOT EXISTS (SELECT 1 FROM job_blobs j WHERE j.tenant = b.tenant AND j.digest = b.digest)
                    AND NOT EXISTS (SELECT 1 FROM output_streams s WHERE s.tenant = b.tenant AND s.digest = b.digest)
                ORDER BY last_used_us LIMIT $2 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM blobs b USING old WHERE b.tenant = old.tenant AND b.digest = old.digest
                RETURNING b.tenant, b.digest
            )
            SELECT DISTINCT gone.digest FROM gone WHERE NOT EXISTS (
                SELECT 1 FROM blobs b WHERE b.digest = gone.digest
                    AND NOT EXISTS (SELECT 1 FROM gone g WHERE g.tenant = b.tenant AND g.digest = b.digest))";
    }
}
