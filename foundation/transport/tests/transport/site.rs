//! Gateways that a site's own CA certified: whom they may speak for, over which chains.

use crate::common;

use common::{DOMAIN_ID, FLEET, MODULE, Member, Template, domain, fleet_root, issuing_ca, site_root};
use edgewarden_names::{Reason, UnixTime};
use edgewarden_svid::judge_chain;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

/// A CA of the site: no SPIFFE ID.
fn site_ca(name: &'static str, depth: u8) -> Template {
    let mut template = Template::ca(name, depth);
    template.uris.clear();
    template
}

fn judge(member: &Member) -> Result<String, String> {
    let judged = judge_chain(&member.chain, std::slice::from_ref(&member.root), &domain(), UnixTime::now());
    judged.map(|id| id.to_string()).map_err(|refusal| {
        assert_eq!(refusal.reason, Reason::PeerUnauthorized);
        refusal.to_string()
    })
}

#[test]
fn a_gateway_speaks_for_its_modules_beneath_any_of_the_sites_cas() {
    let root = site_root();
    let deep = root.beneath(&site_ca("policy", 9)).beneath(&site_ca("devices", 9));
    for above in [&root, &root.beneath(&site_ca("devices", 9)), &deep] {
        assert_eq!(judge(&issuing_ca(above, "gw-1").issue(&Template::leaf(MODULE))).unwrap(), MODULE);
    }
    // As many as may be, and one more.
    let four = deep.beneath(&site_ca("a", 9)).beneath(&site_ca("b", 9));
    assert!(judge(&issuing_ca(&four, "gw-1").issue(&Template::leaf(MODULE))).is_ok());
    let five = four.beneath(&site_ca("c", 9));
    assert!(judge(&issuing_ca(&five, "gw-1").issue(&Template::leaf(MODULE))).is_err());
}

#[test]
fn nobody_beneath_a_site_speaks_for_another() {
    let root = site_root();
    let devices = root.beneath(&site_ca("devices", 9));
    let leaf = Template::leaf(MODULE);
    let with = |change: &dyn Fn(&mut Template)| {
        let mut gateway = Template::ca("gw-1", 1);
        change(&mut gateway);
        devices.beneath(&gateway).beneath(&Template::ca("issuing", 0)).issue(&leaf)
    };
    let gateway = devices.beneath(&Template::ca("gw-2", 1));
    for (name, rule, member) in [
        ("a gateway CA of another gateway", "vouches only for", with(&|t| t.names = vec!["gw-2"])),
        (
            "a gateway that makes itself another",
            "PathLen",
            gateway.beneath(&Template::ca("gw-1", 1)).beneath(&Template::ca("issuing", 0)).issue(&leaf),
        ),
        (
            "an issuing CA that is another gateway",
            "vouches only for",
            gateway.beneath(&Template::ca("gw-1", 0)).issue(&leaf),
        ),
        (
            "an issuing CA that looks like a site's",
            "exactly one URI SAN",
            gateway.beneath(&site_ca("gw-1", 0)).issue(&leaf),
        ),
        ("a gateway CA without an ID", "vouches only for", with(&|t| t.uris.clear())),
        (
            "no CA with an ID",
            "carry the trust domain's ID",
            devices.beneath(&site_ca("gw-1", 1)).issue(&leaf),
        ),
        ("a module by the site's CA", "carry the trust domain's ID", devices.issue(&leaf)),
        ("a module by the site's root", "carry the trust domain's ID", root.issue(&leaf)),
        ("the fleet by the site's root", "carry the trust domain's ID", root.issue(&Template::leaf(FLEET))),
        (
            "the fleet by a gateway",
            "vouches only for",
            issuing_ca(&devices, "gw-1").issue(&Template::leaf(FLEET)),
        ),
        (
            "another trust domain's gateway CA",
            "an issuer's URI SAN",
            with(&|t| t.uris = vec!["spiffe://other.example"]),
        ),
        ("two IDs", "exactly one URI SAN", with(&|t| t.uris = vec![DOMAIN_ID, "spiffe://other.example"])),
        ("no CA", "EndEntityUsedAsCa", with(&|t| t.ca = IsCa::ExplicitNoCa)),
        (
            "a gateway CA for clients alone",
            "RequiredEkuNotFound",
            with(&|t| t.extended = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        (
            "a gateway CA for servers alone",
            "RequiredEkuNotFound",
            with(&|t| t.extended = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
    ] {
        let said = judge(&member).expect_err(name);
        assert!(said.contains(rule), "{name}: {said}");
    }
    let mut signs_nothing = site_ca("devices", 9);
    signs_nothing.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let member = issuing_ca(&root.beneath(&signs_nothing), "gw-1").issue(&leaf);
    assert!(judge(&member).unwrap_err().contains("forbids to sign"), "a CA of the site that may not sign");
}

#[test]
fn a_fleets_root_does_not_become_a_sites() {
    // Beneath a root with the trust domain's ID the old rule holds: whoever stands under it is a gateway CA.
    let root = fleet_root();
    let leaf = Template::leaf(MODULE);
    let between = root.beneath(&site_ca("devices", 9));
    assert!(judge(&issuing_ca(&between, "gw-1").issue(&leaf)).is_err());
    assert_eq!(judge(&issuing_ca(&root, "gw-1").issue(&leaf)).unwrap(), MODULE);
}

#[test]
fn an_empty_chain_and_a_broken_root_are_refused() {
    let member = issuing_ca(&site_root(), "gw-1").issue(&Template::leaf(MODULE));
    assert!(judge(&Member { chain: Vec::new(), ..member.clone() }).is_err());
    assert!(judge(&Member { root: vec![0x30, 0], ..member }).is_err());
}
