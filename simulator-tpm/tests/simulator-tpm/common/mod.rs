//! A gateway's side of attestation on a simulated TPM, by tpm2-tools and two raw commands.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use edgewarden_appraisal::ChallengeParts;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::{Credential, DeviceKeys, TpmProof, binding};
use edgewarden_simulator_tpm::{EkAlgorithm, Scenario, SimulatedTpm};
use tempfile::TempDir;

/// Persistent handles of the test's keys, so that raw commands find them.
const AK: u32 = 0x8101_8000;
const CA: u32 = 0x8101_8001;

pub struct Gateway {
    pub tpm: SimulatedTpm,
    pub folder: TempDir,
    ek: EkAlgorithm,
}

impl Gateway {
    /// A manufactured and booted TPM with an attestation key (endorsement primary) and a gateway CA key.
    pub fn new(ek: EkAlgorithm) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tpm = SimulatedTpm::start(&folder.path().join("state"), Scenario::Normal).unwrap();
        let gateway = Self { tpm, folder, ek };
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign";
        let ak_attributes = format!("{attributes}|restricted");
        gateway.persist("e", "ecc256:ecdsa-sha256:null", &ak_attributes, AK);
        gateway.persist("o", "ecc256:ecdsa-sha256:null", attributes, CA);
        gateway
    }

    fn persist(&self, hierarchy: &str, algorithm: &str, attributes: &str, handle: u32) {
        self.tool(
            "tpm2_createprimary",
            &["-C", hierarchy, "-G", algorithm, "-a", attributes, "-c", "key.ctx"],
        );
        self.tool("tpm2_evictcontrol", &["-C", "o", "-c", "key.ctx", &format!("{handle:#x}")]);
        self.tool("tpm2_flushcontext", &["-t"]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> std::process::Output {
        Command::new("timeout")
            .args(["60", program])
            .args(arguments)
            .args(["-T", &format!("swtpm:host=127.0.0.1,port={}", self.tpm.port())])
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn ek_handle(&self) -> &'static str {
        match self.ek {
            EkAlgorithm::Rsa2048 => "0x81010001",
            EkAlgorithm::P384 => "0x81010016",
        }
    }

    fn public(&self, handle: &str) -> Bytes {
        self.tool("tpm2_readpublic", &["-c", handle, "-o", "public"]);
        Bytes(self.read("public")[2..].to_vec())
    }

    pub fn keys(&self) -> DeviceKeys {
        let index = match self.ek {
            EkAlgorithm::Rsa2048 => "0x01c00002",
            EkAlgorithm::P384 => "0x01c00016",
        };
        self.tool("tpm2_nvread", &[index, "-C", "o", "-o", "ek.crt"]);
        assert_eq!(self.read("ek.crt"), fs::read(self.tpm.ek_certificate(self.ek)).unwrap());
        DeviceKeys::Tpm {
            ek_certificates: vec![Bytes(self.read("ek.crt"))],
            ek_public: self.public(self.ek_handle()),
            ak_public: self.public(&format!("{AK:#x}")),
        }
    }

    /// TPM2_ActivateCredential. None when the TPM refuses.
    pub fn activate(&self, credential: &Credential) -> Option<Vec<u8>> {
        // The tool's file: magic, version, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET.
        let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let header = [0xbadc_c0de_u32, 1].map(u32::to_be_bytes).concat();
        let blob = [header, sized(&credential.id_object.0), sized(&credential.encrypted_secret.0)].concat();
        fs::write(self.path("credential"), blob).unwrap();
        let ak = format!("{AK:#x}");
        let mut arguments = vec!["-c", &ak, "-C", self.ek_handle(), "-i", "credential", "-o", "secret"];
        // The EK of the low templates is used by policy, that of the high ones by its (empty) password too.
        let policy = self.ek == EkAlgorithm::Rsa2048;
        if policy {
            self.tool("tpm2_startauthsession", &["--policy-session", "-S", "session"]);
            self.tool("tpm2_policysecret", &["-S", "session", "-c", "e"]);
            arguments.extend(["-P", "session:session"]);
        }
        let output = self.run("tpm2_activatecredential", &arguments);
        self.run("tpm2_flushcontext", &["-l"]);
        output.status.success().then(|| self.read("secret"))
    }

    pub fn quote(&self, pcrs: &[u8], extra_data: &[u8]) -> (Bytes, Bytes) {
        let list: Vec<String> = pcrs.iter().map(u8::to_string).collect();
        let (selection, data) = (format!("sha256:{}", list.join(",")), hex::encode(extra_data));
        let ak = format!("{AK:#x}");
        let output = ["-m", "quote", "-s", "quote.sig", "-g", "sha256"];
        self.tool("tpm2_quote", &[&["-c", &ak, "-l", &selection, "-q", &data], &output[..]].concat());
        (Bytes(self.read("quote")), Bytes(self.read("quote.sig")))
    }

    /// TPM2_Certify (Part 3, section 18.2), raw: the tool takes no qualifying data.
    pub fn certify(&self, extra_data: &[u8]) -> (Bytes, Bytes) {
        let password = [&0x4000_0009_u32.to_be_bytes()[..], &[0; 5]].concat();
        let mut body = [CA, AK, 18].map(u32::to_be_bytes).concat();
        body.extend([password.clone(), password].concat());
        body.extend(u16::try_from(extra_data.len()).unwrap().to_be_bytes());
        body.extend(extra_data);
        body.extend(0x0010_u16.to_be_bytes());
        let response = self.command(0x0000_0148, &body);
        let size = usize::try_from(u32::from_be_bytes(response[..4].try_into().unwrap())).unwrap();
        let parameters = &response[4..4 + size];
        let attest_size = usize::from(u16::from_be_bytes(parameters[..2].try_into().unwrap()));
        let (attest, signature) = parameters[2..].split_at(attest_size);
        (Bytes(attest.to_vec()), Bytes(signature.to_vec()))
    }

    fn command(&self, code: u32, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.tpm.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let size = u32::try_from(10 + body.len()).unwrap();
        let command =
            [&0x8002_u16.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat();
        stream.write_all(&command).unwrap();
        let mut header = [0; 10];
        stream.read_exact(&mut header).unwrap();
        assert_eq!(header[6..], [0; 4], "response code");
        let size = usize::try_from(u32::from_be_bytes(header[2..6].try_into().unwrap())).unwrap();
        let mut rest = vec![0; size - 10];
        stream.read_exact(&mut rest).unwrap();
        rest
    }

    /// A certification request that the gateway CA key in the TPM signs.
    pub fn csr(&self) -> Vec<u8> {
        let public = self.public(&format!("{CA:#x}"));
        let point = edgewarden_evidence::tpm::Public::parse(&public.0).unwrap().point().unwrap();
        let key = TpmKey { gateway: self, point };
        rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    pub fn answer(&self, parts: &ChallengeParts) -> TpmProof {
        let csr = self.csr();
        let bound = binding(&parts.nonce.0, &csr);
        let secret = self.activate(parts.credential.as_ref().unwrap()).expect("the credential is activated");
        let (quote, quote_signature) = self.quote(&parts.pcrs, &bound);
        let (certify, certify_signature) = self.certify(&bound);
        TpmProof {
            secret: Bytes(secret),
            quote,
            quote_signature,
            event_log: Bytes(fs::read(self.tpm.event_log()).unwrap()),
            ca_public: self.public(&format!("{CA:#x}")),
            certify,
            certify_signature,
            csr: Bytes(csr),
        }
    }
}

struct TpmKey<'a> {
    gateway: &'a Gateway,
    point: Vec<u8>,
}

impl rcgen::PublicKeyData for TpmKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for TpmKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        fs::write(self.gateway.path("message"), message).unwrap();
        let key = format!("{CA:#x}");
        let arguments =
            ["-c", &key, "-g", "sha256", "-s", "ecdsa", "-f", "plain", "-o", "message.sig", "message"];
        self.gateway.tool("tpm2_sign", &arguments);
        Ok(self.gateway.read("message.sig"))
    }
}
