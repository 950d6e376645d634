//! A disk filled to its last byte: what keeps a site alive goes on, what is taken away is taken at once, and what could
//! not be written is said.

use crate::common;
use edgewarden_testkit::samples;

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::container::{Container, Job};
use common::image::{Image, document_with};
use common::{Gateway, until};
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_metrics::door::SOCKET;
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{DiskReserve, Origin, Prepared, Reply, Request};
use edgewarden_protocol::enrol::VerdictState;

/// A file system of its own for the state; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={bytes},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).status();
        assert!(mounted.unwrap().success());
        Self(folder.into())
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

struct Site {
    gateway: Gateway,
    image: Image,
    disk: Disk,
}

/// A joined gateway that runs nothing yet, with its state on a disk of 48 MiB.
async fn site() -> Site {
    let mut gateway = Gateway::new();
    let disk = Disk::mount(&gateway.layout().identity_state(), 48 * 1024 * 1024);
    gateway.start().await.unwrap();
    gateway.join().await;
    let key = SigningKey::generate().unwrap();
    let image = Image::new("alerts", "one").signed(&key);
    let second = Image::new("second", "two").signed(&key);
    gateway.deploy(&document_with(1, &key, &[("alerts", &image), ("second", &second)])).await;
    Site { gateway, image, disk }
}

impl Site {
    async fn start(&self, container: &Container) -> Result<Prepared, Refusal> {
        let evidence = Box::new(self.image.evidence("alerts"));
        let Reply::Permit(permit) = self.gateway.ask(Request::ImageJudge(evidence)).await? else { panic!() };
        let prepare = Request::StartPrepare { permit: permit.permit };
        let Reply::Prepared(prepared) = self.gateway.ask(prepare).await? else { panic!() };
        let address = Ipv4Addr::new(10, 77, 0, 2);
        let instance = prepared.instance.clone();
        self.gateway.ask(Request::Started { instance, pid: container.pid(), address }).await?;
        Ok(prepared)
    }

    async fn disk(&self) -> DiskReserve {
        self.gateway.status().await.disk.unwrap()
    }

    async fn health(&self) -> (u16, String) {
        samples::health(&self.gateway.layout().identity_run().join(SOCKET)).await
    }

    async fn issued(&self) -> u64 {
        let identities = self.gateway.status().await.identities;
        identities.iter().find(|identity| identity.instance == "alerts-1").map_or(0, |found| found.issued)
    }
}

fn fetch(prepared: &Prepared) -> Job {
    Job::Fetch { socket: prepared.workload_folder.join("api.sock") }
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_renewals_and_the_audit_log_go_on_when_the_disk_is_full() {
    let mut site = site().await;
    assert!(!site.disk().await.is_short(), "{:?}", site.disk().await);
    assert_eq!(site.health().await, (200, "ok".into()));
    site.disk.fill();
    // Strangers at the gateway's listeners, while there is no room: they do not use up what is set aside.
    for n in 0..500u32 {
        let origin = Origin::Stranger { address: Ipv4Addr::from_bits(0x0a00_0000 + n).into() };
        let refusal = Refusal::new(Reason::PeerUnauthorized, "invented", format!("try {n}"));
        site.gateway.ask(Request::Refused { origin, refusal }).await.unwrap();
    }
    let container = Container::new();
    let prepared = site.start(&container).await.unwrap();
    assert!(container.call(&fetch(&prepared)).identity().ends_with("/module/alerts"));
    let before = site.issued().await;
    site.gateway.ask(Request::Rotate { module: None }).await.unwrap();
    assert!(site.issued().await > before);
    // The gateway CA's own renewal, and a deployment.
    let newer = site.gateway.enrolled_for(40 * common::DAY, UnixTime::now()).await;
    site.gateway.ask(Request::EnrolAccept(Box::new(newer))).await.unwrap();
    let disk = site.disk().await;
    assert!(disk.is_short() && disk.unwritten == 0 && !disk.unsaved, "{disk:?}");
    assert!(disk.bytes > disk.bytes_wanted / 2, "{disk:?}");
    assert_eq!(site.health().await, (503, Reason::Storage.code().into()));
    let events = site.gateway.events().await;
    for event in ["module.started", "svid.issued", "enrol.accepted"] {
        assert!(events.iter().any(|found| found == event), "{event}: {events:?}");
    }
    // All of it is on the disk.
    site.gateway.restart().await;
    assert!(container.call(&fetch(&prepared)).identity().ends_with("/module/alerts"));
    assert!(site.gateway.events().await.iter().any(|event| event == "module.started"));
    site.disk.make_room();
    until("the reserve", async || Some(()).filter(|()| !short(&site))).await;
    assert_eq!(site.health().await, (200, "ok".into()));
}

fn short(site: &Site) -> bool {
    let reserve = site.gateway.layout().identity_state().join(".reserve");
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(reserve).unwrap()) * 512 < 24 * 1024 * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_room_nothing_starts_and_a_failed_verdict_holds_at_once() {
    let mut site = site().await;
    let container = Container::new();
    let prepared = site.start(&container).await.unwrap();
    // The reserve is gone too.
    site.gateway.stop().await;
    let state = site.gateway.layout().identity_state();
    std::fs::remove_file(state.join(".reserve")).unwrap();
    // It was killed while it wrote.
    let log = state.join("audit-00000000000000000001.jsonl");
    File::options().append(true).open(log).unwrap().write_all(b"{\"previous\":\"0").unwrap();
    site.disk.fill();
    site.gateway.start_again().await;
    assert_eq!(site.disk().await.bytes, 0);
    assert!(container.call(&fetch(&prepared)).identity().ends_with("/module/alerts"), "what runs goes on");
    // Entries are whole lines: a page that is not full takes a few more.
    let refused = until("a refusal", async || {
        let evidence = Box::new(site.image.evidence("alerts"));
        site.gateway.ask(Request::ImageJudge(evidence)).await.err()
    });
    assert_eq!(refused.await.reason, Reason::Storage);
    let before = site.issued().await;
    // A new key for JWT-SVIDs would have to be published on the disk first.
    drop(site.gateway.ask(Request::Rotate { module: None }).await);
    assert!(site.issued().await > before, "certificates of what runs are renewed");

    let failed = Refusal::new(Reason::AttestReference, "PCR 7", "it is not the reference's");
    site.gateway.ask(Request::EnrolRefused(failed)).await.unwrap();
    let verdict = site.gateway.status().await.verdict.unwrap();
    assert_eq!(verdict.state, VerdictState::Failed);
    assert!(container.call(&fetch(&prepared)).failure().contains("attest.failed"));
    let disk = site.disk().await;
    assert!(disk.unsaved && disk.unwritten > 0, "{disk:?}");

    site.disk.make_room();
    until("all of it on the disk", async || Some(()).filter(|()| !short(&site))).await;
    until("nothing unsaved", async || {
        let disk = site.disk().await;
        Some(()).filter(|()| !disk.unsaved && disk.unwritten == 0)
    })
    .await;
    let events = site.gateway.events().await;
    assert!(events.iter().any(|event| event == "audit.gap"), "{events:?}");
    site.gateway.restart().await;
    let verdict = site.gateway.status().await.verdict.unwrap();
    assert_eq!(verdict.state, VerdictState::Failed, "it was written when it could be");
}
