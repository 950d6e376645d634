//! Enrolment and renewal: the shell around [`sessions`], [`decide`] and the appraisal.
//!
//! Trusts nothing that the gateway says but what the appraisal proved. A gateway CA is certified from an
//! [`Appraised`] only, and token, binding, verdict and CA key are committed together before the gateway hears of it.

pub mod decide;
pub mod sessions;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use edgewarden_appraisal::{Appraised, ChallengeParts, Failure, Pending, VendorRoots, appraise, challenge};
use edgewarden_ca::RootCa;
use edgewarden_names::{Digest, GatewayName, Reason, Refusal, UnixTime};
use edgewarden_protocol::enrol::{Begin, Challenge, Enrolled, Finish, Proof};
use tokio::sync::Semaphore;

use crate::Problem;
use crate::lease::{self, Certificate, Lease};
use crate::store::Store;
use crate::store::devices::{Admission, Attempt, Binding};
use decide::Known;
use sessions::Sessions;

/// Challenges and appraisals at once. They are CPU work: RSA, certificate chains, up to 2 MiB of event log.
const APPRAISALS_MAX: usize = 2;

/// An enrolment between its two halves: the challenge was sent, its answer has not come.
#[derive(Debug)]
struct Begun {
    gateway: GatewayName,
    token: Option<[u8; 32]>,
    binding: Binding,
    pending: Pending,
}

/// The end of an enrolment or a renewal.
#[derive(Debug)]
pub struct Finished {
    pub gateway: GatewayName,
    pub outcome: Result<Enrolled, Problem>,
}

/// Enrolment of gateways: open sessions, the store, and the root that certifies gateway CAs.
#[derive(Debug)]
pub struct Enrolment {
    store: Store,
    root: Arc<RootCa>,
    leases: Vec<Lease>,
    sessions: Mutex<Sessions<Begun>>,
    appraisals: Semaphore,
    vendors: Vendors,
}

/// The vendors' certificates as they were read last, with the text that they were read from.
type Vendors = Arc<Mutex<Option<(String, Arc<VendorRoots>)>>>;

impl Enrolment {
    /// Enrolment without a session, which certifies for as long as `leases` say.
    pub fn new(store: Store, root: Arc<RootCa>, leases: Vec<Lease>) -> Self {
        Self {
            store,
            root,
            leases,
            sessions: Mutex::default(),
            appraisals: Semaphore::new(APPRAISALS_MAX),
            vendors: Vendors::default(),
        }
    }

    /// Opens a session and challenges the device to prove its keys. Refuses a bad token or form; a refusal with a good
    /// token counts against that token.
    pub async fn begin(&self, request: Begin, source: IpAddr, now: UnixTime) -> Result<Challenge, Problem> {
        decide::check_form(&request, self.root.domain())?;
        let token_hash = request.token.as_ref().map(|token| token_hash(token.reveal()));
        let token = match &token_hash {
            Some(hash) => self.store.token(hash).await?,
            None => None,
        };
        let device = self.store.device(&request.gateway).await?;
        let bound = device.map(|device| device.binding);
        let known = Known { token: token.as_ref(), binding: bound.as_ref(), name_of_endorsement: None };
        let is_join = decide::check_token(&request, known, now)?;

        let begun = self.challenge(request, token_hash, known, is_join, now).await;
        // With a good token in hand it was a try.
        if let (Err(Problem::Refused(_)), Some(hash), true) = (&begun, &token_hash, is_join) {
            self.store.count_failure(hash).await?;
        }
        let (begun, parts) = begun?;
        let session = random_text()?;
        self.sessions().open(session.clone(), source, begun, now)?;
        Ok(Challenge { session, nonce: parts.nonce, pcrs: parts.pcrs, credential: parts.credential })
    }

    async fn challenge(
        &self,
        request: Begin,
        token: Option<[u8; 32]>,
        known: Known<'_>,
        is_join: bool,
        now: UnixTime,
    ) -> Result<(Begun, ChallengeParts), Problem> {
        let keys = request.keys.clone();
        let permit = self.appraisals.acquire().await.map_err(Problem::internal)?;
        let bundle = self.store.vendor_bundle().await?;
        let vendors = Arc::clone(&self.vendors);
        let (parts, pending) =
            blocking(move || challenge(&keys, vendor_roots(&vendors, bundle).as_ref(), now)).await??;
        drop(permit);
        let binding = Binding {
            endorsement: pending.device().clone(),
            attestation: decide::attestation_of(&request.keys),
        };
        let name_of = self.store.name_of(&binding.endorsement).await?;
        let known = Known { name_of_endorsement: name_of.as_ref(), ..known };
        decide::check_binding(&request.gateway, &binding, known, is_join)?;
        Ok((Begun { gateway: request.gateway, token, binding, pending }, parts))
    }

    /// Spends the session whatever comes of it. Fails when there is no such session.
    pub async fn finish(&self, finish: Finish, now: UnixTime) -> Result<Finished, Problem> {
        let begun = self.sessions().take(&finish.session, now)?;
        let gateway = begun.gateway.clone();
        let outcome = self.conclude(begun, finish, now).await;
        Ok(Finished { gateway, outcome })
    }

    async fn conclude(&self, begun: Begun, finish: Finish, now: UnixTime) -> Result<Enrolled, Problem> {
        let evidence = evidence_digest(&finish.proof)?;
        let permit = self.appraisals.acquire().await.map_err(Problem::internal)?;
        let references = self.store.references().await?;
        let (pending, proof) = (begun.pending.clone(), finish.proof);
        let (judged, proof) = blocking(move || {
            let judged = appraise(&pending, &proof, &references, now);
            (judged, proof)
        })
        .await?;
        drop(permit);
        match judged {
            Ok(appraised) => self.admit(&begun, &appraised, evidence, now).await,
            Err(failure) => Err(self.keep_failure(&begun, *failure, &proof, evidence, now).await?.into()),
        }
    }

    async fn admit(
        &self,
        begun: &Begun,
        appraised: &Appraised,
        evidence: Digest,
        now: UnixTime,
    ) -> Result<Enrolled, Problem> {
        let point = appraised.ca_public_point();
        let issued = self
            .root
            .certify_gateway_ca(point, &begun.gateway, self.lifetime(begun).await?, now)
            .map_err(Problem::internal)?;
        let certificate = Certificate::lasting(issued.not_before, issued.not_after);
        let gateway_ca = issued.chain_der.into_iter().next().ok_or_else(|| {
            Refusal::new(Reason::Internal, &begun.gateway, "the fleet's root has made no certificate")
        })?;
        let verdict = appraised.verdict().clone();
        let attempt = Attempt { at: now, verdict: verdict.clone(), refusal: None, evidence, event_log: None };
        let admission = Admission {
            gateway: &begun.gateway,
            binding: &begun.binding,
            token: begun.token.as_ref(),
            ca_key: &Digest::of(point),
            certificate: &certificate,
            attempt: &attempt,
        };
        self.store.admit(&admission, now).await??;
        Ok(Enrolled { gateway_ca: gateway_ca.into(), root: self.root.certificate_der().into(), verdict })
    }

    /// By the operator's labels: those that the token gives, or the gateway has. Never by what it says of itself.
    async fn lifetime(&self, begun: &Begun) -> Result<Duration, Problem> {
        let labels = match &begun.token {
            Some(hash) => self.store.token(hash).await?.map(|token| token.grant.labels),
            None => self.store.device(&begun.gateway).await?.map(|device| device.labels),
        };
        Ok(lease::lifetime(&self.leases, &labels.unwrap_or_default()))
    }

    async fn keep_failure(
        &self,
        begun: &Begun,
        failure: Failure,
        proof: &Proof,
        evidence: Digest,
        now: UnixTime,
    ) -> Result<Refusal, Problem> {
        // What anybody could have sent in the gateway's name must not take a healthy gateway down, and only an event
        // log that the TPM vouched for may become a reference later.
        let proven = failure.is_genuine();
        let event_log = match proof {
            Proof::Tpm(tpm) if failure.has_proven_log() => Some(tpm.event_log.as_slice().to_vec()),
            Proof::Tpm(_) | Proof::None { .. } => None,
        };
        if let Some(token) = &begun.token {
            self.store.count_failure(token).await?;
        }
        let Failure { refusal, verdict } = failure;
        if proven {
            let attempt = Attempt { at: now, verdict, refusal: Some(refusal.clone()), evidence, event_log };
            self.store.add_failure(&begun.gateway, &begun.binding.endorsement, &attempt).await?;
        }
        let what = if begun.token.is_some() { "join" } else { "renewal" };
        let text = format!("{what} refused: {}", refusal.rule);
        self.store.add_refusal(&begun.gateway, refusal.reason, &text, now).await?;
        Ok(refusal)
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions<Begun>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bundle may hold thousands of certificates, which are read anew only when it has changed: not for a thread that
/// serves others. What cannot be read vouches for nothing.
fn vendor_roots(last: &Mutex<Option<(String, Arc<VendorRoots>)>>, bundle: String) -> Arc<VendorRoots> {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((text, roots)) if *text == bundle => Arc::clone(roots),
        _ => {
            let roots = Arc::new(VendorRoots::from_pem(bundle.as_bytes()).unwrap_or_default());
            *last = Some((bundle, Arc::clone(&roots)));
            roots
        }
    }
}

/// SHA-256 of a join token's text: all that is stored of it.
pub fn token_hash(token: &str) -> [u8; 32] {
    edgewarden_names::sha256(token.as_bytes())
}

/// 32 random bytes, hexadecimal.
pub fn random_text() -> Result<String, Problem> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)
        .map_err(|_| Problem::from(Refusal::new(Reason::Internal, "random", "no random numbers")))?;
    Ok(hex::encode(bytes))
}

fn evidence_digest(proof: &Proof) -> Result<Digest, Problem> {
    Ok(Digest::of(&serde_json::to_vec(proof).map_err(Problem::internal)?))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)
}
