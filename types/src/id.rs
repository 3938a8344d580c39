use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest name of a tenant, node or image, in bytes.
pub const MAX_NAME_LENGTH: usize = 63;

/// What is wrong with an id or a resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The segment breaks the rule for names.
    #[error(
        "{what} must be 1 to {MAX_NAME_LENGTH} characters of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
    )]
    Name {
        /// What the name was to be, for example "a tenant id".
        what: &'static str,
    },
    /// The text is no UUID.
    #[error("{what} must be a UUID in lower-case hyphenated form")]
    Uuid {
        /// What the id was to be.
        what: &'static str,
    },
    /// The resource name has another form.
    #[error("a resource name of the form {pattern} is needed")]
    Pattern {
        /// The form, for example `tenants/{tenant}/jobs/{job}`.
        pattern: &'static str,
    },
}

fn check_name(text: &str, what: &'static str) -> Result<(), IdError> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_' | b'.');
    let first = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let good = !bytes.is_empty()
        && bytes.len() <= MAX_NAME_LENGTH
        && first(bytes[0])
        && bytes.iter().all(|c| inner(*c));
    if good { Ok(()) } else { Err(IdError::Name { what }) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text against the rule for names.
            ///
            /// # Errors
            /// [`IdError::Name`], which states the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check_name(&text, $what)?;
                Ok(Self(text))
            }

            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A tenant: the owner of jobs, blobs and images.
    TenantId, "a tenant id"
);
name_type!(
    /// A worker node, as its certificate names it.
    NodeId, "a node id"
);
name_type!(
    /// The name of an image within its owner.
    ImageName, "an image name"
);

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id; ids made later sort later (UUID version 7, RFC 9562).
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Wraps an existing UUID.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let uuid = Uuid::parse_str(text).map_err(|_| IdError::Uuid { what: $what })?;
                // One spelling for one id: the others that a parser takes would be other resource names.
                if uuid.as_hyphenated().to_string() != text {
                    return Err(IdError::Uuid { what: $what });
                }
                Ok(Self(uuid))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

uuid_type!(
    /// A job, unique over all tenants.
    JobId, "a job id"
);
uuid_type!(
    /// One sandbox on one node; never used twice.
    SandboxId, "a sandbox id"
);

/// The resource name of a job: `tenants/{tenant}/jobs/{job}`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct JobName {
    /// The owner.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
}

impl FromStr for JobName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let pattern = IdError::Pattern { pattern: "tenants/{tenant}/jobs/{job}" };
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("tenants"), Some(tenant), Some("jobs"), Some(job), None) => {
                Ok(Self { tenant: tenant.parse()?, job: job.parse()? })
            }
            _ => Err(pattern),
        }
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenants/{}/jobs/{}", self.tenant, self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "0", "team-a", "python3.11", &"a".repeat(63)] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".", "A", "a/b", "a b", "é", &"a".repeat(64)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_name_round_trips_and_has_one_spelling() {
        let name = JobName { tenant: TenantId::new("acme").expect("valid"), job: JobId::generate() };
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        let upper = name.to_string().replace(&name.job.to_string(), &name.job.to_string().to_uppercase());
        if upper != name.to_string() {
            assert!(upper.parse::<JobName>().is_err());
        }
        for bad in ["", "tenants/a", "tenants/a/jobs/", "tenants/a/jobs/x/y", "jobs/x"] {
            assert!(bad.parse::<JobName>().is_err(), "{bad}");
        }
    }
}
