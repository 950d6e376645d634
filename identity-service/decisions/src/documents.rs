//! All documents of the state: what is on disk of the decisions.

use std::sync::Arc;

use edgewarden_protocol::document::{DocumentSet, Shelf, Texts};

use crate::clock::TimeFloor;
use crate::deployments::Deployments;
use crate::enrolment::Enrolment;
use crate::federation::FederatedBundles;
use crate::jwt_keys::PublishedKeys;
use crate::leaves::LeafTokens;
use crate::permits::Counter;
use crate::records::Records;
use crate::secrets::Secrets;
use crate::site::SiteRequest;

/// All of them. Cloning is cheap, and what a request changed shows by pointer: so nothing changed is left unsaved.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    pub enrolment: Arc<Enrolment>,
    pub deployments: Arc<Deployments>,
    pub generations: Arc<Counter>,
    pub leaves: Arc<LeafTokens>,
    pub records: Arc<Records>,
    pub clock: Arc<TimeFloor>,
    pub jwt_keys: Arc<PublishedKeys>,
    pub site_request: Arc<SiteRequest>,
    pub secrets: Arc<Secrets>,
    pub federation: Arc<FederatedBundles>,
}

impl Documents {
    /// As they were written last.
    pub fn load<S: Shelf>(shelf: &S) -> Result<Self, S::Error> {
        Ok(Self {
            enrolment: shelf.load().map(Arc::new)?,
            deployments: shelf.load().map(Arc::new)?,
            generations: shelf.load().map(Arc::new)?,
            leaves: shelf.load().map(Arc::new)?,
            records: shelf.load().map(Arc::new)?,
            clock: shelf.load().map(Arc::new)?,
            jwt_keys: shelf.load().map(Arc::new)?,
            site_request: shelf.load().map(Arc::new)?,
            secrets: shelf.load().map(Arc::new)?,
            federation: shelf.load().map(Arc::new)?,
        })
    }
}

impl DocumentSet for Documents {
    fn texts(&self, before: Option<&Self>) -> serde_json::Result<Texts> {
        let mut texts = Texts::default();
        texts.put_changed(&self.generations, before.map(|before| &before.generations))?;
        texts.put_changed(&self.leaves, before.map(|before| &before.leaves))?;
        texts.put_changed(&self.clock, before.map(|before| &before.clock))?;
        texts.put_changed(&self.enrolment, before.map(|before| &before.enrolment))?;
        texts.put_changed(&self.deployments, before.map(|before| &before.deployments))?;
        texts.put_changed(&self.records, before.map(|before| &before.records))?;
        texts.put_changed(&self.jwt_keys, before.map(|before| &before.jwt_keys))?;
        texts.put_changed(&self.site_request, before.map(|before| &before.site_request))?;
        texts.put_changed(&self.secrets, before.map(|before| &before.secrets))?;
        texts.put_changed(&self.federation, before.map(|before| &before.federation))?;
        Ok(texts)
    }
}
