//! The fleet's server: how many syncs it answers a second, by how many gateways and deployments it has.
//!
//! Asked as gateways ask: by mutual TLS, each on a connection of its own that it keeps, with a report that is on the disk
//! before the answer. The fleet's database is filled beforehand; the server is the program that people run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_ca::{IssuingCa, RootCa};
use edgewarden_fleet::data_dir::{DataDir, Settings};
use edgewarden_fleet::lease::Certificate;
use edgewarden_fleet::selection::Labels;
use edgewarden_fleet::store::deployments::NewDeployment;
use edgewarden_fleet::store::devices::{Admission, Attempt, Binding};
use edgewarden_fleet::store::tokens::Grant;
use edgewarden_names::{Architecture, Digest, ErrorChain, GatewayName, ModuleName, SpiffeId, UnixTime};
use edgewarden_protocol::enrol::{Check, Verdict, VerdictState};
use edgewarden_protocol::uplink::{DeploymentReport, ModuleReport, ModuleState, Report, Sync, SyncReply};
use edgewarden_svid::X509Context;
use edgewarden_tests::process::{Server, wait_for};
use edgewarden_tests::{Failure, ensure};
use edgewarden_transport::Identity;
use edgewarden_transport::http::Client;
use edgewarden_transport::tls::{client_config, fleet_id, only};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::common::{DAY, Key, WAIT, domain, failed, runtime};
use crate::number::{Number, Target};

/// Gateways that ask at the same time, each again as soon as it is answered.
const ASKING: usize = 64;
const SAMPLE: Duration = Duration::from_millis(250);
const SAMPLES: usize = 40;
const GROUPS: usize = 10;
const SITES: usize = 1000;
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

pub fn fleet() -> Result<Vec<Number>, Failure> {
    let folder = tempfile::tempdir()?;
    runtime()?.block_on(async {
        let mut few = Filled::new(&folder.path().join("few")).await?;
        few.grow(1000, 10).await?;
        let mut many = few.copy(&folder.path().join("many"))?;
        let mut numbers = vec![few.syncs("fleet syncs, 1,000 gateways, 10 deployments").await?];
        many.grow(1000, 1000).await?;
        numbers.push(many.syncs("fleet syncs, 1,000 gateways, 1,000 deployments").await?);
        few.grow(10_000, 10).await?;
        numbers.push(few.syncs("fleet syncs, 10,000 gateways, 10 deployments").await?);
        few.grow(10_000, 1000).await?;
        numbers.push(few.syncs("fleet syncs, 10,000 gateways, 1,000 deployments").await?);
        Ok(numbers)
    })
}

/// A fleet's folder with so much in it.
struct Filled {
    data: DataDir,
    gateways: usize,
    deployments: usize,
    /// Every gateway's: the fleet tells gateways apart by name and key together.
    ca: Arc<Key>,
}

fn name(n: usize) -> Result<GatewayName, Failure> {
    GatewayName::parse(&format!("gw-{n}")).map_err(failed)
}

/// The bytes of a number, as a token or a key that no other number has.
fn unique(what: &str, n: usize) -> Digest {
    Digest::of(format!("{what} {n}").as_bytes())
}

fn token(n: usize) -> [u8; 32] {
    let mut token = [0; 32];
    for (place, byte) in token.iter_mut().zip(n.to_be_bytes()) {
        *place = byte;
    }
    token
}

impl Filled {
    async fn new(folder: &Path) -> Result<Self, Failure> {
        let data = DataDir::new(folder);
        let settings =
            Settings { trust_domain: domain()?, hosts: vec!["127.0.0.1".into()], lease: Vec::new() };
        data.init(&settings, UnixTime::now()).await.map_err(failed)?;
        let ca = Key(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?);
        Ok(Self { data, gateways: 0, deployments: 0, ca: Arc::new(ca) })
    }

    fn copy(&self, to: &Path) -> Result<Self, Failure> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(self.data.folder())? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        let ca = Arc::clone(&self.ca);
        Ok(Self { data: DataDir::new(to), gateways: self.gateways, deployments: self.deployments, ca })
    }

    /// Up to so many gateways, each of one of ten groups and one of a thousand sites, and up to so many deployments: one for
    /// each group, the others each for a site.
    async fn grow(&mut self, gateways: usize, deployments: usize) -> Result<(), Failure> {
        let store = self.data.open_database().await.map_err(failed)?;
        let now = UnixTime::now();
        for n in self.gateways..gateways {
            if n % 500 == 0 {
                self.forget_events().await?;
            }
            let gateway = name(n)?;
            let labels = Labels::from([
                ("group".into(), (n % GROUPS).to_string()),
                ("site".into(), (n % SITES).to_string()),
            ]);
            let grant =
                Grant { gateway: gateway.clone(), expires: now.plus(DAY), allow_software: true, labels };
            store.add_token(&token(n), &grant, now).await.map_err(failed)?;
            let attempt = Attempt {
                at: now,
                verdict: verdict(now),
                refusal: None,
                evidence: unique("evidence", n),
                event_log: None,
            };
            let admission = Admission {
                gateway: &gateway,
                binding: &Binding { endorsement: unique("ek", n), attestation: unique("ak", n) },
                token: Some(&token(n)),
                ca_key: &Digest::of(self.ca.0.public_key().as_ref()),
                certificate: &Certificate::lasting(now, now.plus(DAY * 30)),
                attempt: &attempt,
            };
            store.admit(&admission, now).await.map_err(failed)?.map_err(failed)?;
        }
        for n in self.deployments..deployments {
            let (label, version) = if n < GROUPS { ("group", 1) } else { ("site", 2) };
            let envelope = format!("{{\"deployment\":\"{label}-{n}\"}}");
            let new = NewDeployment {
                digest: &Digest::of(envelope.as_bytes()),
                name: &format!("{label}-{n}"),
                version,
                selector: &Labels::from([(label.into(), n.to_string())]),
                signer: Some("operator"),
                envelope: envelope.as_bytes(),
            };
            store.add_deployment(&new, now).await.map_err(failed)?;
        }
        store.close().await;
        (self.gateways, self.deployments) = (gateways, deployments);
        Ok(())
    }

    /// Deletes the events. They tell of the filling, make each further step of it slower, and are not what is measured.
    async fn forget_events(&self) -> Result<(), Failure> {
        let options = SqliteConnectOptions::new().filename(self.data.database());
        let mut database = options.connect().await.map_err(failed)?;
        sqlx::raw_sql("DELETE FROM event").execute(&mut database).await.map_err(failed)?;
        database.close().await.map_err(failed)
    }

    /// Serves, and counts what is answered.
    async fn syncs(&self, name: &'static str) -> Result<Number, Failure> {
        let mut server = self.serve()?;
        let address = self.data.address().map_err(failed)?;
        let address = address.ok_or_else(|| Failure::new("the server has no address"))?;
        let root = self.data.root().map_err(failed)?;
        let answered = Arc::new(AtomicU64::new(0));
        let mut asking = JoinSet::new();
        for n in 0..ASKING {
            let client = self.client(n * self.gateways / ASKING, &root, &format!("https://{address}"))?;
            asking.spawn(ask(client, Arc::clone(&answered)));
        }
        let mut values = Vec::new();
        // The first are of handshakes, and of what is read once.
        for n in 0..SAMPLES + 4 {
            let before = (answered.load(Ordering::Relaxed), tokio::time::Instant::now());
            tokio::select! {
                () = tokio::time::sleep(SAMPLE) => {}
                Some(ended) = asking.join_next() => ended.map_err(failed)??,
            }
            let count = u32::try_from(answered.load(Ordering::Relaxed) - before.0).map_err(failed)?;
            if n >= 4 {
                values.push(f64::from(count) / before.1.elapsed().as_secs_f64());
            }
        }
        asking.shutdown().await;
        server.check()?;
        server.stop();
        Ok(Number::of_values(name, "1/s", Target::Rate, values))
    }

    fn serve(&self) -> Result<Server, Failure> {
        let program: PathBuf = std::env::current_exe()?.with_file_name("edgewarden-fleet");
        ensure(program.exists(), || format!("`{}` is not built", program.display()))?;
        let address = self.data.folder().join("address");
        drop(fs::remove_file(&address));
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(self.data.folder());
        let mut server = Server::start("the fleet", &mut command, &self.data.folder().join("log"))?;
        // It reads its database from end to end first.
        wait_for("the fleet", WAIT * 6, || {
            server.check()?;
            ensure(address.exists(), || "it does not listen yet".into())
        })?;
        Ok(server)
    }

    /// Client of the fleet as `runtimed` of the gateway with this number is one.
    fn client(&self, n: usize, root: &RootCa, url: &str) -> Result<Client, Failure> {
        let (domain, gateway, now) = (domain()?, name(n)?, UnixTime::now());
        let point = self.ca.0.public_key().as_ref();
        let certified = root.certify_gateway_ca(point, &gateway, DAY * 30, now).map_err(failed)?;
        let certificate = certified.chain_der.first().ok_or_else(|| Failure::new("no certificate"))?;
        let issuing = IssuingCa::create(&*self.ca, certificate, &domain, &gateway, DAY * 8, now);
        let id = SpiffeId::module(&domain, &gateway, &ModuleName::parse("runtimed").map_err(failed)?);
        let svid = issuing.map_err(failed)?.issue_svid(&id, &[], DAY / 24, now).map_err(failed)?;
        let context = X509Context {
            id: svid.id,
            chain_der: svid.chain_der,
            key_pkcs8: svid.key_pkcs8,
            bundle_der: vec![root.certificate_der().to_vec()],
            trust_domain: domain.clone(),
        };
        let (_, current) = watch::channel(Some(Arc::new(context)));
        let tls = client_config(&Identity::new(current), only(fleet_id(&domain))).map_err(failed)?;
        Client::new(url, tls).map_err(failed)
    }
}

/// Takes its deployment, then says again and again that it has it. Ends with what goes wrong only.
async fn ask(client: Client, answered: Arc<AtomicU64>) -> Result<(), Failure> {
    let mut sync = Sync { have: None, wait_seconds: 0, report: report()?, secrets: None };
    loop {
        let reply: SyncReply = client
            .post_json("/v1/gateway/sync", &sync, REPLY_BYTES_MAX, WAIT)
            .await
            .map_err(|error| failed(ErrorChain(&error).to_string()))?;
        if let Some(envelope) = reply.deployment {
            ensure(sync.have.is_none(), || "it was sent what it has".into())?;
            sync.have = Some(Digest::of(envelope.as_slice()));
        } else {
            ensure(sync.have.is_some(), || "there is no deployment for it".into())?;
        }
        sync.report.at = UnixTime::now();
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// As long as one of a TPM.
fn verdict(now: UnixTime) -> Verdict {
    let check = |n| Check {
        name: format!("check {n}"),
        passed: true,
        detail: "it carries this challenge's nonce and the request".into(),
    };
    Verdict {
        state: VerdictState::Fresh,
        hardware: "tpm id:00001014 swtpm".into(),
        reference: Some("gateway-2026-11".into()),
        checks: (0..14).map(check).collect(),
        at: now,
        expires: now.plus(DAY),
    }
}

/// Of a gateway with a few modules.
fn report() -> Result<Report, Failure> {
    let module = |name: &str| {
        Ok::<_, Failure>(ModuleReport {
            name: ModuleName::parse(name).map_err(failed)?,
            image: format!("registry.example/clinic/{name}@{}", unique("image", name.len())),
            state: ModuleState::Running,
            generation: 1,
            restarts: 0,
            reason: None,
            update: None,
        })
    };
    let now = UnixTime::now();
    Ok(Report {
        software_version: env!("CARGO_PKG_VERSION").into(),
        architecture: Some(Architecture::HERE),
        deployment: Some(DeploymentReport { name: "clinic".into(), version: 1 }),
        policy_epoch: None,
        modules: vec![module("analytics")?, module("alerts")?, module("keeper")?],
        refusals: Vec::new(),
        verdict: Some(verdict(now)),
        at: now,
    })
}
