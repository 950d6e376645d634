//! Peers that a handshake lets through, and those that it refuses.

use crate::common;

use common::{
    Authority, DOMAIN_ID, FLEET, MODULE, Member, Template, client_as, domain, fleet_root, identity_of,
    issuing_ca, meet, server_as,
};
use edgewarden_names::{Reason, Refusal, SpiffeId};
use edgewarden_svid::{peer_expiry, peer_id};
use edgewarden_transport::{Identity, tls};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;

/// A good member of the same trust domain, to meet the others.
fn good(root: &Authority) -> Identity {
    let id = "spiffe://plant.example/gateway/gw-2/module/alerts";
    identity_of(&issuing_ca(root, "gw-2").issue(&Template::leaf(id)), id)
}

/// Shows `member` to a good server and to a good client. `Ok` when both let it in.
async fn judge(root: &Authority, member: &Member) -> [Result<SpiffeId, Option<Refusal>>; 2] {
    let identity = good(root);
    let pinned = tls::pinned_client_config(&root.root.as_slice().into(), &domain(), tls::anyone()).unwrap();
    let server = tls::server_config(&identity, tls::anyone()).unwrap();
    let as_client = meet(server, client_as(member, pinned)).await;
    let client = tls::client_config(&identity, tls::anyone()).unwrap();
    let as_server = meet(server_as(member), client).await;
    assert_eq!(as_client.by_server.is_ok(), as_client.by_client.is_ok());
    assert_eq!(as_server.by_server.is_ok(), as_server.by_client.is_ok());
    [as_client.by_server, as_server.by_client].map(|met| match met {
        Ok(id) => Ok(id.unwrap()),
        Err(error) => Err(tls::refusal(&error).cloned()),
    })
}

#[tokio::test]
async fn members_are_known_by_their_ids() {
    let root = fleet_root();
    let gateway = root.beneath(&Template::ca("gw-1", 1));
    let issuing = gateway.beneath(&Template::ca("gw-1 issuing", 0));
    let mut with_root = issuing.issue(&Template::leaf(MODULE));
    with_root.chain.push(root.root.clone());
    let mut no_purpose = Template::leaf(MODULE);
    no_purpose.extended.clear();
    let mut named = Template::leaf(MODULE);
    named.names = vec!["analytics"];
    for (id, member) in [
        (MODULE, issuing.issue(&Template::leaf(MODULE))),
        (MODULE, gateway.issue(&Template::leaf(MODULE))),
        (MODULE, issuing.issue(&no_purpose)),
        (MODULE, issuing.issue(&named)),
        (MODULE, with_root),
        (
            "spiffe://plant.example/gateway/gw-1",
            issuing.issue(&Template::leaf("spiffe://plant.example/gateway/gw-1")),
        ),
        (
            "spiffe://plant.example/gateway/gw-1/leaf/sensor-1",
            issuing.issue(&Template::leaf("spiffe://plant.example/gateway/gw-1/leaf/sensor-1")),
        ),
        (FLEET, root.issue(&Template::leaf(FLEET))),
    ] {
        for met in judge(&root, &member).await {
            assert_eq!(met.unwrap().as_str(), id);
        }
    }
}

/// One line for each way to be wrong: what, a part of the rule that refuses it, and who.
fn bad_members(root: &Authority) -> Vec<(&'static str, &'static str, Member)> {
    let gateway = root.beneath(&Template::ca("gw-1", 1));
    let issuing = gateway.beneath(&Template::ca("gw-1 issuing", 0));
    let leaf = Template::leaf(MODULE);
    let with = |change: &dyn Fn(&mut Template)| {
        let mut template = leaf.clone();
        change(&mut template);
        issuing.issue(&template)
    };
    let under = |change: &dyn Fn(&mut Template)| {
        let mut template = Template::ca("gw-1", 1);
        change(&mut template);
        root.beneath(&template).beneath(&Template::ca("issuing", 0)).issue(&leaf)
    };
    let mut bad = vec![
        (
            "another root",
            "do not lead to the trust domain's root",
            issuing_ca(&fleet_root(), "gw-1").issue(&leaf),
        ),
        (
            "another trust domain",
            "must be of the trust domain",
            with(&|t| t.uris = vec!["spiffe://other.example/gateway/gw-1/module/analytics"]),
        ),
        ("the trust domain's own ID", "authenticates nobody", with(&|t| t.uris = vec![DOMAIN_ID])),
        (
            "outside its gateway",
            "vouches only for",
            with(&|t| t.uris = vec!["spiffe://plant.example/gateway/gw-2/module/analytics"]),
        ),
        (
            "a longer gateway name",
            "vouches only for",
            with(&|t| t.uris = vec!["spiffe://plant.example/gateway/gw-11/module/analytics"]),
        ),
        (
            "another gateway's own ID",
            "vouches only for",
            with(&|t| t.uris = vec!["spiffe://plant.example/gateway/gw-2"]),
        ),
        ("the fleet, by a gateway", "vouches only for", with(&|t| t.uris = vec![FLEET])),
        (
            "no known place",
            "vouches only for",
            with(&|t| t.uris = vec!["spiffe://plant.example/gateway/gw-1/module/a/b"]),
        ),
        (
            "two URI SANs",
            "exactly one URI SAN",
            with(&|t| t.uris.push("spiffe://plant.example/gateway/gw-1/module/alerts")),
        ),
        (
            "a second URI SAN of another kind",
            "exactly one URI SAN",
            with(&|t| t.uris.push("https://plant.example")),
        ),
        ("no URI SAN", "exactly one URI SAN", with(&|t| t.uris.clear())),
        (
            "no SAN at all",
            "exactly one URI SAN",
            with(&|t| {
                t.uris.clear();
                t.dns.clear();
            }),
        ),
        (
            "a URI that is no SPIFFE ID",
            "begins with `spiffe://`",
            with(&|t| t.uris = vec!["https://plant.example/gateway/gw-1"]),
        ),
        ("expired", "has expired", with(&|t| t.to = -1)),
        ("not yet valid", "not valid yet", with(&|t| t.from = 600)),
        (
            "a leaf that is a CA",
            "CaUsedAsEndEntity",
            with(&|t| t.ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        ),
        (
            "a leaf that may sign certificates",
            "key usage of an SVID",
            with(&|t| t.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        (
            "a leaf that may sign revocations",
            "key usage of an SVID",
            with(&|t| t.key_usages.push(KeyUsagePurpose::CrlSign)),
        ),
        (
            "a leaf that may not sign",
            "key usage of an SVID",
            with(&|t| t.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ),
        ("no key usage", "key usage of an SVID", with(&|t| t.key_usages.clear())),
        (
            "for another purpose",
            "RequiredEkuNotFound",
            with(&|t| t.extended = vec![ExtendedKeyUsagePurpose::CodeSigning]),
        ),
        ("issued by a leaf", "EndEntityUsedAsCa", issuing.beneath(&leaf).issue(&leaf)),
        ("a module under the root", "the root itself", root.issue(&leaf)),
        (
            "a gateway under the root",
            "the root itself",
            root.issue(&Template::leaf("spiffe://plant.example/gateway/gw-1")),
        ),
        (
            "an issuer too many",
            "PathLenConstraintViolated",
            issuing.beneath(&Template::ca("deeper", 0)).issue(&leaf),
        ),
        ("a gateway CA without a name", "one CN", under(&|t| t.names.clear())),
        ("a gateway CA with two names", "one CN", under(&|t| t.names = vec!["gw-1", "gw-2"])),
        ("a gateway CA with no gateway's name", "one CN", under(&|t| t.names = vec!["gw-1/module"])),
        ("a gateway CA of another gateway", "vouches only for", under(&|t| t.names = vec!["gw-2"])),
        (
            "a gateway CA that is a member",
            "an issuer's URI SAN",
            under(&|t| t.uris = vec!["spiffe://plant.example/gateway/gw-1"]),
        ),
        (
            "a gateway CA of another trust domain",
            "an issuer's URI SAN",
            under(&|t| t.uris = vec!["spiffe://other.example"]),
        ),
        ("a gateway CA without an ID", "exactly one URI SAN", under(&|t| t.uris.clear())),
        (
            "a gateway CA with two IDs",
            "exactly one URI SAN",
            under(&|t| t.uris.push("spiffe://other.example")),
        ),
        (
            "a gateway CA that may not sign",
            "key usage of an issuer",
            under(&|t| t.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ),
        ("a gateway CA that is none", "EndEntityUsedAsCa", under(&|t| t.ca = IsCa::ExplicitNoCa)),
        ("an expired gateway CA", "has expired", under(&|t| t.to = -1)),
    ];
    let whole = issuing.issue(&leaf);
    for (name, kept) in [
        ("without its issuers", &[0][..]),
        ("without its gateway CA", &[0, 1]),
        ("without its issuing CA", &[0, 2]),
    ] {
        let chain = kept.iter().map(|index| whole.chain[*index].clone()).collect();
        bad.push((name, "do not lead to the trust domain's root", Member { chain, ..whole.clone() }));
    }
    let mut long = whole.clone();
    long.chain.extend(vec![root.root.clone(); 6]);
    bad.push(("a chain that is too long", "at most 7 issuers", long));
    bad
}

#[tokio::test]
async fn whoever_is_wrong_in_one_way_is_refused() {
    let root = fleet_root();
    for (name, rule, member) in bad_members(&root) {
        for met in judge(&root, &member).await {
            let Err(refusal) = met else { panic!("let in: {name}") };
            let refusal = refusal.unwrap_or_else(|| panic!("no reason: {name}"));
            assert_eq!(refusal.reason, Reason::PeerUnauthorized, "{name}");
            assert!(refusal.rule.contains(rule), "{name}: {}", refusal.rule);
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_let_in_only_where_it_may() {
    let root = fleet_root();
    let identity = identity_of(&root.issue(&Template::leaf(FLEET)), FLEET);
    let pinned = || {
        let only_fleet = tls::only(tls::fleet_id(&domain()));
        tls::pinned_client_config(&root.root.as_slice().into(), &domain(), only_fleet).unwrap()
    };
    let met = meet(tls::server_config(&identity, tls::anyone()).unwrap(), pinned()).await;
    assert!(met.by_server.is_err() && met.by_client.is_err());

    let optional = || tls::server_config_optional_client(&identity, tls::anyone()).unwrap();
    let met = meet(optional(), pinned()).await;
    assert_eq!(met.by_server.unwrap(), None);
    assert_eq!(met.by_client.unwrap().unwrap().as_str(), FLEET);

    let module = issuing_ca(&root, "gw-1").issue(&Template::leaf(MODULE));
    let met = meet(optional(), client_as(&module, pinned())).await;
    assert_eq!(met.by_server.unwrap().unwrap().as_str(), MODULE);

    // A certificate that is shown is judged, also where none is needed.
    let mut expired = Template::leaf(MODULE);
    expired.to = -1;
    let expired = issuing_ca(&root, "gw-1").issue(&expired);
    let met = meet(optional(), client_as(&expired, pinned())).await;
    assert!(met.by_server.is_err() && met.by_client.is_err());
}

#[tokio::test]
async fn a_joining_gateway_meets_only_the_fleet() {
    let root = fleet_root();
    let pinned = |root: &Authority| {
        let only_fleet = tls::only(tls::fleet_id(&domain()));
        tls::pinned_client_config(&root.root.as_slice().into(), &domain(), only_fleet).unwrap()
    };
    let module = issuing_ca(&root, "gw-1").issue(&Template::leaf(MODULE));
    let other_root = fleet_root().issue(&Template::leaf(FLEET));
    for impostor in [module, other_root] {
        let error = meet(server_as(&impostor), pinned(&root)).await.by_client.unwrap_err();
        assert_eq!(tls::refusal(&error).unwrap().reason, Reason::PeerUnauthorized);
    }
    let fleet = root.issue(&Template::leaf(FLEET));
    assert!(meet(server_as(&fleet), pinned(&root)).await.by_client.is_ok());
    assert!(tls::pinned_client_config(&(&b"no certificate"[..]).into(), &domain(), tls::anyone()).is_err());
}

#[tokio::test]
async fn whom_the_authorizer_refuses_stays_out() {
    let root = fleet_root();
    let issuing = issuing_ca(&root, "gw-1");
    let identity = identity_of(&issuing.issue(&Template::leaf(MODULE)), MODULE);
    let other = SpiffeId::parse("spiffe://plant.example/gateway/gw-1/module/alerts").unwrap();
    for (server, client) in
        [(tls::only(other.clone()), tls::anyone()), (tls::anyone(), tls::only(other.clone()))]
    {
        let server = tls::server_config(&identity, server).unwrap();
        let client = tls::client_config(&identity, client).unwrap();
        let met = meet(server, client).await;
        let refusals = [met.by_server.unwrap_err(), met.by_client.unwrap_err()];
        let [refusal] = &refusals.iter().filter_map(|error| tls::refusal(error)).collect::<Vec<_>>()[..]
        else {
            panic!("one side refuses, the other learns that it was refused")
        };
        assert_eq!(refusal.subject, MODULE);
        assert_eq!(refusal.rule, format!("the peer must be `{other}`"));
    }
}

#[test]
fn a_chain_ends_with_its_first_certificate_to_end() {
    let root = fleet_root();
    let mut short = Template::ca("issuing", 0);
    short.to = 60;
    let member = root.beneath(&Template::ca("gw-1", 1)).beneath(&short).issue(&Template::leaf(MODULE));
    let chain: Vec<_> = member.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let [leaf, issuing, gateway] = [0, 1, 2].map(|index| peer_expiry(&chain[index..=index]).unwrap());
    assert!(issuing < leaf && leaf < gateway);
    assert_eq!(peer_expiry(&chain).unwrap(), issuing);
    assert_eq!(peer_id(&chain).unwrap().as_str(), MODULE);

    let mut trailing = member.chain[0].clone();
    trailing.push(0);
    for bad in [vec![], vec![CertificateDer::from(trailing)], vec![CertificateDer::from(vec![0x30, 0])]] {
        assert!(peer_id(&bad).is_err());
        assert!(peer_expiry(&bad).is_err());
    }
}
