//! Layers that try to get out, and layers that are fine.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{Digest, Reason};
use edgewarden_oci::records::RecordKey;
use edgewarden_oci::store::ContentStore;
use edgewarden_oci::{program, tree};
use edgewarden_protocol::control::Layer;
use flate2::Compression;
use flate2::write::GzEncoder;

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest::from_sha256(&hash)
}

/// A tar entry with nothing checked, as an attacker makes it.
pub(crate) fn entry(kind: tar::EntryType, name: &str, link: &str, mode: u32, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let raw = header.as_old_mut();
    raw.name[..name.len()].copy_from_slice(name.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(1000);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

pub(crate) fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
    entry(tar::EntryType::Regular, name, "", 0o4755, bytes)
}
pub(crate) fn folder(name: &str) -> Vec<u8> {
    entry(tar::EntryType::Directory, name, "", 0o755, b"")
}
pub(crate) fn symlink(name: &str, to: &str) -> Vec<u8> {
    entry(tar::EntryType::Symlink, name, to, 0o777, b"")
}
pub(crate) fn link(name: &str, to: &str) -> Vec<u8> {
    entry(tar::EntryType::Link, name, to, 0o644, b"")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub(crate) struct Bench {
    pub folder: tempfile::TempDir,
    pub store: ContentStore,
}

impl Bench {
    pub fn new() -> Self {
        // Not in `/tmp`: a path of that name is left out of images.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = ContentStore::open(&folder.path().join("store")).unwrap();
        std::fs::write(folder.path().join("outside"), "untouched").unwrap();
        Self { folder, store }
    }

    pub fn layer(&self, entries: &[Vec<u8>]) -> Layer {
        let mut tar = entries.concat();
        tar.resize(tar.len() + 1024, 0);
        let packed = gzip(&tar);
        let digest = self.store.put(&packed).unwrap();
        Layer { digest, diff_id: sha256(&tar), size: packed.len() as u64, media_type: GZIP.into() }
    }

    /// A layer of bytes that somebody else made.
    pub fn stored(&self, media_type: &str, packed: &[u8], tar: &[u8]) -> Layer {
        let digest = self.store.put(packed).unwrap();
        Layer { digest, diff_id: sha256(tar), size: packed.len() as u64, media_type: media_type.into() }
    }

    pub fn unpack(&self, layers: &[Layer]) -> Result<PathBuf, Reason> {
        self.unpack_as("image", layers)
    }

    pub fn unpack_as(&self, image: &str, layers: &[Layer]) -> Result<PathBuf, Reason> {
        let key = RecordKey::new(&[7; 32]);
        let unpacked = self.store.root_file_system(&sha256(image.as_bytes()), layers, &key);
        unpacked.map_err(|error| error.refusal().reason)
    }

    pub fn check(&self) {
        assert_eq!(std::fs::read_to_string(self.folder.path().join("outside")).unwrap(), "untouched");
        let names: Vec<_> =
            std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing was made beside the store: {names:?}");
    }
}

#[test]
fn layers_that_attack_are_refused_and_leave_nothing() {
    let long = "a/".repeat(80);
    type Attack = (&'static str, Vec<Vec<u8>>);
    let pax = |record: &str| entry(tar::EntryType::XHeader, "pax", "", 0o644, record.as_bytes());
    let attacks: Vec<Attack> = vec![
        ("parent", vec![file("../outside", b"x")]),
        ("parent in the middle", vec![file("a/../../outside", b"x")]),
        (
            "parent by long name",
            vec![entry(tar::EntryType::GNULongName, "n", "", 0, b"../../outside\0"), file("x", b"x")],
        ),
        ("parent by extended header", vec![pax("22 path=../../outside\n"), file("x", b"x")]),
        ("hard link to the parent", vec![link("x", "../../../outside")]),
        ("hard link to nothing", vec![link("x", "missing")]),
        ("hard link to a folder", vec![folder("a"), link("x", "a")]),
        (
            "hard link through a link that leaves",
            vec![symlink("up", "../../../../../.."), link("x", "up/outside")],
        ),
        ("through a link to nowhere", vec![symlink("a", "/nowhere/at/all"), file("a/b", b"x")]),
        ("whiteout of nothing", vec![file(".wh.", b"")]),
        ("whiteout of the parent", vec![file(".wh...", b"")]),
        ("whiteout that leaves", vec![file("../.wh.outside", b"")]),
        (
            "deep",
            vec![
                file(&long[..99], b"x"),
                entry(tar::EntryType::GNULongName, "n", "", 0, long.as_bytes()),
                file("x", b"x"),
            ],
        ),
        ("long name", vec![entry(tar::EntryType::GNULongName, "n", "", 0, &[b'a'; 5000]), file("x", b"x")]),
        (
            "huge extended header",
            vec![entry(tar::EntryType::XHeader, "n", "", 0, &[b'a'; 70_000]), file("x", b"x")],
        ),
        ("a name with a NUL", vec![pax("12 path=a\0b\n"), file("x", b"x")]),
        (
            "deep through links",
            vec![
                folder(&"a/".repeat(40)),
                symlink("b", &"a/".repeat(40)),
                file(&format!("b/{}x", "a/".repeat(40)), b"x"),
            ],
        ),
        ("root is a file", vec![file(".", b"x")]),
        (
            "cut off",
            vec![{
                let mut bytes = file("a", &[7; 2000]);
                bytes.truncate(1024);
                bytes
            }],
        ),
        (
            "no checksum",
            vec![{
                let mut bytes = file("a", b"x");
                bytes[0] = b'b';
                bytes
            }],
        ),
    ];
    for (name, entries) in attacks {
        let bench = Bench::new();
        let layer = bench.layer(&entries);
        assert_eq!(bench.unpack(&[layer]).unwrap_err(), Reason::ImageInvalid, "{name}");
        bench.check();
        let left = std::fs::read_dir(bench.folder.path().join("store/rootfs")).unwrap().count();
        assert_eq!(left, 0, "{name}: nothing half-way stays");
    }
}

#[test]
fn what_modules_cannot_have_is_told_apart_from_what_is_broken() {
    let pax = |record: &str| entry(tar::EntryType::XHeader, "pax", "", 0o644, record.as_bytes());
    for (name, entries) in [
        ("unknown kind", vec![entry(tar::EntryType::new(b'Z'), "x", "", 0o666, b"")]),
        (
            "sparse in a form of tomorrow",
            vec![pax("22 GNU.sparse.major=2\n25 GNU.sparse.realsize=1\n"), file("x", b"x")],
        ),
        (
            "a name for all",
            vec![entry(tar::EntryType::XGlobalHeader, "pax", "", 0o644, b"9 path=y\n"), file("x", b"x")],
        ),
        ("a link to what is left out", vec![file("tmp/x", b"x"), symlink("to", "/tmp"), link("y", "to/x")]),
    ] {
        let bench = Bench::new();
        let layer = bench.layer(&entries);
        assert_eq!(bench.unpack(&[layer]).unwrap_err(), Reason::ImageUnsupported, "{name}");
    }
    let bench = Bench::new();
    let layer = bench.layer(&[file("a", b"1")]);
    for kind in [
        "application/vnd.oci.image.layer.v1.tar+xz",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let other = Layer { media_type: kind.into(), ..layer.clone() };
        assert_eq!(bench.unpack(&[other]).unwrap_err(), Reason::ImageUnsupported, "{kind}");
    }
}

/// Images carry things where the runtime mounts (`/dev/console`, caches in `/tmp`): they unpack, and nothing
/// of it is there to be executed, by whatever way it came.
#[test]
fn nothing_of_an_image_lies_where_the_runtime_mounts() {
    let bench = Bench::new();
    let layers = [
        bench.layer(&[
            folder("proc"),
            folder("tmp"),
            folder("run/lock"),
            folder("var"),
            symlink("var/run", "/run"),
            symlink("fd", "proc/self/fd"),
            folder("usr"),
            symlink("up", "/usr/../../sys"),
            folder("proc/self/fd/7"),
            file("proc/self/exe", b"mine"),
            file("tmp/cache", b"x"),
            entry(tar::EntryType::Char, "dev/console", "", 0o600, b""),
            entry(tar::EntryType::Fifo, "dev/pipe", "", 0o600, b""),
            symlink("sys", "/usr"),
        ]),
        bench.layer(&[
            file("var/run/service.pid", b"1"),
            file("up/x", b"x"),
            file("sys/y", b"y"),
            file("./run/./deep/er/x", b"x"),
            file("run/.wh.lock", b""),
            file("tmp/.wh..wh..opq", b""),
            file("dev", b"a file"),
            file(".wh.run", b""),
            file("var/run/again", b"x"),
            file(".wh..wh..opq", b""),
            file("var/lock", b"x"),
            file("usr/kept", b"x"),
        ]),
    ];
    let root = bench.unpack(&layers).unwrap();
    for place in ["dev", "proc", "sys", "tmp"] {
        assert!(root.join(place).symlink_metadata().unwrap().is_dir(), "{place}");
        assert_eq!(std::fs::read_dir(root.join(place)).unwrap().count(), 0, "{place}");
    }
    assert!(root.join("run").symlink_metadata().unwrap().is_dir(), "a folder of its own");
    let mut run: Vec<_> =
        std::fs::read_dir(root.join("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    run.sort();
    assert_eq!(run, ["again", "deep", "service.pid"], "what servers keep there is theirs");
    assert!(root.join("usr/kept").exists() && !root.join("usr/y").exists());
    assert!(root.join("var/lock").exists());
    assert!(tree::mount_folders_are_empty(&root));
    std::fs::write(root.join("tmp/added"), "").unwrap();
    assert!(!tree::mount_folders_are_empty(&root));
}

/// Whoever edits the disk can make the record fit, but not prove it.
#[test]
fn a_root_that_was_changed_together_with_its_record_is_unpacked_again() {
    let bench = Bench::new();
    let layer = bench.layer(&[file("bin/tool", b"good")]);
    let root = bench.unpack(std::slice::from_ref(&layer)).unwrap();
    let path = root.with_extension("json");
    let good = std::fs::read_to_string(&path).unwrap();
    let inode = root.metadata().unwrap().ino();
    bench.unpack(std::slice::from_ref(&layer)).unwrap();
    assert_eq!(root.metadata().unwrap().ino(), inode, "nothing is unpacked twice");

    // What the digest of the changed tree is can be learned by unpacking it as another image's.
    let other = bench.layer(&[file("bin/tool", b"good"), file("bin/added", b"evil")]);
    let changed = bench.unpack_as("other", std::slice::from_ref(&other)).unwrap();
    let sealed: serde_json::Value =
        serde_json::from_slice(&std::fs::read(changed.with_extension("json")).unwrap()).unwrap();
    let fitting = sealed["record"].as_str().unwrap().replace(other.diff_id.as_str(), layer.diff_id.as_str());
    let record: serde_json::Value = serde_json::from_str(&fitting).unwrap();
    let place = format!("rootfs {}", sha256(b"image"));
    let own_proof = serde_json::from_str::<serde_json::Value>(&good).unwrap()["mac"].clone();
    let under = |key: u8, place: &str| {
        String::from_utf8(RecordKey::new(&[key; 32]).seal(place, &record).unwrap()).unwrap()
    };
    for (name, text, believed) in [
        ("as it would have to be", under(7, &place), true),
        ("without a proof", fitting.clone(), false),
        (
            "with the old record's proof",
            serde_json::json!({"record": fitting, "mac": own_proof}).to_string(),
            false,
        ),
        (
            "with another record's proof",
            serde_json::json!({"record": fitting, "mac": sealed["mac"]}).to_string(),
            false,
        ),
        ("under another key", under(8, &place), false),
        ("for another image", under(7, &format!("rootfs {}", sha256(b"other"))), false),
        ("nothing", String::new(), false),
    ] {
        std::fs::write(root.join("bin/added"), "evil").unwrap();
        std::fs::set_permissions(root.join("bin/added"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(root.join("bin/added"), Some(1000), Some(0)).unwrap();
        std::fs::write(&path, &text).unwrap();
        bench.unpack(std::slice::from_ref(&layer)).unwrap();
        assert_eq!(root.join("bin/added").exists(), believed, "{name}");
        assert_eq!(std::fs::read_to_string(&path).unwrap() == good, !believed, "{name}");
    }
}

#[test]
fn what_only_paths_imply_is_counted_too() {
    let bench = Bench::new();
    // Ten kilobytes when packed.
    let entries: Vec<_> = (0..2000)
        .map(|n| file(&format!("{}{n}", "a/".repeat(15).replace('a', &n.to_string())), b""))
        .collect();
    let layer = bench.layer(&entries);
    assert_eq!(bench.unpack(&[layer]).unwrap_err(), Reason::ImageTooLarge);
    assert_eq!(std::fs::read_dir(bench.folder.path().join("store/rootfs")).unwrap().count(), 0);
    // A file takes a block at least: many small ones are as large as a large one.
    let entries: Vec<_> = (0..1000).map(|n| file(&format!("a/{n}"), b"x")).collect();
    assert!(bench.unpack(&[bench.layer(&entries)]).is_ok());
}

/// A slow or huge image must not hold up another module's start.
#[test]
fn unpacks_of_two_images_do_not_wait_for_each_other() {
    let bench = Bench::new();
    let layer = bench.layer(&[file("a", b"1")]);
    // A layer that never ends to be read: a FIFO in the place of the blob.
    let slow = Layer { digest: sha256(b"slow"), ..layer.clone() };
    let pipe = bench.folder.path().join("store/blobs/sha256").join(slow.digest.hex());
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.unpack_as("slow", &[slow]));
        while std::fs::read_dir(bench.folder.path().join("store/rootfs")).unwrap().count() == 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        bench.unpack_as("quick", std::slice::from_ref(&layer)).unwrap();
        assert!(!waiting.is_finished());
        drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
        assert!(waiting.join().unwrap().is_err());
    });
}

#[test]
fn what_is_executed_is_the_images_own() {
    let bench = Bench::new();
    let elf = |loader: &str| {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 3;
        bytes[72] = 120;
        bytes[96] = u8::try_from(loader.len()).unwrap();
        bytes.extend_from_slice(loader.as_bytes());
        bytes
    };
    let wide = {
        let mut bytes = elf("/lib/ld.so\0");
        bytes[96..104].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    };
    let layer = bench.layer(&[
        file("bin/static", b"\x7fELF\x02\x01"),
        file("lib/ld.so", &[b"\x7fELF\x02\x01".as_slice(), &[0; 58]].concat()),
        file("bin/dynamic", &elf("/lib/ld.so\0")),
        file("bin/lost", &elf("/lib/missing\0")),
        file("bin/borrowed", &elf("/proc/self/exe\0")),
        file("bin/wide", &wide),
        file("bin/script", b"#! /bin/static -x\n"),
        file("bin/nested", b"#!/bin/script\n"),
        file("bin/loop", b"#!/bin/loop\n"),
        file("bin/runtime", b"#!/proc/self/exe\n"),
        file("bin/descriptor", b"#!/proc/self/fd/7\n"),
        file("bin/relative", b"#!static\n"),
        file("bin/nothing", b"#!\n"),
        entry(tar::EntryType::Regular, "bin/data", "", 0o644, b"x"),
        symlink("bin/linked", "static"),
        symlink("bin/self", "/proc/self/exe"),
        symlink("up", "../../.."),
        file("sbin/only", b"x"),
    ]);
    let root = bench.unpack(&[layer]).unwrap();
    let search = "/proc/self:relative::/usr/bin:/bin/:/sbin";
    for (program, expected) in [
        ("/bin/static", Some("/bin/static")),
        ("bin/static", Some("bin/static")),
        ("/up/bin/static", Some("/up/bin/static")),
        ("/bin/linked", Some("/bin/linked")),
        ("/bin/dynamic", Some("/bin/dynamic")),
        ("/bin/script", Some("/bin/script")),
        ("/bin/nested", Some("/bin/nested")),
        ("static", Some("/bin/static")),
        ("linked", Some("/bin/linked")),
        ("only", Some("/sbin/only")),
        // What a runtime finds first in PATH is its own program.
        ("exe", None),
        ("data", None),
        ("missing", None),
        ("", None),
        ("runtime", None),
        ("/bin/data", None),
        ("/bin/missing", None),
        ("/bin", None),
        ("/bin/lost", None),
        ("/bin/borrowed", None),
        ("/bin/wide", None),
        ("/bin/loop", None),
        ("/bin/runtime", None),
        ("/bin/descriptor", None),
        ("/bin/relative", None),
        ("/bin/nothing", None),
        ("/bin/self", None),
        ("/proc/self/exe", None),
        ("../proc/self/exe", None),
        ("/up/proc/self/exe", None),
        ("/proc/self/fd/7/bin/sh", None),
    ] {
        let found = program::find(&root, "/", search, program);
        assert_eq!(found.as_deref().ok(), expected, "{program:?}: {found:?}");
    }
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let bench = Bench::new();
    let outside = bench.folder.path().to_str().unwrap().to_owned();
    let escape = "../../../../../../../..".to_owned() + &outside;
    let layers = [
        bench.layer(&[
            symlink("absolute", "/data"),
            symlink("relative", "../../../data"),
            folder("data"),
            folder(&outside[1..]),
        ]),
        bench.layer(&[
            file("absolute/one", b"1"),
            file("relative/two", b"2"),
            symlink("out", &escape),
            file("out/outside", b"x"),
        ]),
    ];
    let root = bench.unpack(&layers).unwrap();
    assert_eq!(std::fs::read(root.join("data/one")).unwrap(), b"1");
    assert_eq!(std::fs::read(root.join("data/two")).unwrap(), b"2");
    assert_eq!(std::fs::read(root.join(&outside[1..]).join("outside")).unwrap(), b"x", "inside the root");
    bench.check();
}

#[test]
fn what_is_unpacked_has_its_own_owner_and_mode() {
    let bench = Bench::new();
    let layer = bench.layer(&[
        folder("opt"),
        file("opt/tool", b"tool"),
        link("opt/same", "opt/tool"),
        symlink("t", "/opt/tool"),
    ]);
    let root = bench.unpack(&[layer]).unwrap();
    let metadata = root.join("opt/tool").metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755, "no set-user-ID");
    assert_eq!((metadata.uid(), metadata.gid()), (1000, 0));
    assert_eq!(metadata.ino(), root.join("opt/same").metadata().unwrap().ino());
    assert_eq!(std::fs::read_link(root.join("t")).unwrap(), Path::new("/opt/tool"));
    for place in ["dev", "proc", "run", "sys", "tmp"] {
        assert!(root.join(place).is_dir(), "{place}");
    }
    for place in ["etc/hosts", "etc/resolv.conf"] {
        assert!(root.join(place).is_file(), "{place}");
    }
}

#[test]
fn upper_layers_hide_and_replace_what_is_below() {
    let bench = Bench::new();
    let layers = [
        bench.layer(&[
            folder("a"),
            file("a/old", b"1"),
            file("a/kept", b"1"),
            folder("b"),
            file("b/old", b"1"),
            file("c", b"1"),
            folder("d"),
        ]),
        bench.layer(&[
            file("a/.wh.old", b""),
            file("a/.wh.missing", b""),
            file("b/new", b"2"),
            file("b/.wh..wh..opq", b""),
            file("c", b"2"),
            file("d", b"2"),
            file("e", b"2"),
            file(".wh.e", b""),
        ]),
    ];
    let root = bench.unpack(&layers).unwrap();
    assert!(!root.join("a/old").exists() && root.join("a/kept").exists());
    assert!(!root.join("b/old").exists() && root.join("b/new").exists());
    assert_eq!(std::fs::read(root.join("c")).unwrap(), b"2");
    assert!(root.join("d").is_file(), "a file takes a folder's place");
    assert!(root.join("e").exists(), "a whiteout hides only what is below");
}

#[test]
fn a_layer_that_is_not_what_its_digests_say_is_refused() {
    let bench = Bench::new();
    let good = bench.layer(&[file("a", b"1")]);
    for (name, change) in [
        ("diff_id", Layer { diff_id: sha256(b""), ..good.clone() }),
        ("size", Layer { size: good.size - 1, ..good.clone() }),
        ("media type", Layer { media_type: "application/zstd".into(), ..good.clone() }),
        ("plain tar", Layer { media_type: "application/vnd.oci.image.layer.v1.tar".into(), ..good.clone() }),
        ("not there", Layer { digest: sha256(b"?"), ..good.clone() }),
    ] {
        let refused = bench.unpack(&[change]);
        assert!(refused.is_err(), "{name}");
        // A blob that does not match its names is removed from the store; put it back.
        bench.layer(&[file("a", b"1")]);
    }
    bench.unpack(std::slice::from_ref(&good)).unwrap();
    // The same image with another list of layers is unpacked anew, and fails as it should.
    assert!(bench.unpack(&[Layer { diff_id: sha256(b""), ..good }]).is_err());
}

#[test]
fn a_bomb_is_stopped_at_the_limit() {
    let bench = Bench::new();
    // Zeros without end after the archive's: four megabytes that are more than four gigabytes.
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1 << 20];
    for _ in 0..(5 << 10) {
        packed.write_all(&zeros).unwrap();
    }
    let packed = packed.finish().unwrap();
    let digest = bench.store.put(&packed).unwrap();
    let layer = Layer { digest, diff_id: sha256(b""), size: packed.len() as u64, media_type: GZIP.into() };
    assert_eq!(bench.unpack(&[layer]).unwrap_err(), Reason::ImageTooLarge);
}

#[test]
fn names_that_fill_the_memory_are_stopped_at_the_limit() {
    let bench = Bench::new();
    let entries: Vec<_> = (0..9000)
        .flat_map(|n| {
            // One folder for all: long by parts that say nothing.
            let name = format!("a/{}{n}\0", "./".repeat(2000));
            [entry(tar::EntryType::GNULongName, "n", "", 0, name.as_bytes()), file("x", b"")]
        })
        .collect();
    let layer = bench.layer(&entries);
    assert_eq!(bench.unpack(&[layer]).unwrap_err(), Reason::ImageTooLarge);
}

#[test]
fn modules_with_the_same_image_get_the_same_root() {
    let bench = Bench::new();
    let content = vec![7; 1 << 20];
    let layer = bench.layer(&[file("a", &content)]);
    let inodes = std::thread::scope(|scope| {
        let one = || {
            let root = bench.unpack(std::slice::from_ref(&layer)).unwrap();
            // Held as a container would hold it.
            (root.metadata().unwrap().ino(), std::fs::File::open(root).unwrap())
        };
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    for (inode, root) in &inodes {
        assert_eq!(*inode, inodes[0].0, "a second start put another root in the first one's place");
        assert!(root.metadata().unwrap().nlink() > 0);
    }
}

#[test]
fn what_a_runtime_would_find_elsewhere_is_not_in_the_image() {
    let bench = Bench::new();
    let layer = bench.layer(&[
        folder("work"),
        file("bin/tool", b"#!"),
        symlink("sbin", "/bin"),
        symlink("outside", "../../../../outside"),
        symlink("descriptor", "/proc/self/fd/7"),
    ]);
    let root = bench.unpack(&[layer]).unwrap();
    for (path, folder, file) in [
        ("/", true, false),
        ("/work", true, false),
        ("/work/../work", true, false),
        ("/bin/tool", false, true),
        ("/sbin/tool", false, true),
        ("/missing", false, false),
        ("/outside", false, false),
        ("/tmp", true, false),
        ("/proc", false, false),
        ("/run", false, false),
        ("/run/..", true, false),
        ("/proc/self/fd/7", false, false),
        ("/proc/self/fd", false, false),
        ("/proc/self/cwd", false, false),
        ("/descriptor", false, false),
        ("/descriptor/../..", false, false),
        ("/bin/tool/", false, false),
        ("\0", false, false),
        ("", false, false),
    ] {
        assert_eq!(tree::folder(&root, path).is_some(), folder, "{path:?}");
        assert_eq!(tree::file(&root, path).is_some(), file, "{path:?}");
    }
}
