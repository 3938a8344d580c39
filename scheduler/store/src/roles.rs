//! The two roles that the service works as. They own nothing and can't bypass row-level security.

use sqlx::{Connection, PgConnection};

use crate::StoreError;
use crate::sql::roles as sql;

/// Serves tenants' requests; sees one tenant's rows per transaction.
pub const SERVICE_ROLE: &str = "bulkhead_service";
/// The queue and operators' requests; sees all tenants' rows.
pub const SCHEDULER_ROLE: &str = "bulkhead_scheduler";

/// Makes the two roles if they don't exist, and lets the current user act as them. Needs CREATEROLE unless an
/// administrator made them before.
pub(crate) async fn ensure_roles(connection: &mut PgConnection) -> Result<(), StoreError> {
    for (role, create, grant, check) in [
        (SERVICE_ROLE, sql::CREATE_SERVICE, sql::GRANT_SERVICE, sql::SERVICE_IS_MEMBER),
        (SCHEDULER_ROLE, sql::CREATE_SCHEDULER, sql::GRANT_SCHEDULER, sql::SCHEDULER_IS_MEMBER),
    ] {
        let failed = |source| StoreError::Role { role, source };
        let mut tx = connection.begin().await?;
        // Roles belong to the whole cluster: two databases that migrate at once must not both create them.
        sqlx::query(sql::LOCK_ROLES).execute(&mut *tx).await.map_err(failed)?;
        let member: Option<bool> =
            sqlx::query_scalar(check).fetch_optional(&mut *tx).await.map_err(failed)?;
        if member.is_none() {
            sqlx::query(create).execute(&mut *tx).await.map_err(failed)?;
        }
        if member != Some(true) {
            sqlx::query(grant).execute(&mut *tx).await.map_err(failed)?;
        }
        tx.commit().await?;
    }
    Ok(())
}
