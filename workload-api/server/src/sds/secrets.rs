//! The secrets that a module has, by their names, in Envoy's messages.
//!
//! | name | secret |
//! |---|---|
//! | `default`, the module's SPIFFE ID | its certificate chain and key |
//! | `ROOTCA`, the trust domain's SPIFFE ID | what peers of its own trust domain are validated by |
//! | a foreign trust domain's SPIFFE ID | what peers of that one are validated by |
//! | `ALL` | what peers of its own and of each foreign trust domain are validated by, each by its own roots |
//!
//! The names are SPIRE's, so that a configuration written for it works here.

use std::hash::{DefaultHasher, Hash, Hasher};

use edgewarden_names::{Reason, Refusal, TrustDomain, pem};
use edgewarden_svid::X509Context;
use edgewarden_workload_wire::envoy::envoy::config::core::v3::{
    DataSource, TypedExtensionConfig, data_source::Specifier,
};
use edgewarden_workload_wire::envoy::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
    spiffe_cert_validator_config::TrustDomain as ValidatedDomain,
};
use prost::Message;
use prost::bytes::Bytes;
use prost_types::Any;
use zeroize::Zeroizing;

use super::resource::{Known, SECRET_TYPE};
use super::validator::Validator;

const DEFAULT: &str = "default";
const OWN_ROOTS: &str = "ROOTCA";
const ALL_ROOTS: &str = "ALL";

const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const SPIFFE_VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// One trust domain and its roots, DER.
type Bundle<'a> = (&'a TrustDomain, &'a [Vec<u8>]);

/// The secrets that an identity has to give, without copies of it.
#[derive(Clone)]
pub(super) struct Holdings<'a> {
    context: &'a X509Context,
    /// The own trust domain first.
    bundles: Vec<Bundle<'a>>,
}

/// One secret of those that there are.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Certificate(&'a X509Context),
    Roots(Bundle<'a>),
    AllRoots,
}

impl<'a> Holdings<'a> {
    pub(super) fn of(known: &'a Known) -> Self {
        let own = &known.context.trust_domain;
        let foreign = known.foreign.iter().filter(|(domain, roots)| *domain != own && !roots.is_empty());
        let foreign = foreign.map(|(domain, roots)| (domain, roots.as_slice()));
        let bundles = std::iter::once((own, known.context.bundle_der.as_slice())).chain(foreign).collect();
        Self { context: &known.context, bundles }
    }

    /// The names under which everything is given to a client that asks for all.
    pub(super) fn names(&self) -> Vec<String> {
        let domains = self.bundles.iter().map(|(domain, _)| domain.id().to_string());
        let own = self.context.check_key().is_ok().then(|| self.context.id.to_string());
        own.into_iter().chain(domains).collect()
    }

    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        match name {
            DEFAULT => Some(Found::Certificate(self.context)),
            OWN_ROOTS => self.bundles.first().map(|bundle| Found::Roots(*bundle)),
            ALL_ROOTS => Some(Found::AllRoots),
            _ if name == self.context.id.as_str() => Some(Found::Certificate(self.context)),
            _ => {
                let mut bundles = self.bundles.iter();
                bundles.find(|(domain, _)| domain.id().as_str() == name).map(|bundle| Found::Roots(*bundle))
            }
        }
    }

    /// Changes when the secret does, and is the same on each stream. Of certificates only: nothing of a key is in it.
    pub(super) fn version(&self, found: Found<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        match found {
            Found::Certificate(context) => context.chain_der.hash(&mut hasher),
            Found::Roots((_, roots)) => roots.hash(&mut hasher),
            Found::AllRoots => {
                for (domain, roots) in &self.bundles {
                    domain.as_str().hash(&mut hasher);
                    roots.hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }

    pub(super) fn secret(&self, name: &str, found: Found<'_>, by: Validator) -> Result<Any, Refusal> {
        let kind = match found {
            Found::Certificate(context) => {
                context.check_key()?;
                Type::TlsCertificate(certificate(context))
            }
            Found::Roots(bundle) => Type::ValidationContext(validation(&[bundle], bundle, by)),
            Found::AllRoots if by == Validator::Spiffe => {
                let own = self.bundles.first().ok_or_else(|| unknown(name))?;
                Type::ValidationContext(validation(&self.bundles, *own, by))
            }
            // One list with the roots of several trust domains would let each vouch for all the others.
            Found::AllRoots => {
                let rule = "only Envoy's SPIFFE certificate validator (since 1.18) keeps trust domains apart";
                return Err(Refusal::new(Reason::SdsName, name, format_args!("`{name}`: {rule}")));
            }
        };
        let secret = Secret { name: name.to_owned(), r#type: Some(kind) };
        Ok(Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() })
    }
}

pub(super) fn unknown(name: &str) -> Refusal {
    let shown: String = name.chars().take(256).filter(|c| !c.is_control()).collect();
    let rule = format_args!("`{shown}` is no secret of this module");
    Refusal::new(Reason::SdsName, "resource_names", rule)
}

fn certificate(context: &X509Context) -> TlsCertificate {
    let key = Zeroizing::new(
        std::mem::take(&mut *pem::encode_secret(pem::PRIVATE_KEY, &context.key_pkcs8)).into_bytes(),
    );
    TlsCertificate {
        certificate_chain: Some(inline(pem::chain(&context.chain_der).into_bytes().into())),
        private_key: Some(inline(Bytes::from_owner(key))),
    }
}

fn validation(bundles: &[Bundle<'_>], own: Bundle<'_>, by: Validator) -> CertificateValidationContext {
    let roots = |(_, roots): &Bundle<'_>| inline(pem::chain(roots).into_bytes().into());
    if by == Validator::PlainRoots {
        return CertificateValidationContext { trusted_ca: Some(roots(&own)), custom_validator_config: None };
    }
    let domain = |bundle: &Bundle<'_>| ValidatedDomain {
        name: bundle.0.as_str().to_owned(),
        trust_bundle: Some(roots(bundle)),
    };
    let config = SpiffeCertValidatorConfig { trust_domains: bundles.iter().map(domain).collect() };
    let config = Any { type_url: SPIFFE_VALIDATOR_TYPE.to_owned(), value: config.encode_to_vec() };
    let validator = TypedExtensionConfig { name: SPIFFE_VALIDATOR.to_owned(), typed_config: Some(config) };
    CertificateValidationContext { trusted_ca: None, custom_validator_config: Some(validator) }
}

fn inline(bytes: Bytes) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sds::resource::tests::{FOREIGN, known};

    #[test]
    fn each_trust_domain_is_validated_by_its_own_roots() {
        let known = known(&[FOREIGN]);
        let holdings = Holdings::of(&known);
        let validated = |name: &str| {
            let any = holdings.secret(name, holdings.find(name).unwrap(), Validator::Spiffe).unwrap();
            let Some(Type::ValidationContext(context)) = Secret::decode(any.value.as_slice()).unwrap().r#type
            else {
                panic!("no validation context");
            };
            let config = context.custom_validator_config.unwrap().typed_config.unwrap();
            let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
            config
                .trust_domains
                .into_iter()
                .map(|domain| (domain.name, domain.trust_bundle))
                .collect::<Vec<_>>()
        };
        let roots = |der: &[u8]| Some(inline(pem::chain(&[der.to_vec()]).into_bytes().into()));
        let own = ("plant.example".to_owned(), roots(b"own root"));
        let foreign = ("other.example".to_owned(), roots(b"root of other.example"));
        assert!(validated("ROOTCA") == [own.clone()] && validated("spiffe://plant.example") == [own.clone()]);
        assert!(validated(FOREIGN) == [foreign.clone()]);
        assert!(validated("ALL") == [own, foreign]);
        assert!(holdings.secret("ALL", Found::AllRoots, Validator::PlainRoots).is_err());
        assert_eq!(holdings.names().last().map(String::as_str), Some(FOREIGN));
    }

    #[test]
    fn a_version_changes_with_what_it_is_of() {
        let (one, two) = (known(&[]), known(&[FOREIGN]));
        let version = |known: &Known, name: &str| {
            let holdings = Holdings::of(known);
            holdings.version(holdings.find(name).unwrap())
        };
        assert_eq!(version(&one, "default"), version(&two, "default"));
        assert_eq!(version(&one, "ROOTCA"), version(&two, "ROOTCA"));
        assert_ne!(version(&one, "ALL"), version(&two, "ALL"));
        assert_ne!(version(&one, "default"), version(&one, "ROOTCA"));
    }
}
