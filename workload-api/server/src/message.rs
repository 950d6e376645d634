//! The messages of the streams of `SpiffeWorkloadAPI`, made of an identity and the bundles beside it.

use std::collections::HashMap;
use std::sync::Arc;

use edgewarden_names::Refusal;
use edgewarden_svid::jwt::JwtKeys;
use edgewarden_svid::{Bundles, X509Context};
use edgewarden_workload_wire::workloadapi::{
    JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse,
};
use prost::bytes::Bytes;

/// The values that a message is made of.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) context: Arc<X509Context>,
    pub(super) bundles: Arc<Bundles>,
}

/// A message of a stream. Each is complete: what it does not name is withdrawn (SPIFFE Workload API, section 4.1).
pub(super) trait Message: prost::Message + Default + 'static {
    /// `true` when both make the same message, which then is not sent again.
    fn same(before: &Known, now: &Known) -> bool;
    /// Fails when there is no such message for this identity.
    fn check(_: &Known) -> Result<(), Refusal> {
        Ok(())
    }
    fn of(known: &Known) -> Self;
    /// The part of `known` that is kept to compare with the next. Not a key that the message does not hold: while a
    /// bundle stays the same the identity changes many times.
    fn kept(known: Known) -> Known {
        known.without_key()
    }
}

impl Known {
    fn without_key(self) -> Self {
        Self { context: Arc::new(self.context.without_key()), bundles: self.bundles }
    }
}

/// The private key, where it is.
struct KeyOf(Arc<X509Context>);

impl AsRef<[u8]> for KeyOf {
    fn as_ref(&self) -> &[u8] {
        &self.0.key_pkcs8
    }
}

impl Message for X509svidResponse {
    fn same(before: &Known, now: &Known) -> bool {
        Arc::ptr_eq(&before.context, &now.context) && before.bundles.foreign_x509 == now.bundles.foreign_x509
    }

    fn check(known: &Known) -> Result<(), Refusal> {
        known.context.check_key()
    }

    fn of(Known { context, bundles }: &Known) -> Self {
        let svid = X509svid {
            spiffe_id: context.id.to_string(),
            x509_svid: context.chain_der.concat().into(),
            x509_svid_key: Bytes::from_owner(KeyOf(Arc::clone(context))),
            bundle: context.bundle_der.concat().into(),
            hint: String::new(),
        };
        Self { svids: vec![svid], federated_bundles: foreign(context, bundles).collect(), ..Self::default() }
    }

    fn kept(known: Known) -> Known {
        known
    }
}

impl Message for X509BundlesResponse {
    fn same(before: &Known, now: &Known) -> bool {
        before.context.trust_domain == now.context.trust_domain
            && before.context.bundle_der == now.context.bundle_der
            && before.bundles.foreign_x509 == now.bundles.foreign_x509
    }

    fn of(Known { context, bundles }: &Known) -> Self {
        let own = (context.trust_domain.id().to_string(), context.bundle_der.concat().into());
        Self { bundles: foreign(context, bundles).chain([own]).collect(), ..Self::default() }
    }
}

impl Message for JwtBundlesResponse {
    fn same(before: &Known, now: &Known) -> bool {
        before.context.trust_domain == now.context.trust_domain && before.bundles.jwt == now.bundles.jwt
    }

    fn of(Known { context, bundles }: &Known) -> Self {
        let mut all: HashMap<String, Bytes> = bundles
            .jwt
            .iter()
            .map(|(domain, keys)| (domain.id().to_string(), keys.to_jwks().into()))
            .collect();
        // Our own trust domain's is always there, also when it has no key.
        all.entry(context.trust_domain.id().to_string())
            .or_insert_with(|| JwtKeys::default().to_jwks().into());
        Self { bundles: all }
    }
}

/// Roots of other trust domains, by their SPIFFE IDs.
fn foreign<'a>(context: &'a X509Context, bundles: &'a Bundles) -> impl Iterator<Item = (String, Bytes)> {
    let others = bundles.foreign_x509.iter().filter(|(domain, _)| **domain != context.trust_domain);
    others.map(|(domain, roots)| (domain.id().to_string(), roots.concat().into()))
}
