//! Certificates that become an `EnrolledChain`, and the reasons why others do not.

use crate::common;

use std::sync::Arc;

use common::{DAY, Message, NOW, Template, date, elsewhere, site_root, site_root_allowing};
use edgewarden_est::wire::{Reply, request_body};
use edgewarden_est::{
    CertificateBag, CsrAttributes, EnrolledChain, Enrolment, EstError, Names, PENDING_ANSWERS_MAX,
    PENDING_SECONDS_MAX, Profile, Progress, Severity, SignedRequest, Subject, TrustAnchors,
};
use edgewarden_names::{Reason, UnixTime};
use edgewarden_testkit::authority::Point;
use edgewarden_testkit::{Authority, Key};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints};

const GATEWAY_CA: Profile = Profile::CertificateAuthority { path_length: 1 };
const URI: &str = "spiffe://clinic.example";

/// A root, a CA beneath it, and a key that wants a certificate.
struct World {
    root: Authority,
    issuing: Authority,
    key: Arc<Key>,
    anchors: TrustAnchors,
}

impl World {
    fn new() -> Self {
        let root = site_root("root");
        let issuing = root.beneath(Template::ca("issuing", None));
        let anchors = TrustAnchors::new(&[root.der.clone()]).unwrap();
        Self { root, issuing, key: elsewhere(), anchors }
    }

    fn enrolment(&self, profile: Profile) -> Enrolment {
        let names = Names { common_name: "gw-1".into(), uris: vec![URI.into()], ..Names::default() };
        let subject = Subject::new(&names, profile).unwrap();
        Enrolment::new(SignedRequest::enroll(&subject, &CsrAttributes::default(), &*self.key).unwrap())
    }

    fn answered(
        &self,
        profile: Profile,
        answer: &[Vec<u8>],
        helpers: &[Vec<u8>],
    ) -> Result<EnrolledChain, EstError> {
        let helpers = CertificateBag::new(helpers.iter().map(Vec::as_slice)).unwrap();
        let reply = reply(200, &Message::of(answer).der());
        match self.enrolment(profile).answered(&reply, &helpers, &self.anchors, NOW)? {
            Progress::Enrolled(chain) => Ok(chain),
            Progress::Pending { .. } => panic!("200 is an answer"),
        }
    }

    fn issue(&self, template: Template) -> Vec<u8> {
        self.issuing.certify(template, &Point(&self.key.point()))
    }
}

fn reply(status: u16, der: &[u8]) -> Reply {
    Reply {
        status,
        content_type: vec!["application/pkcs7-mime; smime-type=certs-only".into()],
        body: request_body(der).into_bytes(),
        ..Reply::default()
    }
}

fn leaf() -> Template {
    Template::leaf("gw-1").uri(URI)
}

fn gateway_ca() -> Template {
    Template::ca("gw-1", Some(1)).uri(URI)
}

#[test]
fn a_certificate_becomes_a_chain_over_the_helpers() {
    let world = World::new();
    for (name, profile, template) in
        [("end entity", Profile::EndEntity, leaf()), ("gateway CA", GATEWAY_CA, gateway_ca())]
    {
        let certificate = world.issue(template);
        let helpers = [world.root.der.clone(), world.issuing.der.clone()];
        let chain = world.answered(profile, &[certificate.clone()], &helpers).unwrap();
        assert_eq!(chain.certificates(), [certificate, world.issuing.der.clone()], "{name}");
        assert_eq!(chain.point(), world.key.point(), "{name}");
        assert_eq!(chain.common_name(), Some("gw-1"));
        // What was kept is judged again after a restart.
        let point = world.key.point();
        let again =
            EnrolledChain::verify(chain.certificates(), &point, profile, &world.anchors, NOW).unwrap();
        assert_eq!(again, chain, "{name}");
        let late = UnixTime(chain.not_after().0 + 1);
        EnrolledChain::verify(chain.certificates(), &point, profile, &world.anchors, late).unwrap_err();
        EnrolledChain::verify(chain.certificates(), &point, profile, &world.anchors, chain.not_after())
            .unwrap();
    }
    // The answer itself may carry the chain, and the root may have issued.
    let certificate = world.issue(leaf());
    world.answered(Profile::EndEntity, &[world.issuing.der.clone(), certificate], &[]).unwrap();
    let certificate = world.root.certify(leaf(), &Point(&world.key.point()));
    assert_eq!(
        world.answered(Profile::EndEntity, &[certificate.clone()], &[]).unwrap().certificates(),
        [certificate]
    );
}

#[test]
fn certificates_that_may_not_be_used_are_refused() {
    let world = World::new();
    let stranger = site_root("root");
    let other = elsewhere();
    let unknown = |critical| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(critical);
        leaf().with(|params| params.custom_extensions = vec![extension])
    };
    let end_entity: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("another key", vec![world.issuing.certify(leaf(), &Point(&other.point()))], "it is for another key"),
        ("only the CA", vec![world.issuing.der.clone()], "it is for another key"),
        (
            "two for our key",
            vec![world.issue(leaf()), world.issue(leaf().uri("spiffe://b.example"))],
            "more than one",
        ),
        ("expired", vec![world.issue(leaf().valid(NOW.0 - 2 * DAY, NOW.0 - 1))], "it has expired"),
        ("not yet valid", vec![world.issue(leaf().valid(NOW.0 + 1, NOW.0 + DAY))], "it is valid from"),
        (
            "another root of the same name",
            vec![stranger.certify(leaf(), &Point(&world.key.point()))],
            "no path",
        ),
        (
            "a CA of another root",
            {
                let issuing = stranger.beneath(Template::ca("issuing", None));
                vec![issuing.certify(leaf(), &Point(&world.key.point())), issuing.der]
            },
            "no path",
        ),
        ("a CA's", vec![world.issue(gateway_ca())], "it is a CA's"),
        ("without the name", vec![world.issue(Template::leaf("gw-1"))], "lacks an alternative name"),
        (
            "with another name",
            vec![world.issue(Template::leaf("gw-1").uri("spiffe://other"))],
            "lacks an alternative",
        ),
        ("critical unknown extension", vec![world.issue(unknown(true))], "critical extension"),
        (
            "not for signatures",
            vec![world.issue(leaf().with(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]))],
            "key usage",
        ),
        (
            "not for TLS clients",
            vec![world.issue(
                leaf().with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            )],
            "TLS peers",
        ),
        (
            "its own",
            vec![{
                let mut params = leaf().params;
                params.use_authority_key_identifier_extension = false;
                let pair = rcgen::KeyPair::generate().unwrap();
                params.self_signed(&pair).unwrap().der().to_vec()
            }],
            "it is for another key",
        ),
    ];
    world.answered(Profile::EndEntity, &[world.issue(unknown(false))], &[world.issuing.der.clone()]).unwrap();
    for (name, answer, rule) in end_entity {
        let error =
            world.answered(Profile::EndEntity, &answer, &[world.issuing.der.clone()]).expect_err(name);
        assert_eq!(error.reason(), Reason::EstCertificate, "{name}");
        assert!(error.refusal.rule.contains(rule), "{name}: {error}");
        // Only time can make a certificate good that is not yet valid.
        assert_eq!(error.severity == Severity::Fatal, name != "not yet valid", "{name}");
    }
}

/// A CA above ours, as a test wants it.
fn beneath(world: &World, ca: Template, profile: Profile) -> Result<EnrolledChain, EstError> {
    let ca = world.root.beneath(ca);
    let template = if profile == Profile::EndEntity { leaf() } else { gateway_ca() };
    world.answered(profile, &[ca.certify(template, &Point(&world.key.point()))], &[ca.der])
}

#[test]
fn a_path_over_a_ca_that_may_not_issue_is_no_path() {
    let world = World::new();
    let constrain = |allowed: &str| {
        let permitted = vec![GeneralSubtree::DnsName(allowed.into())];
        let constraints = NameConstraints { permitted_subtrees: permitted, excluded_subtrees: vec![] };
        Template::ca("ca", None).with(|params| params.name_constraints = Some(constraints))
    };
    beneath(&world, Template::ca("ca", Some(0)), Profile::EndEntity).unwrap();
    beneath(&world, Template::ca("ca", Some(2)), GATEWAY_CA).unwrap();
    beneath(&world, constrain("clinic.example"), Profile::EndEntity).unwrap();
    for (name, ca, profile) in [
        ("expired", Template::ca("ca", None).valid(NOW.0 - DAY, NOW.0 - 1), Profile::EndEntity),
        ("not yet valid", Template::ca("ca", None).valid(NOW.0 + 1, NOW.0 + DAY), Profile::EndEntity),
        ("a leaf", Template::leaf("ca"), Profile::EndEntity),
        (
            "no certificate signing",
            Template::ca("ca", None).with(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
            Profile::EndEntity,
        ),
        ("no room for a CA", Template::ca("ca", Some(0)), GATEWAY_CA),
        ("no room for the CA beneath ours", Template::ca("ca", Some(1)), GATEWAY_CA),
        ("names constrained, which is not evaluated for CAs", constrain("clinic.example"), GATEWAY_CA),
    ] {
        let error = beneath(&world, ca, profile).expect_err(name);
        assert_eq!(error.reason(), Reason::EstCertificate, "{name}");
    }
    // The issued certificate's own limits.
    for (name, template) in [
        ("no CA", leaf()),
        ("too little room", Template::ca("gw-1", Some(0)).uri(URI)),
        (
            "may not sign",
            gateway_ca().with(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ),
    ] {
        let answer = [world.issue(template)];
        let error = world.answered(GATEWAY_CA, &answer, &[world.issuing.der.clone()]).expect_err(name);
        assert_eq!(error.reason(), Reason::EstCertificate, "{name}");
    }
}

#[test]
fn name_constraints_hold_for_end_entities() {
    let world = World::new();
    let permitted = vec![GeneralSubtree::DnsName("clinic.example".into())];
    let constraints = NameConstraints { permitted_subtrees: permitted, excluded_subtrees: vec![] };
    let ca = world
        .root
        .beneath(Template::ca("ca", None).with(|params| params.name_constraints = Some(constraints)));
    for (dns, good) in [("gw-1.clinic.example", true), ("gw-1.other.example", false)] {
        let template = leaf()
            .with(|params| params.subject_alt_names.push(rcgen::SanType::DnsName(dns.try_into().unwrap())));
        let certificate = ca.certify(template, &Point(&world.key.point()));
        let answer = world.answered(Profile::EndEntity, &[certificate], &[ca.der.clone()]);
        assert_eq!(answer.is_ok(), good, "{dns}");
    }
}

/// RFC 4210 section 4.4: the gateway pins the old root; the site has gone over to a new one of the same name.
#[test]
fn a_root_may_change_its_key() {
    let world = World::new();
    let new_root = site_root("root");
    let new_with_old = world.root.certify(Template::ca("root", None), new_root.key());
    let old_with_new = new_root.certify(Template::ca("root", None), world.root.key());
    let issuing = new_root.beneath(Template::ca("issuing", Some(0)));
    let certificate = issuing.certify(leaf(), &Point(&world.key.point()));
    let bag = [
        old_with_new,
        new_root.der.clone(),
        world.root.der.clone(),
        new_with_old.clone(),
        issuing.der.clone(),
    ];
    let chain = world.answered(Profile::EndEntity, &[certificate.clone()], &bag).unwrap();
    assert_eq!(chain.certificates(), [certificate.clone(), issuing.der.clone(), new_with_old.clone()]);
    // What of the bag is believed: everything with a path to the old root, which the new root by itself has not.
    let read = CertificateBag::new(bag.iter().map(Vec::as_slice)).unwrap();
    let trusted = read.trusted(&world.anchors, NOW);
    assert!(trusted.contains(&new_with_old.as_slice()) && trusted.contains(&issuing.der.as_slice()));
    assert!(!trusted.contains(&new_root.der.as_slice()));
    // Without the bridge there is no path.
    let without: Vec<Vec<u8>> = bag.iter().filter(|der| **der != new_with_old).cloned().collect();
    let error = world.answered(Profile::EndEntity, &[certificate.clone()], &without).unwrap_err();
    assert_eq!(error.reason(), Reason::EstCertificate);
    // And one who pins the new root needs none.
    let anchors = TrustAnchors::new(&[new_root.der]).unwrap();
    let chain = [certificate, issuing.der];
    EnrolledChain::verify(&chain, &world.key.point(), Profile::EndEntity, &anchors, NOW).unwrap();
}

/// RFC 5280 section 4.2.1.9: the root's own new key takes no room; every other CA does.
#[test]
fn self_issued_certificates_do_not_count_towards_a_path_length() {
    for (allowed, good) in [(0, false), (1, true)] {
        let old = site_root_allowing("root", Some(allowed));
        let new = site_root("root");
        let bridge = old.certify(Template::ca("root", None), new.key());
        let issuing = new.beneath(Template::ca("issuing", None));
        let key = elsewhere();
        let chain = [issuing.certify(leaf(), &Point(&key.point())), issuing.der.clone(), bridge];
        let anchors = TrustAnchors::new(&[old.der]).unwrap();
        let judged = EnrolledChain::verify(&chain, &key.point(), Profile::EndEntity, &anchors, NOW);
        assert_eq!(judged.is_ok(), good, "{allowed}");
        let bag = CertificateBag::new(chain[1..].iter().map(Vec::as_slice)).unwrap();
        let expected = if good { vec![&chain[1][..], &chain[2]] } else { vec![&chain[2][..]] };
        assert_eq!(bag.trusted(&anchors, NOW), expected, "{allowed}");
    }
}

#[test]
fn a_bag_of_look_alikes_does_not_keep_us_busy() {
    let world = World::new();
    // 31 CAs of one name that all seem to have issued each other; no path exists.
    let stranger = site_root("issuing");
    let mut bag: Vec<Vec<u8>> =
        (0..31).map(|_| stranger.beneath(Template::ca("issuing", None)).der).collect();
    bag.push(stranger.der.clone());
    let certificate = stranger.certify(leaf(), &Point(&world.key.point()));
    let error = world.answered(Profile::EndEntity, &[certificate], &bag).unwrap_err();
    assert_eq!(error.reason(), Reason::EstCertificate);
    // An overlong path is none either, though every link holds.
    let mut path = vec![world.root.beneath(Template::ca("ca 0", None))];
    for at in 1..8 {
        let next = path.last().unwrap().beneath(Template::ca(&format!("ca {at}"), None));
        path.push(next);
    }
    let ders: Vec<Vec<u8>> = path.iter().map(|ca| ca.der.clone()).collect();
    for (depth, good) in [(6, true), (7, false)] {
        let certificate = path[depth - 1].certify(leaf(), &Point(&world.key.point()));
        assert_eq!(world.answered(Profile::EndEntity, &[certificate], &ders).is_ok(), good, "{depth}");
    }
}

#[test]
fn a_bag_with_something_else_in_it_is_refused() {
    let good = site_root("root").der;
    for (name, bag) in [
        ("not a certificate", vec![good.clone(), vec![0x30, 0]]),
        ("trailing data", vec![[good.clone(), vec![0]].concat()]),
        ("too many", (0..33_u8).map(|at| site_root(&at.to_string()).der).collect()),
        ("nothing", vec![vec![]]),
    ] {
        let refusal = CertificateBag::new(bag.iter().map(Vec::as_slice)).expect_err(name);
        assert_eq!(refusal.reason, Reason::EstAnswer, "{name}");
    }
}

#[test]
fn anchors_are_cas_and_not_too_many() {
    let root = site_root("root");
    let leaf = root.certify(leaf(), &Point(&elsewhere().point()));
    for (name, anchors) in [
        ("none", vec![]),
        ("a leaf", vec![leaf]),
        ("rubbish", vec![vec![1, 2, 3]]),
        ("too many", vec![root.der.clone(); 17]),
    ] {
        assert_eq!(TrustAnchors::new(&anchors).expect_err(name).reason, Reason::EstConfig, "{name}");
    }
}

#[test]
fn an_undecided_request_is_asked_again_and_not_for_ever() {
    let world = World::new();
    let later = |seconds: &str| Reply { retry_after: vec![seconds.into()], ..reply(202, &[]) };
    let none = CertificateBag::default();
    // The request stays the same, byte by byte.
    let mut enrolment = world.enrolment(Profile::EndEntity);
    let body = enrolment.body();
    let progress = enrolment.answered(&later("60"), &none, &world.anchors, NOW).unwrap();
    assert_eq!(progress, Progress::Pending { after: std::time::Duration::from_secs(60) });
    assert_eq!(enrolment.body(), body);
    // A week later it is over, whoever still says "later"; unless the clock went back, when the count bounds it.
    let week = UnixTime(NOW.0 + PENDING_SECONDS_MAX + 1);
    let error = enrolment.answered(&later("60"), &none, &world.anchors, week).unwrap_err();
    assert_eq!((error.reason(), error.severity), (Reason::EstPending, Severity::Fatal));
    let mut enrolment = world.enrolment(Profile::EndEntity);
    let answers = (0..=PENDING_ANSWERS_MAX)
        .take_while(|at| {
            let now = UnixTime(NOW.0 - u64::from(*at));
            enrolment.answered(&later("5"), &none, &world.anchors, now).is_ok()
        })
        .count();
    assert_eq!(answers, usize::try_from(PENDING_ANSWERS_MAX).unwrap());
    // An approval ends the waiting.
    let mut enrolment = world.enrolment(Profile::EndEntity);
    enrolment.answered(&later("60"), &none, &world.anchors, NOW).unwrap();
    let certificate = Message::of(&[world.issue(leaf()), world.issuing.der.clone()]).der();
    let progress = enrolment.answered(&reply(200, &certificate), &none, &world.anchors, NOW).unwrap();
    assert!(matches!(progress, Progress::Enrolled(_)));
}

#[test]
fn names_that_no_certificate_may_carry_are_refused() {
    let names = |change: fn(&mut Names)| {
        let mut names = Names { common_name: "gw-1".into(), ..Names::default() };
        change(&mut names);
        names
    };
    Subject::new(&names(|n| n.dns = vec!["gw-1.clinic.example".into()]), Profile::EndEntity).unwrap();
    for (name, names) in [
        ("no common name", names(|n| n.common_name = String::new())),
        ("a long one", names(|n| n.common_name = "a".repeat(65))),
        ("a control character", names(|n| n.common_name = "a\nb".into())),
        ("a wildcard", names(|n| n.dns = vec!["*.clinic.example".into()])),
        ("upper case", names(|n| n.dns = vec!["GW".into()])),
        ("an address as name", names(|n| n.dns = vec!["10.0.0.1".into()])),
        ("an empty label", names(|n| n.dns = vec!["a..b".into()])),
        ("no scheme", names(|n| n.uris = vec!["clinic".into()])),
        ("a space", names(|n| n.uris = vec!["spiffe://a b".into()])),
        ("not ASCII", names(|n| n.uris = vec!["spiffe://é".into()])),
        ("too many", names(|n| n.dns = vec!["a".into(); 17])),
    ] {
        assert_eq!(
            Subject::new(&names, Profile::EndEntity).expect_err(name).reason,
            Reason::EstConfig,
            "{name}"
        );
    }
}

#[test]
fn a_chain_ends_when_its_first_certificate_ends() {
    let world = World::new();
    let ca = world.root.beneath(Template::ca("short", None).with(|params| {
        params.not_before = date(NOW.0 - 10);
        params.not_after = date(NOW.0 + DAY);
    }));
    let certificate = ca.certify(leaf(), &Point(&world.key.point()));
    let chain = world.answered(Profile::EndEntity, &[certificate], &[ca.der]).unwrap();
    assert_eq!((chain.not_before(), chain.not_after()), (UnixTime(NOW.0 - 10), UnixTime(NOW.0 + DAY)));
}
