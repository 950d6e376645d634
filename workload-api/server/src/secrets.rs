//! `edgewarden.secrets.v1` on the socket: the caller is judged as for an identity, before each message.
//!
//! Opening a value takes the keystore, which is slow and everybody's: each socket has one place for it, so that a module
//! that asks without pause waits for itself.

use std::pin::Pin;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal, SecretName};
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_workload_wire::secrets::{Secret, Secrets};
use edgewarden_workload_wire::secrets_v1::secrets_server::Secrets as Rpc;
use edgewarden_workload_wire::secrets_v1::{GetRequest, Secret as Message, WatchRequest, WatchResponse};
use futures_util::Stream;
use futures_util::stream::unfold;
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status, async_trait};

use crate::caller::Caller;
use crate::limits::STREAMS_MAX;
use crate::places::take;
use crate::secret_source::SecretSource;
use crate::source::IdentitySource;
use crate::status::{authorize, status, unknown};
use crate::turns::Turns;

/// Longest name that is looked at.
const NAME_BYTES_MAX: usize = 63;

#[derive(Clone)]
pub(super) struct Service {
    pub(super) source: Arc<dyn IdentitySource>,
    pub(super) streams: Arc<Semaphore>,
    /// The place for opening.
    pub(super) opening: Arc<Semaphore>,
    pub(super) stopped: watch::Receiver<()>,
    pub(super) turns: Turns,
}

impl Service {
    async fn caller<Q: Sync>(&self, request: &Request<Q>) -> Result<PeerEvidence, Status> {
        let _turn = self.turns.mine().await;
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
        let caller = caller.ok_or_else(|| status(&unknown()))?;
        authorize(&*self.source, &caller)?;
        Ok(caller)
    }

    fn secrets(&self) -> Result<Arc<dyn SecretSource>, Status> {
        self.source.secrets().ok_or_else(|| Status::unimplemented("this socket has no secrets"))
    }

    /// Runs what blocks on the keystore. The caller is judged again afterwards: it may have waited long.
    async fn open<T: Send + 'static>(
        &self,
        caller: &PeerEvidence,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Status> {
        let place = Arc::clone(&self.opening).acquire_owned().await.map_err(|_| ended("it is stopping"))?;
        let opened = tokio::task::spawn_blocking(move || {
            // Kept until the work is done, also when nobody waits for it any more.
            let _place = place;
            work()
        });
        let opened = opened.await.map_err(|_| ended("it is stopping"))?;
        let opened = opened.map_err(|refusal| status(&refusal))?;
        authorize(&*self.source, caller)?;
        Ok(opened)
    }
}

fn ended(rule: &str) -> Status {
    status(&Refusal::new(Reason::IdentityUnavailable, "secrets", rule))
}

fn message(secret: Secret) -> Message {
    // The bytes are wiped with their last reference.
    let Secret { name, version, value } = secret;
    Message { name: name.to_string(), version, value: Bytes::from_owner(value) }
}

struct Watching {
    service: Service,
    secrets: Arc<dyn SecretSource>,
    changes: watch::Receiver<u64>,
    caller: PeerEvidence,
    caller_exited: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The revision that the caller has.
    revision: Option<String>,
    _permit: OwnedSemaphorePermit,
}

impl Watching {
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            tokio::select! {
                biased;
                _ = self.service.stopped.changed() => return Err(ended("the service is stopping")),
                () = &mut self.caller_exited => {
                    let rule = "the process that opened this stream has exited";
                    return Err(status(&Refusal::new(Reason::CallerUnknown, "caller", rule)));
                }
                changed = self.changes.changed() => changed.map_err(|_| ended("it is stopping"))?,
            }
            self.changes.mark_unchanged();
            authorize(&*self.service.source, &self.caller)?;
            let revision = self.secrets.revision().map_err(|refusal| status(&refusal))?;
            if self.revision.as_ref() == Some(&revision) {
                continue;
            }
            let secrets = Arc::clone(&self.secrets);
            let Secrets { revision, secrets } =
                self.service.open(&self.caller, move || secrets.all()).await?;
            self.revision = Some(revision);
            return Ok(WatchResponse { secrets: secrets.into_iter().map(message).collect() });
        }
    }
}

#[async_trait]
impl Rpc for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Message>, Status> {
        let caller = self.caller(&request).await?;
        let secrets = self.secrets()?;
        let name = request.into_inner().name;
        let parsed = if name.len() <= NAME_BYTES_MAX { SecretName::parse(&name).ok() } else { None };
        let name =
            parsed.ok_or_else(|| Status::invalid_argument("request.invalid: this is no secret's name"))?;
        let secret = self.open(&caller, move || secrets.get(&name)).await?;
        Ok(Response::new(message(secret)))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.caller(&request).await?;
        let secrets = self.secrets()?;
        let permit = take(&self.streams, STREAMS_MAX)?;
        let mut changes = secrets.changes().map_err(|refusal| status(&refusal))?;
        // The first message comes at once.
        changes.mark_changed();
        let watched = caller.clone();
        // An error means that the process cannot be watched; what cannot be watched is not answered either.
        let caller_exited = Box::pin(async move { drop(watched.exited().await) });
        let service = self.clone();
        let state =
            Watching { service, secrets, changes, caller, caller_exited, revision: None, _permit: permit };
        let stream = unfold(Some(state), async |state| {
            let mut state = state?;
            match state.next().await {
                Ok(message) => Some((Ok(message), Some(state))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
