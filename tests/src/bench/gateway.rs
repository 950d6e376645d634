//! A gateway's `identityd`, joined.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use edgewarden_appraisal::{ReferenceValues, VendorRoots, appraise, challenge};
use edgewarden_ca::{RootCa, spki};
use edgewarden_exchange::client::Client;
use edgewarden_names::{UnixTime, pem};
use edgewarden_protocol::ask::Ask;
use edgewarden_protocol::control::{Reply, Request, questions};
use edgewarden_protocol::deployment::PAYLOAD_TYPE;
use edgewarden_protocol::dsse::{Envelope, Signature, pre_authentication_encoding};
use edgewarden_protocol::enrol::{Challenge, Enrolled};
use edgewarden_protocol::layout::Layout;
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use edgewarden_tests::process::Server;
use edgewarden_tests::{Failure, ensure};

use crate::common::{DAY, domain, failed, gateway};

/// A gateway with a simulated TPM, joined to a fleet that this program is.
pub struct Gateway {
    folder: tempfile::TempDir,
    pub tpm: SimulatedTpm,
    program: PathBuf,
    root: RootCa,
    operator: EcdsaKeyPair,
}

impl Gateway {
    pub fn new() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let tpm = SimulatedTpm::start(&folder.path().join("tpm"), Scenario::Normal).map_err(failed)?;
        let root = RootCa::create(&domain()?, 365 * DAY, UnixTime::now()).map_err(failed)?;
        let program = std::env::current_exe()?.with_file_name("edgewarden");
        ensure(program.exists(), || format!("`{}` is not built", program.display()))?;
        let operator = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let gateway = Self { folder, tpm, program, root, operator };
        gateway.configure()?;
        Ok(gateway)
    }

    pub fn layout(&self) -> Layout {
        Layout::new(self.folder.path())
    }

    pub fn configure(&self) -> Result<(), Failure> {
        self.configure_with("")
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn root(&self) -> &RootCa {
        &self.root
    }

    /// With more in the configuration.
    pub fn configure_with(&self, more: &str) -> Result<(), Failure> {
        let path = |name: &str| self.folder.path().join(name);
        fs::write(path("root.pem"), pem::encode(pem::CERTIFICATE, self.root.certificate_der()))?;
        let operator = spki::to_pem(self.operator.public_key().as_ref()).map_err(failed)?;
        fs::write(path("operator.pem"), operator)?;
        let config = format!(
            "[gateway]\nname = \"gw-bench\"\ntrust_domain = \"bench.example\"\n\
             [fleet]\nurl = \"https://127.0.0.1:1\"\nroot = \"{}\"\noperator_keys = [\"{}\"]\n\
             [keystore]\nkind = \"dangerous-simulated-tpm\"\naddress = \"127.0.0.1:{}\"\n\
             [attestation]\nevent_log = \"{}\"\n{more}",
            path("root.pem").display(),
            path("operator.pem").display(),
            self.tpm.port(),
            self.tpm.event_log().display()
        );
        let file = self.layout().config_file();
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        Ok(fs::write(file, config)?)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.folder.path()).arg("identityd").env("TSS2_LOG", "all+NONE");
        command
    }

    pub fn start(&self) -> Result<Server, Failure> {
        Server::start("identityd", &mut self.command(), &self.folder.path().join("identityd.log"))
    }

    pub async fn ask<Q>(&self, question: Q) -> Result<Q::Answer, Failure>
    where
        Q: Ask<Request = Request, Reply = Reply>,
    {
        let mut client = Client::connect(&self.layout().control_socket()).await.map_err(failed)?;
        client.ask(question).await.map_err(failed)
    }

    pub async fn join(&self) -> Result<(), Failure> {
        let now = UnixTime::now();
        let vendors = VendorRoots::from_pem(&fs::read(self.tpm.vendor_ca())?).map_err(failed)?;
        let log = fs::read(self.tpm.event_log())?;
        let references = [ReferenceValues::learn("normal", &log).map_err(failed)?];
        let keys = self.ask(questions::EnrolKeys).await?;
        let (parts, pending) = challenge(&keys, &vendors, now).map_err(failed)?;
        let asked = Challenge {
            session: "1".into(),
            nonce: parts.nonce,
            pcrs: parts.pcrs,
            credential: parts.credential,
        };
        let proof = self.ask(questions::EnrolProve(asked)).await?;
        let appraised =
            appraise(&pending, &proof, &references, now).map_err(|failure| failed(failure.refusal))?;
        let issued = self.root.certify_gateway_ca(appraised.ca_public_point(), &gateway()?, 30 * DAY, now);
        let chain = issued.map_err(failed)?.chain_der;
        let enrolled = Enrolled {
            gateway_ca: chain.first().cloned().unwrap_or_default().into(),
            root: self.root.certificate_der().into(),
            verdict: appraised.verdict().clone(),
        };
        self.ask(questions::EnrolAccept(Box::new(enrolled))).await
    }

    /// Puts a deployment in force.
    pub async fn deploy(&self, document: &serde_json::Value) -> Result<(), Failure> {
        let payload = document.to_string().into_bytes();
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, &payload);
        let sig = self.operator.sign(&SystemRandom::new(), &signed).map_err(failed)?.as_ref().into();
        let signatures = vec![Signature { keyid: "operator".into(), sig }];
        let envelope =
            Envelope { payload_type: PAYLOAD_TYPE.into(), payload: payload.as_slice().into(), signatures };
        let bytes = serde_json::to_vec(&envelope).map_err(failed)?;
        self.ask(questions::DeploymentAccept(bytes.into())).await.map(drop)
    }
}
