//! Images of a deployment, as the operator's command sees them: a tag is resolved once, and what a gateway would refuse is
//! said before anybody signs.

use crate::common;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use common::Fleet;
use edgewarden_image_trust::sign::{SigningKey, sign};
use edgewarden_names::{Architecture, Reason};
use edgewarden_oci::build::{Recipe, build};
use edgewarden_oci::layout::ImageLayout;
use edgewarden_oci::manifest::{Execution, ImageConfig};
use edgewarden_oci::registry::Registry;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::deployment::ImageReference;
use serde_json::json;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn registry(fleet: &Fleet) -> Server {
    registry_with(fleet, "")
}

/// With more sections of its configuration.
fn registry_with(fleet: &Fleet, sections: &str) -> Server {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: '{address}'}}\n{sections}",
        fleet.path("registry").display()
    );
    std::fs::write(fleet.path("registry.yml"), config).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(fleet.path("registry.yml")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "the registry ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Server(child, address)
}

fn repository(address: &str, name: &str) -> Registry {
    let plain = Runtime { plain_http_registries: vec![address.to_owned()], ..Runtime::default() };
    Registry::new(address, &format!("clinic/{name}"), &plain).unwrap()
}

/// Puts an image with this label under a tag; returns its digest.
async fn push(address: &str, tag: &str, label: &str) -> String {
    push_for(Architecture::HERE, &repository(address, "alerts"), tag, label).await
}

async fn push_for(architecture: Architecture, registry: &Registry, tag: &str, label: &str) -> String {
    let config =
        json!({"architecture": architecture, "os": "linux", "config": {"Labels": {"release": label}},
        "rootfs": {"type": "layers", "diff_ids": []}})
        .to_string();
    let layer = registry.push_blob(b"layer").await.unwrap();
    let digest = registry.push_blob(config.as_bytes()).await.unwrap();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 5}]});
    registry.push_manifest(tag, MANIFEST, manifest.to_string().as_bytes()).await.unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_resolved_once() {
    let fleet = Fleet::start(&[]);
    let server = registry(&fleet);
    let address = server.1.as_str();
    let digest = push(address, "1", "first").await;

    let folder = fleet.path("example");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(fleet.path("operator.key.pub"), folder.join("image.pub")).unwrap();
    std::fs::write(folder.join("policy.cedar"), "").unwrap();
    let document = |image: &str| {
        let file = folder.join("deployment.toml");
        let text = format!(
            "name = \"alerts\"\nversion = 1\npolicy_file = \"policy.cedar\"\n[[image_keys]]\nname = \"release\"\n\
             public_key_file = \"image.pub\"\n[[modules]]\nname = \"alerts\"\nimage = \"{image}\"\n\
             ports = [{{ name = \"alarm\", port = 9443 }}]\nrestart = \"on-failure\"\n"
        );
        std::fs::write(&file, text).unwrap();
        file
    };
    let file = document(&format!("{address}/clinic/alerts:1"));
    let file = file.to_str().unwrap();
    let unsigned = ["--skip-images", "--allow-empty", "--plain-http", address];
    let checked =
        fleet.json(&[&["deploy", file, "--check", "--select", "site=clinic"], &unsigned[..]].concat());
    let deployment = &checked["deployment"];
    assert_eq!(deployment["modules"][0]["image"], format!("{address}/clinic/alerts:1@{digest}"));
    assert_eq!(deployment["selector"], json!({"site": "clinic"}));
    assert!(deployment["image_keys"][0]["public_key"].as_str().unwrap().contains("BEGIN PUBLIC KEY"));
    assert_ne!(fleet.cli(&["deploy", file, "--check", "--all"]).code(), 0, "plain HTTP was not allowed");

    // What is sent keeps its digest when the tag moves.
    let key = fleet.path("operator.key");
    let out = fleet.path("envelope.json");
    let (key, out) = (key.to_str().unwrap(), out.to_str().unwrap());
    let unjudged = ["--skip-images", "--plain-http", address];
    fleet.cli(&[&["deploy", file, "--all", "--key", key, "--out", out], &unjudged[..]].concat()).ok();
    assert_ne!(push(address, "1", "second").await, digest);
    fleet.cli(&[&["deploy", "--envelope", out, "--allow-empty"], &unjudged[..]].concat()).ok();
    let envelope: edgewarden_protocol::dsse::Envelope =
        serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert!(String::from_utf8(envelope.payload.0).unwrap().contains(&digest));

    let missing = document(&format!("{address}/clinic/alerts:2"));
    let missing = missing.to_str().unwrap();
    fleet
        .cli(&["deploy", missing, "--check", "--all", "--plain-http", address])
        .refused(Reason::ImageUnavailable);
    for bad in
        ["alerts:1", "clinic/alerts", &format!("{address}/Clinic/alerts:1"), &format!("{address}/../x:1")]
    {
        let file = document(bad);
        let answer =
            fleet.cli(&["deploy", file.to_str().unwrap(), "--check", "--all", "--plain-http", address]);
        assert_eq!(answer.code(), 1, "{bad}: {}", answer.errors());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_for_with_the_callers_login() {
    let fleet = Fleet::start(&[]);
    // bcrypt of `s3cret-pass`, of the lowest cost.
    let htpasswd = "plant:$2b$05$abcdefghijklmnopqrstuuV7fpPozvyqJfnY19y0802WTlXUm6Rjy\n";
    std::fs::write(fleet.path("htpasswd"), htpasswd).unwrap();
    let sections =
        format!("auth: {{htpasswd: {{realm: plant, path: {}}}}}\n", fleet.path("htpasswd").display());
    let server = registry_with(&fleet, &sections);
    let address = server.1.as_str();
    let logins = |name: &str, password: &str, mode: u32| {
        let file = fleet.path(name);
        let entry = json!({"auths": {address: {"username": "plant", "password": password}}});
        std::fs::write(&file, entry.to_string()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let good = logins("good.json", "s3cret-pass", 0o600);
    let config = Runtime {
        plain_http_registries: vec![address.to_owned()],
        registry_credentials_file: Some(good.clone().into()),
        ..Runtime::default()
    };
    let repository = Registry::new(address, "clinic/alerts", &config).unwrap();
    push_for(Architecture::HERE, &repository, "1", "first").await;

    let folder = fleet.path("example");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(fleet.path("operator.key.pub"), folder.join("image.pub")).unwrap();
    std::fs::write(folder.join("policy.cedar"), "").unwrap();
    let file = folder.join("deployment.toml");
    let text = format!(
        "name = \"alerts\"\nversion = 1\npolicy_file = \"policy.cedar\"\n[[image_keys]]\nname = \"release\"\n\
         public_key_file = \"image.pub\"\n[[modules]]\nname = \"alerts\"\nimage = \"{address}/clinic/alerts:1\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let checked = [
        "deploy",
        file.to_str().unwrap(),
        "--check",
        "--all",
        "--allow-empty",
        "--skip-images",
        "--plain-http",
        address,
    ];
    let with = |credentials: &str| fleet.cli(&[&checked[..], &["--credentials", credentials]].concat());
    with(&good).ok();
    for (name, answer) in [
        ("another password", with(&logins("bad.json", "wr0ng-pass", 0o600))),
        ("open to the group", with(&logins("open.json", "s3cret-pass", 0o640))),
        ("no such file", with("/nonexistent/logins.json")),
    ] {
        let said = answer.errors();
        answer.refused(Reason::ImageLogin);
        assert!(!said.contains("s3cret-pass") && !said.contains("wr0ng-pass"), "{name}: {said}");
    }
}

/// A signed image with a shell, its configuration changed. Gives the reference.
async fn signed(
    fleet: &Fleet,
    address: &str,
    key: &SigningKey,
    name: &str,
    change: fn(&mut Execution),
) -> String {
    let registry = repository(address, name);
    let layout = ImageLayout::create(&fleet.path(name)).unwrap();
    build(&Recipe { binaries: vec!["/bin/sh".into()], ..Recipe::default() }, &layout).unwrap();
    let (_, _, mut manifest) = layout.image().unwrap();
    let config = layout.blob(&manifest.config.digest, 1 << 20).unwrap();
    let mut config: ImageConfig = serde_json::from_slice(&config).unwrap();
    change(&mut config.config);
    let media_type = manifest.config.media_type.clone();
    manifest.config = layout.put(&media_type, &serde_json::to_vec(&config).unwrap()).unwrap();
    let image = layout.put(MANIFEST, &serde_json::to_vec(&manifest).unwrap()).unwrap();
    layout.set_image(&image).unwrap();
    let digest = layout.push(&registry, "1").await.unwrap();
    let reference = format!("{address}/clinic/{name}:1@{digest}");
    if name != "unsigned" {
        let signed = sign(&ImageReference::parse(&reference).unwrap(), key).unwrap();
        registry.push_blob(&signed.config).await.unwrap();
        registry.push_blob(&signed.payload).await.unwrap();
        registry.push_manifest(&signed.tag, signed.manifest_media_type, &signed.manifest).await.unwrap();
    }
    reference
}

/// A deployment of one image, in a file.
fn written(fleet: &Fleet, image: &str, public_key: &str) -> String {
    let file = fleet.path("written.toml");
    let text = format!(
        "name = \"written\"\npolicy = \"\"\n[[image_keys]]\nname = \"release\"\n\
         public_key = \"\"\"\n{public_key}\"\"\"\n[[modules]]\nname = \"alerts\"\nimage = \"{image}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

type Change = fn(&mut Execution);

/// The check and the deed refuse the same, in the same words, signed before or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_would_refuse_is_neither_valid_nor_sent() {
    let fleet = Fleet::start(&[]);
    let server = registry(&fleet);
    let address = server.1.clone();
    let address = address.as_str();
    let key = SigningKey::generate().unwrap();
    let operator = fleet.path("operator.key");
    let operator = operator.to_str().unwrap();
    let whom = ["--all", "--allow-empty", "--plain-http", address];
    let deploy = |file: &str, how: &[&str]| fleet.cli(&[&["deploy", file], &whom[..], how].concat());
    let hand_in = |envelope: &str| {
        fleet.cli(&["deploy", "--envelope", envelope, "--allow-empty", "--plain-http", address])
    };
    let check = |image: &str, public_key: &str| {
        let file = written(&fleet, image, public_key);
        let checked = deploy(&file, &["--check"]);
        let stored = fleet.json(&["deployment", "list"]).as_array().unwrap().len();
        let deployed = deploy(&file, &["--key", operator]);
        assert_eq!(checked.code(), deployed.code(), "{image}: {}", deployed.errors());
        // Signed by somebody who did not ask, and sent by somebody who does.
        let out = fleet.path("envelope.json");
        let out = out.to_str().unwrap();
        let whom = ["--all", "--plain-http", address, "--key", operator, "--out", out];
        fleet.cli(&[&["deploy", &file, "--skip-images"], &whom[..]].concat()).ok();
        let sent = hand_in(out);
        let count = fleet.json(&["deployment", "list"]).as_array().unwrap().len();
        if checked.code() == 3 {
            assert_eq!(checked.errors(), deployed.errors(), "{image}");
            assert_eq!(checked.errors(), sent.errors(), "{image}");
            assert_eq!(count, stored, "{image}");
        } else {
            assert_eq!(count, stored + 2, "{image}");
        }
        checked
    };
    let good = signed(&fleet, address, &key, "good", |_| ()).await;
    check(&good, &key.public_pem()).ok();
    let images: [(&str, Change, Reason); 6] = [
        ("unsigned", |_| (), Reason::ImageUnsigned),
        ("too-high", |run| run.user = Some("65536".into()), Reason::ImageUser),
        ("nobody", |run| run.user = Some("nobody".into()), Reason::ImageUser),
        ("nowhere", |run| run.working_dir = Some("/proc/app".into()), Reason::ImageCommand),
        ("nothing", |run| run.entrypoint = None, Reason::ImageCommand),
        ("missing", |run| run.entrypoint = Some(vec!["/app/run".into()]), Reason::ImageCommand),
    ];
    for (name, change, reason) in images {
        let image = signed(&fleet, address, &key, name, change).await;
        check(&image, &key.public_pem()).refused(reason);
    }
    check(&good, &SigningKey::generate().unwrap().public_pem()).refused(Reason::ImageSignature);

    // A registry that is away: nothing is sent unseen, but on purpose.
    let file = written(&fleet, &good, &key.public_pem());
    drop(server);
    for how in [&["--check"][..], &["--key", operator]] {
        let away = deploy(&file, how);
        assert!(away.errors().contains("--skip-images"), "{}", away.errors());
        away.refused(Reason::ImageUnavailable);
    }
    deploy(&file, &["--key", operator, "--skip-images"]).ok();
}

/// Images are judged for the gateways that are meant, not for the machine of whoever deploys.
#[tokio::test(flavor = "multi_thread")]
async fn images_are_judged_for_the_processors_of_the_gateways() {
    let fleet = Fleet::start(&[]);
    let server = registry(&fleet);
    let address = server.1.as_str();
    let key = SigningKey::generate().unwrap();
    let elsewhere =
        if Architecture::HERE == Architecture::Amd64 { Architecture::Arm64 } else { Architecture::Amd64 };
    let good = signed(&fleet, address, &key, "good", |_| ()).await;
    let file = written(&fleet, &good, &key.public_pem());
    let operator = fleet.path("operator.key");
    let operator = operator.to_str().unwrap();
    let deploy = |file: &str, how: &[&str]| {
        fleet.cli(&[&["deploy", file, "--select", "site=clinic", "--plain-http", address], how].concat())
    };
    let gateway = fleet.gateway("gw-1").await;
    let says = async |gateway: &common::Gateway, architecture| {
        let report = edgewarden_protocol::uplink::Report { architecture, ..common::report() };
        let sync = edgewarden_protocol::uplink::Sync { have: None, wait_seconds: 0, report, secrets: None };
        let client = gateway.client(&fleet, "runtimed");
        common::post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await.unwrap();
    };
    // Nobody has said anything: for this machine, and that is said.
    let guessed = deploy(&file, &["--check"]);
    assert!(guessed.errors().contains("has said its processor"), "{}", guessed.errors());
    guessed.ok();

    says(&gateway, Some(Architecture::HERE)).await;
    let known = deploy(&file, &["--check"]);
    assert!(!known.errors().contains("note:"), "{}", known.errors());
    known.ok();

    says(&gateway, Some(elsewhere)).await;
    assert_eq!(fleet.json(&["device", "show", "gw-1"])["device"]["architecture"], elsewhere.as_str());
    for how in [&["--check"][..], &["--key", operator]] {
        let refused = deploy(&file, how);
        assert!(
            refused.errors().contains(&format!("the gateway is linux/{elsewhere}")),
            "{}",
            refused.errors()
        );
        refused.refused(Reason::ImagePlatform);
    }
    // For others it is right.
    fleet
        .cli(&[
            "deploy",
            &file,
            "--select",
            "site=plant",
            "--check",
            "--allow-empty",
            "--plain-http",
            address,
        ])
        .ok();

    // A tag of several images is the one that the gateways can run.
    let digest = good.split_once('@').unwrap().1;
    let images = repository(address, "good");
    let other = push_for(elsewhere, &images, "other", "other").await;
    let entry = |digest: &str, size: usize, architecture: Architecture| {
        json!({"mediaType": MANIFEST, "digest": digest, "size": size,
               "platform": {"os": "linux", "architecture": architecture}})
    };
    let size = async |digest: &str| images.manifest(&digest.parse().unwrap()).await.unwrap().len();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(digest, size(digest).await, Architecture::HERE), entry(&other, size(&other).await, elsewhere)]});
    images.push_manifest("all", INDEX, index.to_string().as_bytes()).await.unwrap();
    let tagged = written(&fleet, &format!("{address}/clinic/good:all"), &key.public_pem());
    let resolved = |selector: &str| {
        let how = ["--check", "--skip-images", "--allow-empty", "--plain-http", address];
        let checked = fleet.json(&[&["deploy", &tagged, "--select", selector], &how[..]].concat());
        let image = checked["deployment"]["modules"][0]["image"].as_str().unwrap().to_owned();
        image.split_once('@').unwrap().1.to_owned()
    };
    assert_eq!(resolved("site=clinic"), other);
    assert_eq!(resolved("site=plant"), digest);

    // One deployment for both is none: some would refuse it.
    let second = fleet.gateway("gw-2").await;
    says(&second, Some(Architecture::HERE)).await;
    let file = written(&fleet, &good, &key.public_pem());
    let mixed = deploy(&file, &["--key", operator]);
    assert!(mixed.errors().contains("by a label of its own"), "{}", mixed.errors());
    mixed.refused(Reason::ImagePlatform);
    assert_eq!(fleet.json(&["deployment", "list"]), json!([]));
}

/// Keys that a gateway cannot use, as people have them.
#[test]
fn an_image_key_that_no_gateway_can_use_is_refused_by_name() {
    let fleet = Fleet::start(&[]);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).stderr(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let public = |kind: &[&str]| {
        let private = fleet.path("private.pem");
        let private = private.to_str().unwrap();
        openssl(&[&["genpkey", "-out", private], kind].concat());
        openssl(&["pkey", "-in", private, "-pubout"])
    };
    let curve = |name: &str| public(&["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{name}")]);
    let good = curve("P-256");
    let private = std::fs::read_to_string(fleet.path("private.pem")).unwrap();
    for (case, text, says) in [
        ("RSA", public(&["-algorithm", "RSA"]), "an RSA key"),
        ("Ed25519", public(&["-algorithm", "ED25519"]), "an Ed25519 key"),
        ("P-384", curve("P-384"), "a P-384 key"),
        ("P-521", curve("P-521"), "a P-521 key"),
        ("byte order mark", format!("\u{feff}{good}"), "byte order mark"),
        ("two", good.repeat(2), "2 PEM blocks"),
        ("private", private, "private key"),
        ("text before", format!("a key:\n{good}"), "before"),
        ("text behind", format!("{good}the end"), "end"),
        ("empty", String::new(), "not PEM"),
        ("broken", good.replace("MFkw", "*"), "base64"),
        ("a certificate", std::fs::read_to_string(fleet.data().join("root.pem")).unwrap(), "a certificate"),
    ] {
        std::fs::write(fleet.path("image.pub"), &text).unwrap();
        let file = fleet.document(1, "site = \"clinic\"");
        let document = std::fs::read_to_string(&file).unwrap();
        let keys = "[[image_keys]]\nname = \"ci\"\npublic_key_file = \"image.pub\"\n";
        std::fs::write(&file, format!("{document}{keys}")).unwrap();
        let operator = fleet.path("operator.key");
        let (file, operator) = (file.to_str().unwrap(), operator.to_str().unwrap());
        for rest in [&["--check", "--skip-images"][..], &["--key", operator]] {
            let answer = fleet.cli(&[&["deploy", file, "--allow-empty"], rest].concat());
            let said = answer.errors();
            answer.refused(Reason::DeploymentInvalid);
            assert!(said.contains("image key `ci`") && said.contains(says), "{case}: {said}");
        }
    }
    assert_eq!(fleet.json(&["deployment", "list"]), json!([]));
}
