use bulkhead_proto::worker::AttemptId;
use bulkhead_types::{AttemptKey, TenantId};
use serde::{Deserialize, Serialize};

/// Which attempt, and whose: what a lease names and every report carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct AttemptName {
    pub(crate) tenant: TenantId,
    pub(crate) key: AttemptKey,
}

/// The server named an attempt in a way that has no meaning.
#[derive(Debug, thiserror::Error)]
#[error("the server named an attempt wrongly: {0}")]
pub struct BadName(String);

impl AttemptName {
    /// A safe name of a directory: made of a UUID and two numbers.
    pub(crate) fn directory(&self) -> String {
        format!("{}.{}.{}", self.key.job, self.key.attempt, self.key.token)
    }
}

impl std::fmt::Display for AttemptName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of tenant {}", self.key, self.tenant)
    }
}

/// What tells attempts apart; the tenant comes along for book-keeping, and only a lease has to name it.
pub(crate) fn attempt_key(id: &AttemptId) -> Result<AttemptKey, BadName> {
    let job = id.job.parse().map_err(|e: bulkhead_types::IdError| BadName(e.to_string()))?;
    let token = u64::try_from(id.token).map_err(|_| BadName("a token is not negative".into()))?;
    Ok(AttemptKey { job, attempt: id.attempt, token })
}

impl TryFrom<AttemptId> for AttemptName {
    type Error = BadName;

    fn try_from(id: AttemptId) -> Result<Self, BadName> {
        let key = attempt_key(&id)?;
        let tenant = TenantId::new(id.tenant).map_err(|e| BadName(e.to_string()))?;
        Ok(Self { tenant, key })
    }
}

impl From<&AttemptName> for AttemptId {
    fn from(name: &AttemptName) -> Self {
        Self {
            tenant: name.tenant.to_string(),
            job: name.key.job.to_string(),
            attempt: name.key.attempt,
            // Tokens come from a signed column, so they are within its range.
            token: i64::try_from(name.key.token).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_round_trips_and_a_bad_one_is_refused() {
        let id = AttemptId {
            tenant: "acme".into(),
            job: bulkhead_types::JobId::generate().to_string(),
            attempt: 2,
            token: 7,
        };
        let name = AttemptName::try_from(id.clone()).expect("valid");
        assert_eq!(AttemptId::from(&name), id);
        for bad in [
            AttemptId { tenant: "../etc".into(), ..id.clone() },
            AttemptId { job: "../../x".into(), ..id.clone() },
            AttemptId { token: -1, ..id.clone() },
        ] {
            assert!(AttemptName::try_from(bad).is_err());
        }
    }
}
