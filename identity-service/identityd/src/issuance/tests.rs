use std::os::unix::fs::PermissionsExt as _;

use edgewarden_ca::RootCa;
use edgewarden_protocol::config;

use super::*;

const DAY: Duration = Duration::from_secs(86400);
const NOW: Tick = Tick { monotonic: Duration::from_secs(1000), wall: UnixTime(1_800_000_000) };

struct Site {
    _folder: tempfile::TempDir,
    accepted: Accepted,
    issuance: Issuance,
}

impl Site {
    /// A gateway CA with an issuing CA below it.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let passphrase_file = folder.path().join("passphrase");
        std::fs::write(&passphrase_file, "a long one for the tests").unwrap();
        std::fs::set_permissions(&passphrase_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let software = config::Keystore::Software { passphrase_file };
        let keystore = edgewarden_keystore::open(&software, &folder.path().join("state")).unwrap();
        let domain = TrustDomain::parse("plant.example").unwrap();
        let gateway = GatewayName::parse("gw-1").unwrap();
        let root = RootCa::create(&domain, 3650 * DAY, NOW.wall).unwrap();
        let point = keystore.ca_public().unwrap();
        let issued = root.certify_gateway_ca(&point, &gateway, 30 * DAY, NOW.wall).unwrap();
        let accepted = Accepted {
            gateway_ca: issued.chain_der[0].clone().into(),
            root: root.certificate_der().into(),
            verdict: None,
            site: None,
            not_before: NOW.wall,
            not_after: issued.not_after,
            boot: None,
            other_boot: false,
        };
        let lifetimes = Identity::default();
        let issuance = Issuance::new(domain, gateway, &lifetimes, Arc::new(Metrics::default()));
        issuance.give_birth(&*keystore, &accepted, NOW).unwrap();
        Self { _folder: folder, accepted, issuance }
    }

    fn begin(&self, is_resident: bool) {
        let module = ModuleName::parse("alerts").unwrap();
        self.issuance.begin("alerts-1", &module, vec!["alerts".into()], || is_resident);
    }

    fn set_resident(&self, is_resident: bool) {
        self.issuance.set_resident(|| Some((move |_: &ModuleName| is_resident, self.accepted.bundle())));
    }

    fn held(&self) -> Option<Arc<X509Context>> {
        self.issuance.subscribe("alerts-1", NOW.wall).ok().and_then(|current| current.borrow().clone())
    }

    fn roots_alone(&self) -> bool {
        self.held().is_some_and(|held| {
            held.chain_der.is_empty()
                && held.key_pkcs8.is_empty()
                && held.bundle_der == self.accepted.bundle()
        })
    }
}

#[test]
fn a_key_that_is_to_stay_in_the_keystore_is_never_held_here() {
    let site = Site::new();
    // From the first moment on: what is due is issued before anybody looks again at the deployment.
    site.begin(true);
    assert!(site.issuance.issue_due(NOW, |event| panic!("{event:?}")).is_empty());
    assert!(site.held().is_none());
    site.set_resident(true);
    assert!(site.roots_alone());
    // A deployment that says otherwise, and one that says so again.
    site.set_resident(false);
    assert!(site.held().is_none());
    assert!(site.issuance.issue_due(NOW, |_| ()).is_empty());
    assert!(site.held().is_some_and(|held| !held.key_pkcs8.is_empty()));
    site.set_resident(true);
    assert!(site.roots_alone());
}

/// Between the moment when a certificate was found due and the one when it is handed out.
#[test]
fn a_deployment_that_takes_force_while_a_certificate_is_made_has_the_last_word() {
    let site = Site::new();
    site.begin(false);
    let mut made = 0;
    let failed = site.issuance.issue_due(NOW, |event| {
        assert_eq!(event.kind, "svid.issued");
        made += 1;
        site.set_resident(true);
    });
    assert!(failed.is_empty());
    assert_eq!(made, 1);
    assert!(site.roots_alone(), "a key in memory was given to a module whose key stays in the keystore");
    // Nor when certificates are renewed by the same CA.
    assert_eq!(site.issuance.rotate(None), 1);
    assert!(site.issuance.issue_due(NOW, |event| panic!("{event:?}")).is_empty());
    assert!(site.roots_alone());
}
