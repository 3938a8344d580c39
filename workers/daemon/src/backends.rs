//! The kinds of sandboxes that a node has, and why it lacks the others.

use std::sync::Arc;

use bulkhead_proto::worker::BackendOffer;
use bulkhead_sandbox::Backend;

/// What a node can make.
#[derive(Default)]
pub struct Backends {
    offered: Vec<Arc<dyn Backend>>,
    /// Name and reason.
    lacking: Vec<(&'static str, String)>,
}

impl Backends {
    /// With one more kind.
    #[must_use]
    pub fn with(mut self, backend: Arc<dyn Backend>) -> Self {
        self.offered.push(backend);
        self
    }

    /// Without a kind, and why, with what to do.
    #[must_use]
    pub fn without(mut self, name: &'static str, why: String) -> Self {
        self.lacking.push((name, why));
        self
    }

    /// Gives up what is held ready for jobs.
    pub(crate) fn close(&self) {
        for backend in &self.offered {
            backend.close();
        }
    }

    /// The kind with this name.
    ///
    /// # Errors
    /// Why there is none, for a person.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<dyn Backend>, String> {
        if let Some(found) = self.offered.iter().find(|backend| backend.name() == name) {
            return Ok(Arc::clone(found));
        }
        Err(match self.lacking.iter().find(|(lacking, _)| *lacking == name) {
            Some((_, why)) => format!("this node has no backend {name:?}: {why}"),
            None => format!("this node has no backend {name:?}"),
        })
    }

    /// As the server is told.
    pub(crate) fn offers(&self) -> Vec<BackendOffer> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let offered = self.offered.iter().map(|backend| {
            let overhead = backend.overhead();
            BackendOffer {
                name: backend.name().to_owned(),
                overhead_bytes: signed(overhead.memory_bytes),
                overhead_bytes_per_mib: signed(overhead.memory_per_mib),
                unavailable: String::new(),
            }
        });
        let lacking = self.lacking.iter().map(|(name, why)| BackendOffer {
            name: (*name).to_owned(),
            unavailable: why.clone(),
            ..BackendOffer::default()
        });
        offered.chain(lacking).collect()
    }
}
