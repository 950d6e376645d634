//! A TPM made of software keys, whose every answer can be forged.

use aws_lc_rs::agreement;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
};
use edgewarden_appraisal::{AK_ATTRIBUTES, ChallengeParts, ReferenceValues, VendorRoots};
use edgewarden_evidence::event_log::EventLog;
use edgewarden_evidence::tpm::{
    Attest, AttestKind, Attributes, ClockInfo, Curve, Key, PcrSelection, PcrSelections, Public, Scheme,
    Signature, Symmetric,
};
use edgewarden_evidence::{HashAlg, PcrValues};
use edgewarden_names::UnixTime;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::{DeviceKeys, TpmProof, binding};
use edgewarden_testkit::authority::{self, Authority};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData, SignatureAlgorithm,
};

/// Within the validity of the certificates that rcgen makes by default.
pub const NOW: UnixTime = UnixTime(1_800_000_000);

pub const CA_ATTRIBUTES: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::SIGN;
pub const EK_ATTRIBUTES: u32 = 0x0003_00b2;

pub struct SigningKey {
    pub pair: EcdsaKeyPair,
    pkcs8: Vec<u8>,
}

impl SigningKey {
    pub fn generate() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        Self { pair, pkcs8: pkcs8.as_ref().to_vec() }
    }

    pub fn point(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        Signature::Ecdsa { hash: HashAlg::Sha256, r: r.into(), s: s.into() }.to_bytes()
    }

    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pkcs8).unwrap();
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    pub fn public(&self, attributes: u32, scheme: Scheme) -> Public {
        ecc_public(&self.point(), Curve::P256, HashAlg::Sha256, attributes, Symmetric::Null, scheme)
    }

    pub fn csr(&self) -> Vec<u8> {
        let key = rcgen::KeyPair::try_from(self.pkcs8.as_slice()).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }
}

pub fn ecc_public(
    point: &[u8],
    curve: Curve,
    name_alg: HashAlg,
    attributes: u32,
    symmetric: Symmetric,
    scheme: Scheme,
) -> Public {
    let (x, y) = point[1..].split_at(curve.size());
    Public {
        name_alg,
        attributes: Attributes(attributes),
        auth_policy: Vec::new(),
        key: Key::Ecc { symmetric, scheme, curve, x: x.into(), y: y.into() },
    }
}

/// Contents of an EK certificate; tests change one thing.
pub struct EkCertificate {
    pub ca: bool,
    pub eku: Option<Vec<u64>>,
    pub usage: Vec<KeyUsagePurpose>,
    pub days: (i32, i32),
    pub issuer: Authority,
    pub extensions: Vec<CustomExtension>,
}

impl Default for EkCertificate {
    fn default() -> Self {
        Self {
            ca: false,
            eku: Some(vec![2, 23, 133, 8, 1]),
            usage: vec![KeyUsagePurpose::KeyAgreement],
            days: (2020, 4096),
            issuer: vendor("vendor"),
            extensions: Vec::new(),
        }
    }
}

/// A vendor's root.
pub fn vendor(name: &str) -> Authority {
    Authority::root(ca(name))
}

/// Contents of a vendor's CA.
pub fn ca(name: &str) -> CertificateParams {
    let mut params = authority::ca(name);
    params.use_authority_key_identifier_extension = true;
    params
}

/// Contents of a CA that is not as others are.
pub fn ca_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = ca(name);
    change(&mut params);
    params
}

/// `der`, a certificate that `by` signed, with other contents and a new signature.
pub fn sign_changed(by: &Authority, der: &[u8], change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let whole = content(der);
    let tbs = change(element(whole).to_vec());
    let algorithm = element(&whole[element(whole).len()..]);
    let mut signature = vec![0];
    signature.extend(rcgen::SigningKey::sign(by.key(), &tbs).unwrap());
    wrap(0x30, &[&tbs[..], algorithm, &wrap(0x03, &signature)].concat())
}

/// The first element of DER, whole.
pub fn element(der: &[u8]) -> &[u8] {
    let (header, length) = header(der);
    &der[..header + length]
}

pub fn content(der: &[u8]) -> &[u8] {
    let (header, length) = header(der);
    &der[header..header + length]
}

fn header(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

struct EkPublicKey(Vec<u8>, &'static SignatureAlgorithm);

impl PublicKeyData for EkPublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.1
    }
}

impl EkCertificate {
    pub fn make(&self, ek_point: &[u8]) -> Vec<u8> {
        self.make_for(&EkPublicKey(ek_point.to_vec(), &rcgen::PKCS_ECDSA_P256_SHA256))
    }

    /// For an RSA key with this modulus, whose first bit is clear, and the exponent 65537.
    pub fn make_rsa(&self, modulus: &[u8]) -> Vec<u8> {
        let key = wrap(0x30, &[wrap(2, modulus), wrap(2, &[1, 0, 1])].concat());
        self.make_for(&EkPublicKey(key, &rcgen::PKCS_RSA_SHA256))
    }

    fn make_for(&self, ek: &EkPublicKey) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = rcgen::date_time_ymd(self.days.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(self.days.1, 1, 1);
        params.is_ca = if self.ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages.clone_from(&self.usage);
        params.extended_key_usages = self.eku.iter().cloned().map(ExtendedKeyUsagePurpose::Other).collect();
        params.custom_extensions.push(directory_name());
        params.custom_extensions.extend(self.extensions.clone());
        params.use_authority_key_identifier_extension = true;
        self.issuer.certify(params, ek)
    }
}

/// A critical subjectAltName with manufacturer `id:45575400` ("EWT") and model `forge`, as TCG's profile has it.
fn directory_name() -> CustomExtension {
    let attribute = |last: u8, value: &str| {
        let oid = [0x06, 0x05, 0x67, 0x81, 0x05, 0x02, last];
        let text = [&[0x0c, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
        wrap(0x31, &wrap(0x30, &[&oid[..], &text].concat()))
    };
    let name = [attribute(1, "id:45575400"), attribute(2, "forge")].concat();
    let general_names = wrap(0x30, &wrap(0xa4, &wrap(0x30, &name)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], general_names);
    extension.set_criticality(true);
    extension
}

/// An element of DER.
pub fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(u8::try_from(short).unwrap()),
        byte @ 0x80..=0xff => out.extend([0x81, u8::try_from(byte).unwrap()]),
        long => {
            out.push(0x82);
            out.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    out.extend(content);
    out
}

pub fn critical(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(true);
    extension
}

/// The device and its vendor.
pub struct Forge {
    pub ek: agreement::PrivateKey,
    pub ak: SigningKey,
    pub ca: SigningKey,
    pub vendor: Authority,
    pub ek_certificate: Vec<u8>,
    pub ek_public: Public,
    pub ak_public: Public,
    pub ca_public: Public,
}

impl Forge {
    pub fn new() -> Self {
        let ek = agreement::PrivateKey::generate(&agreement::ECDH_P256).unwrap();
        let ek_point = ek.compute_public_key().unwrap();
        let certificate = EkCertificate::default();
        let (ak, ca) = (SigningKey::generate(), SigningKey::generate());
        let (symmetric, scheme) = (Symmetric::Aes128Cfb, Scheme::Null);
        Self {
            ek_certificate: certificate.make(ek_point.as_ref()),
            ek_public: ecc_public(
                ek_point.as_ref(),
                Curve::P256,
                HashAlg::Sha256,
                EK_ATTRIBUTES,
                symmetric,
                scheme,
            ),
            ak_public: ak.public(AK_ATTRIBUTES.0, Scheme::Ecdsa(HashAlg::Sha256)),
            ca_public: ca.public(CA_ATTRIBUTES, Scheme::Ecdsa(HashAlg::Sha256)),
            vendor: certificate.issuer,
            ek,
            ak,
            ca,
        }
    }

    pub fn ek_point(&self) -> Vec<u8> {
        self.ek.compute_public_key().unwrap().as_ref().to_vec()
    }

    pub fn roots(&self) -> VendorRoots {
        VendorRoots::from_pem(self.vendor.pem().as_bytes()).unwrap()
    }

    pub fn keys(&self) -> DeviceKeys {
        DeviceKeys::Tpm {
            ek_certificates: vec![Bytes(self.ek_certificate.clone())],
            ek_public: Bytes(self.ek_public.to_bytes()),
            ak_public: Bytes(self.ak_public.to_bytes()),
        }
    }

    /// TPM2_ActivateCredential for the P-256 EK (TPM 2.0 Library Part 1, section 24).
    pub fn activate(&self, parts: &ChallengeParts) -> Option<Vec<u8>> {
        use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey};
        let credential = parts.credential.as_ref().unwrap();
        let (x, y) = (&credential.encrypted_secret.0[2..34], &credential.encrypted_secret.0[36..68]);
        let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, [&[4], x, y].concat());
        let z = agreement::agree(&self.ek, peer, (), |z| Ok(z.to_vec())).unwrap();
        let ek_point = self.ek_point();
        let seed = HashAlg::Sha256.digest(&[&1_u32.to_be_bytes(), &z, b"IDENTITY\0", x, &ek_point[1..33]]);
        let name = self.ak_public.name();
        let kdf = |label: &[u8], context: &[u8], bits: u32| {
            hmac(&seed, &[&1_u32.to_be_bytes(), label, context, &bits.to_be_bytes()])
        };
        let (integrity, identity) = credential.id_object.0[2..].split_at(32);
        if hmac(&kdf(b"INTEGRITY\0", &[], 256), &[identity, &name]) != integrity {
            return None;
        }
        let key = UnboundCipherKey::new(&AES_128, &kdf(b"STORAGE\0", &name, 128)[..16]).unwrap();
        let mut identity = identity.to_vec();
        let context = DecryptionContext::Iv128([0; 16].into());
        DecryptingKey::cfb128(key).unwrap().decrypt(&mut identity, context).unwrap();
        Some(identity[2..].to_vec())
    }

    /// The honest answer, made of parts that a test may change before they are signed.
    pub fn answer(&self, parts: &ChallengeParts, log: &[u8]) -> Answer {
        let csr = self.ca.csr();
        let extra_data = binding(parts.nonce.as_slice(), &csr).to_vec();
        let values = EventLog::parse(log).unwrap().replay();
        let base = Attest {
            qualified_signer: endorsement_primary(&self.ak_public),
            extra_data,
            clock: ClockInfo { clock: 1, reset_count: 1, restart_count: 0, safe: true },
            firmware_version: 1,
            kind: quote_of(&values, &parts.pcrs),
        };
        let kind = AttestKind::Certify { name: self.ca_public.name(), qualified_name: vec![0, 11, 1] };
        Answer {
            secret: self.activate(parts).unwrap(),
            certify: Attest { kind, ..base.clone() },
            quote: base,
            event_log: log.to_vec(),
            ca_public: self.ca_public.clone(),
            csr,
        }
    }
}

pub fn quote_of(values: &PcrValues, pcrs: &[u8]) -> AttestKind {
    AttestKind::Quote {
        selections: PcrSelections(vec![PcrSelection::of(HashAlg::Sha256, pcrs)]),
        digest: values.quote_digest(HashAlg::Sha256, HashAlg::Sha256, pcrs).unwrap(),
    }
}

pub struct Answer {
    pub secret: Vec<u8>,
    pub quote: Attest,
    pub certify: Attest,
    pub event_log: Vec<u8>,
    pub ca_public: Public,
    pub csr: Vec<u8>,
}

impl Answer {
    pub fn signed_by(self, ak: &SigningKey) -> TpmProof {
        let (quote, certify) = (self.quote.to_bytes(), self.certify.to_bytes());
        TpmProof {
            secret: Bytes(self.secret),
            quote_signature: Bytes(ak.sign(&quote)),
            quote: Bytes(quote),
            event_log: Bytes(self.event_log),
            ca_public: Bytes(self.ca_public.to_bytes()),
            certify_signature: Bytes(ak.sign(&certify)),
            certify: Bytes(certify),
            csr: Bytes(self.csr),
        }
    }
}

pub fn endorsement_primary(ak: &Public) -> Vec<u8> {
    [&[0, 11][..], &HashAlg::Sha256.digest(&[&[0x40, 0, 0, 0x0b], &ak.name()])].concat()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    aws_lc_rs::hmac::sign(&key, &parts.concat()).as_ref().to_vec()
}

/// A boot log of (PCR, event type, content).
pub fn log(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend([0, 0, 0, 0, 0, 2, 105, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut log = vec![0, 0, 0, 0, 3, 0, 0, 0];
    log.extend([0; 20]);
    log.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    log.extend(header);
    for (pcr, event_type, content) in events {
        log.extend(pcr.to_le_bytes());
        log.extend(event_type.to_le_bytes());
        log.extend([1, 0, 0, 0, 0x0b, 0]);
        log.extend(digest(&SHA256, content).as_ref());
        log.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        log.extend(*content);
    }
    log
}

pub fn good_boot() -> Vec<u8> {
    log(&[
        (0, 8, b"firmware"),
        (4, 0x8000_0003, b"grub"),
        (4, 4, &[0; 4]),
        (9, 13, b"kernel"),
        (14, 13, b"keys"),
    ])
}

pub fn references() -> Vec<ReferenceValues> {
    vec![ReferenceValues::learn("normal", &good_boot()).unwrap()]
}
