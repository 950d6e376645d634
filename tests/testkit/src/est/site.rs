//! A site's CA made by the openssl command: nothing of the product's own code has a part in what it issues.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use edgewarden_names::pem;
use edgewarden_protocol::est::{EstAuth, EstConfig};
use tempfile::TempDir;

/// Runs `openssl` in `folder`; its standard output.
fn openssl(folder: &TempDir, arguments: &str) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A certs-only message of `openssl crl2pkcs7`.
pub fn certs_only(certificates: &[Vec<u8>]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.pem"), pem::chain(certificates)).unwrap();
    openssl(&folder, "crl2pkcs7 -nocrl -certfile all.pem -outform DER")
}

/// A P-384 root, an RSA CA beneath it that issues, a server certificate, and a device's certificate to begin with.
#[derive(Debug)]
pub struct Site {
    /// Keys and certificates by name: `root.pem`, `issuing.key` and so on.
    pub folder: TempDir,
}

const EXTENSIONS: &str = "
[issuing]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[device]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
[expired]
basicConstraints = critical, CA:FALSE
";

impl Site {
    /// A new CA with keys of its own.
    #[expect(clippy::new_without_default, reason = "each has a CA of its own")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("extensions"), EXTENSIONS).unwrap();
        openssl(
            &folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -noenc -keyout root.key -out root.pem -days 3650 \
             -subj /CN=Site-root -addext keyUsage=critical,keyCertSign,cRLSign",
        );
        let site = Self { folder };
        site.certify("issuing", "rsa:2048", "root", 3000);
        site.certify("server", "ec -pkeyopt ec_paramgen_curve:P-256", "issuing", 30);
        site.certify("device", "ec -pkeyopt ec_paramgen_curve:P-256", "issuing", 30);
        let chain = [site.text("server.pem"), site.text("issuing.pem")].concat();
        std::fs::write(site.path("server-chain.pem"), chain).unwrap();
        let chain = [site.text("device.pem"), site.text("issuing.pem")].concat();
        std::fs::write(site.path("device-chain.pem"), chain).unwrap();
        site
    }

    fn certify(&self, name: &str, key: &str, issuer: &str, days: u32) {
        openssl(
            &self.folder,
            &format!("req -newkey {key} -noenc -keyout {name}.key -out {name}.csr -subj /CN=Site-{name}"),
        );
        openssl(
            &self.folder,
            &format!(
                "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -days {days} \
                 -extfile extensions -extensions {name} -out {name}.pem"
            ),
        );
    }

    /// Path of a file of its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Text of a file of its folder.
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A certificate of its folder, DER.
    pub fn der(&self, name: &str) -> Vec<u8> {
        pem::one(&self.text(name), pem::CERTIFICATE).unwrap()
    }

    /// Path of a new file with these contents and this mode.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Issues what a request asks for, after openssl has verified the request's own signature. Each call uses files
    /// of its own: the server answers many at a time.
    pub fn issue(&self, csr: &[u8], days: u32) -> Vec<u8> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let name = format!("request-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        std::fs::write(self.path(&name), csr).unwrap();
        openssl(&self.folder, &format!("req -inform DER -in {name} -verify -noout"));
        openssl(
            &self.folder,
            &format!(
                "x509 -req -inform DER -in {name} -CA issuing.pem -CAkey issuing.key -copy_extensions copy -days {days} \
                 -outform DER"
            ),
        )
    }

    /// The same by `openssl ca`, valid from and to these seconds from now: old certificates, and ends that are near.
    pub fn issue_from(&self, csr: &[u8], from: i64, to: i64) -> Vec<u8> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = self.path(&format!("ca-{number}"));
        std::fs::create_dir(&folder).unwrap();
        let write = |name: &str, text: &[u8]| std::fs::write(folder.join(name), text).unwrap();
        write("request", csr);
        write("index", b"");
        write(
            "config",
            format!(
                "[ca]\ndefault_ca = site\n[site]\ndatabase = ca-{number}/index\nnew_certs_dir = ca-{number}\n\
                 certificate = issuing.pem\nprivate_key = issuing.key\ndefault_md = sha256\nrand_serial = yes\n\
                 policy = any\ncopy_extensions = copy\nunique_subject = no\npreserve = yes\n\
                 [any]\ncommonName = supplied\n"
            )
            .as_bytes(),
        );
        let date = |seconds: i64| {
            let at = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
            let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
            format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second())
        };
        openssl(
            &self.folder,
            &format!(
                "ca -batch -notext -config ca-{number}/config -inform DER -in ca-{number}/request -startdate {} \
                 -enddate {} -out ca-{number}/issued.pem",
                date(from),
                date(to)
            ),
        );
        self.der(&format!("ca-{number}/issued.pem"))
    }

    /// An end-entity certificate for the same request: what a CA gives that has no CAs beneath itself.
    pub fn issue_end_entity(&self, csr: &[u8]) -> Vec<u8> {
        self.issue_with(csr, "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n")
    }

    /// Certificate of a CA that puts its own extensions in the place of those that were asked for.
    pub fn issue_with(&self, csr: &[u8], extensions: &str) -> Vec<u8> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let name = format!("own-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        std::fs::write(self.path(&name), csr).unwrap();
        std::fs::write(self.path(&format!("{name}.ext")), extensions).unwrap();
        openssl(
            &self.folder,
            &format!(
                "x509 -req -inform DER -in {name} -CA issuing.pem -CAkey issuing.key -days 30 -extfile {name}.ext \
                 -outform DER"
            ),
        )
    }

    /// Text of a request as openssl reads it.
    pub fn describe(&self, csr: &[u8]) -> String {
        std::fs::write(self.path("described"), csr).unwrap();
        let text = openssl(&self.folder, "req -inform DER -in described -verify -noout -text");
        String::from_utf8(text).unwrap()
    }

    /// openssl's own judgement of a chain.
    pub fn verify(&self, chain: &[Vec<u8>]) {
        std::fs::write(self.path("chain.pem"), pem::chain(chain)).unwrap();
        std::fs::write(self.path("leaf.pem"), pem::encode(pem::CERTIFICATE, &chain[0])).unwrap();
        openssl(&self.folder, "verify -x509_strict -CAfile root.pem -untrusted chain.pem leaf.pem");
    }

    /// Configuration of a client of the server on this port.
    pub fn config(&self, port: u16, auth: EstAuth) -> EstConfig {
        EstConfig {
            url: format!("https://localhost:{port}"),
            label: None,
            trust_anchors: self.path("root.pem"),
            auth,
            timeout_seconds: 20,
            operator_keys: Vec::new(),
        }
    }

    /// Authentication by a password that lies in its folder.
    pub fn password(&self, password: &str) -> EstAuth {
        let password_file = self.write("password", format!("{password}\n"), 0o600);
        EstAuth::Basic { user: "gateway".into(), password_file }
    }

    /// Authentication by the device's certificate.
    pub fn device(&self) -> EstAuth {
        use std::os::unix::fs::PermissionsExt as _;
        let key_file = self.path("device.key");
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        EstAuth::Certificate { certificate_file: self.path("device-chain.pem"), key_file }
    }
}
