//! Layers as builders make them, by tools that are not ours: GNU tar, bsdtar, gzip, zstd, umoci.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink as make_symlink};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use edgewarden_names::Reason;
use edgewarden_oci::layout::ImageLayout;
use edgewarden_oci::manifest::ImageConfig;
use edgewarden_protocol::control::Layer;

use crate::unpack::{Bench, entry, file, folder, link, sha256, symlink};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What a command prints, which must succeed.
fn run(program: &str, folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("{program} ({error}): run `./ew setup`"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// One record of an extended header, with its own length.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &body].concat()
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect();
    entry(tar::EntryType::XHeader, "pax", "", 0o644, &records)
}

fn packed(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), bytes).unwrap();
    run(program, folder.path(), &[arguments, &["-c", "in"]].concat())
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A frame that holds nothing, as `zstd:chunked` puts its table of contents into one.
fn skippable(bytes: &[u8]) -> Vec<u8> {
    [&0x184D_2A50_u32.to_le_bytes(), &u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat()
}

/// A frame with a window that is told by its descriptor, of blocks of 128 KiB of zeros, four bytes each.
fn zeros(window: u8, blocks: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0, window];
    for at in 1..=blocks {
        let header = (128_u32 * 1024) << 3 | 1 << 1 | u32::from(at == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn layers_come_plain_or_with_gzip_or_zstd_of_oci_and_docker() {
    let bench = Bench::new();
    let content: Vec<u8> = (0..600_000_u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
    let tar = archive(&[folder("a"), file("a/content", &content)]);
    let (one, two) = tar.split_at(tar.len() / 3);
    let chunked = [
        packed("zstd", &["-q", "-3"], one),
        skippable(b"what the frames are"),
        packed("zstd", &["-q", "-3", "--no-check"], b""),
        packed("zstd", &["-q", "-19", "--no-check"], two),
        skippable(&vec![7; 300_000]),
        skippable(b""),
    ];
    let docker = "application/vnd.docker.image.rootfs.diff.tar";
    for (name, media_type, stored) in [
        ("plain", TAR, tar.clone()),
        ("plain, Docker's", docker, tar.clone()),
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip", packed("gzip", &["-9"], &tar)),
        ("gzip, Docker's", &format!("{docker}.gzip"), packed("gzip", &["-1"], &tar)),
        (
            "gzip of two members",
            &format!("{docker}.gzip"),
            [packed("gzip", &[], one), packed("gzip", &[], two)].concat(),
        ),
        ("zstd", ZSTD, packed("zstd", &["-q", "-1"], &tar)),
        ("zstd, Docker's", &format!("{docker}.zstd"), packed("zstd", &["-q", "-19"], &tar)),
        ("zstd of unknown size", ZSTD, {
            let mut child = Command::new("sh")
                .args(["-c", "cat | zstd -q -10 -c"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = child.stdin.take().unwrap();
            let bytes = tar.clone();
            let writing = std::thread::spawn(move || input.write_all(&bytes).unwrap());
            let output = child.wait_with_output().unwrap();
            writing.join().unwrap();
            output.stdout
        }),
        ("chunked zstd", ZSTD, chunked.concat()),
    ] {
        let layer = bench.stored(media_type, &stored, &tar);
        let root = bench.unpack_as(name, &[layer]).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        assert!(std::fs::read(root.join("a/content")).unwrap() == content, "{name}");
    }
}

#[test]
fn zstd_that_attacks_is_refused() {
    let tar = archive(&[file("a", b"1")]);
    let good = packed("zstd", &["-q"], &tar);
    let empty = [0x28, 0xB5, 0x2F, 0xFD, 0x20, 0, 1, 0, 0];
    let long = packed("zstd", &["-q", "--ultra", "-22", "--long=27"], &vec![1; 300 << 20]);
    for (name, stored, reason) in [
        ("a bomb", zeros(0x68, 5 << 13), Reason::ImageTooLarge),
        ("a huge window", zeros(0x70, 1), Reason::ImageUnsupported),
        ("the largest window", zeros(0xff, 1), Reason::ImageInvalid),
        ("a window of --long", long, Reason::ImageUnsupported),
        ("frames without end", empty.repeat(1_000_001), Reason::ImageTooLarge),
        ("frames to skip without end", skippable(b"").repeat(1_000_001), Reason::ImageTooLarge),
        ("a frame to skip that is not there", [&good, &skippable(b"x")[..8]].concat(), Reason::ImageInvalid),
        (
            "a dictionary",
            [&good, &[0x28, 0xB5, 0x2F, 0xFD, 0x21, 9, 0, 1, 0, 0][..]].concat(),
            Reason::ImageUnsupported,
        ),
        ("cut off", good[..good.len() - 7].to_vec(), Reason::ImageInvalid),
        ("something behind it", [&good, &b"something"[..]].concat(), Reason::ImageInvalid),
        ("nothing", Vec::new(), Reason::ImageInvalid),
        ("gzip", packed("gzip", &[], &tar), Reason::ImageInvalid),
        ("a block of no kind", vec![0x28, 0xB5, 0x2F, 0xFD, 0, 0x40, 7, 0, 0], Reason::ImageInvalid),
    ] {
        let bench = Bench::new();
        let layer = bench.stored(ZSTD, &stored, &tar);
        assert_eq!(bench.unpack(&[layer]).unwrap_err(), reason, "{name}");
        bench.check();
    }
}

/// Bytes that the disk changed are fetched again, whatever the decoder made of them.
#[test]
fn a_damaged_layer_is_told_apart_from_one_that_is_made_badly() {
    let bench = Bench::new();
    let tar = archive(&[file("a", &vec![1; 100_000])]);
    let layer = bench.stored(ZSTD, &packed("zstd", &["-q"], &tar), &tar);
    let path = bench.folder.path().join("store/blobs/sha256").join(layer.digest.hex());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, vec![9; usize::try_from(layer.size).unwrap()]).unwrap();
    assert_eq!(bench.unpack(std::slice::from_ref(&layer)).unwrap_err(), Reason::ImageContent);
    assert!(!path.exists(), "the next attempt fetches it");
}

/// A folder with whatever is hard to write down.
fn hard_to_write(at: &Path) {
    std::fs::create_dir_all(at.join("deep")).unwrap();
    std::fs::write(at.join("plain"), b"plain").unwrap();
    std::fs::write(at.join("empty"), b"").unwrap();
    std::fs::write(at.join("new\nline"), b"odd").unwrap();
    std::fs::write(at.join(OsStr::from_bytes(b"caf\xe9")), b"latin").unwrap();
    std::fs::hard_link(at.join("plain"), at.join("same")).unwrap();
    make_symlink("../plain", at.join("deep/link")).unwrap();
    make_symlink(OsStr::from_bytes(b"../caf\xe9"), at.join("deep/latin")).unwrap();
}

/// Names that only newer forms can write.
fn long_names(at: &Path) {
    let long = at.join("l".repeat(120)).join("m".repeat(150));
    std::fs::create_dir_all(&long).unwrap();
    std::fs::write(long.join("n".repeat(200)), b"long").unwrap();
    make_symlink(format!("/{}", "t".repeat(300)), at.join("far")).unwrap();
}

fn assert_same(made: &Path, root: &Path, name: &str) {
    let list = |at: &Path| {
        let mut names: Vec<OsString> =
            std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(list(made), list(root), "{name}: {}", made.display());
    for entry in list(made) {
        let (from, to) = (made.join(&entry), root.join(&entry));
        let kind = from.symlink_metadata().unwrap().file_type();
        assert_eq!(kind, to.symlink_metadata().unwrap().file_type(), "{name}: {}", from.display());
        if kind.is_dir() {
            assert_same(&from, &to, name);
        } else if kind.is_symlink() {
            assert_eq!(std::fs::read_link(&from).unwrap(), std::fs::read_link(&to).unwrap(), "{name}");
        } else {
            assert!(
                std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap(),
                "{name}: {}",
                from.display()
            );
        }
    }
}

#[test]
fn every_form_of_tar_gives_what_was_packed() {
    let bench = Bench::new();
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    for (program, form, long) in [
        ("tar", "v7", false),
        ("tar", "oldgnu", true),
        ("tar", "gnu", true),
        ("tar", "ustar", false),
        ("tar", "posix", true),
        ("bsdtar", "v7tar", false),
        ("bsdtar", "ustar", false),
        ("bsdtar", "gnutar", true),
        ("bsdtar", "pax", true),
    ] {
        let name = format!("{program} {form}");
        let made = place.path().join(name.replace(' ', "-"));
        hard_to_write(&made.join("x"));
        if long {
            long_names(&made.join("x"));
        }
        for arguments in [["x"].as_slice(), &["./"], &["-P", made.join("x").to_str().unwrap()]] {
            let format = format!("--format={form}");
            let tar = run(program, &made, &[&["-c", "-f", "-", &format], arguments].concat());
            let layer = bench.stored(TAR, &tar, &tar);
            let root = bench.unpack_as(&format!("{name} {arguments:?}"), &[layer]);
            let root = root.unwrap_or_else(|reason| panic!("{name} {arguments:?}: {reason}"));
            let below = match arguments {
                ["-P", path] => root.join(&path[1..]),
                _ => root.join("x"),
            };
            assert_same(&made.join("x"), &below, &name);
            assert_eq!(
                below.join("plain").metadata().unwrap().ino(),
                below.join("same").metadata().unwrap().ino(),
                "{name}"
            );
        }
    }
}

#[test]
fn sparse_files_are_files_with_holes() {
    let bench = Bench::new();
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let made = place.path().join("made");
    std::fs::create_dir(&made).unwrap();
    const SIZE: u64 = 64 << 20;
    let write = |name: &str, parts: &[(u64, usize)]| {
        let file = std::fs::File::create(made.join(name)).unwrap();
        file.set_len(SIZE).unwrap();
        for (offset, length) in parts {
            file.write_all_at(&vec![7; *length], *offset).unwrap();
        }
    };
    write("hole", &[]);
    write("begins", &[(0, 10_000)]);
    write("ends", &[(SIZE - 4096, 4096)]);
    // More parts than a header has room for, and than its first extension.
    write("many", &(0..60).map(|n| (n << 20, 5000)).collect::<Vec<_>>());
    std::fs::write(made.join("none"), vec![3; 10_000]).unwrap();
    for (program, arguments) in [
        ("tar", ["--format=oldgnu", "-S"].as_slice()),
        ("tar", &["--format=gnu", "-S"]),
        ("tar", &["--format=posix", "-S", "--sparse-version=0.0"]),
        ("tar", &["--format=posix", "-S", "--sparse-version=0.1"]),
        ("tar", &["--format=posix", "-S", "--sparse-version=1.0"]),
        ("bsdtar", &["--format=pax"]),
    ] {
        let name = format!("{program} {arguments:?}");
        let tar = run(program, &made, &[&["-c", "-f", "-"], arguments, &["."]].concat());
        assert!(tar.len() < 8 << 20, "{name}: the tool wrote holes");
        let root = bench.unpack_as(&name, &[bench.stored(TAR, &tar, &tar)]);
        let root = root.unwrap_or_else(|reason| panic!("{name}: {reason}"));
        for entry in ["hole", "begins", "ends", "many", "none"] {
            let (from, to) = (made.join(entry), root.join(entry));
            assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap(), "{name}: {entry}");
            assert!(to.metadata().unwrap().blocks() * 512 < 8 << 20, "{name}: {entry} has holes");
        }
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn where_two_readers_could_see_two_archives_it_is_refused() {
    let sparse = |size: &str, map: &str, bytes: &[u8]| {
        vec![pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]), file("x", bytes)]
    };
    let leading = |map: &str| {
        let mut bytes = map.as_bytes().to_vec();
        bytes.resize(512, 0);
        let form = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")];
        vec![pax(&form), file("x", &bytes)]
    };
    let hidden = file("hidden", b"x");
    type Attack = (&'static str, Vec<Vec<u8>>, Reason);
    let attacks: Vec<Attack> = vec![
        ("a size beyond the end", vec![pax(&[("size", "99999")]), file("x", b"x")], Reason::ImageInvalid),
        (
            "a size that is not where the next header is",
            vec![pax(&[("size", "100")]), file("x", &hidden)],
            Reason::ImageInvalid,
        ),
        ("a size of a folder", vec![pax(&[("size", "512")]), folder("x")], Reason::ImageInvalid),
        ("a size of a link", vec![pax(&[("size", "512")]), link("x", "y")], Reason::ImageInvalid),
        ("a size that is no number", vec![pax(&[("size", "-1")]), file("x", b"x")], Reason::ImageInvalid),
        (
            "a size beyond all numbers",
            vec![pax(&[("size", "18446744073709551616")]), file("x", b"x")],
            Reason::ImageInvalid,
        ),
        (
            "two extended headers",
            vec![pax(&[("path", "a")]), pax(&[("path", "b")]), file("x", b"x")],
            Reason::ImageInvalid,
        ),
        (
            "two long names",
            vec![
                pax(&[("path", "a")]),
                entry(tar::EntryType::GNULongName, "n", "", 0, b"b\0"),
                file("x", b"x"),
            ],
            Reason::ImageInvalid,
        ),
        ("a name and then nothing", vec![pax(&[("path", "a")])], Reason::ImageInvalid),
        (
            "a record that is longer than its header",
            vec![entry(tar::EntryType::XHeader, "n", "", 0, b"99 path=x\n")],
            Reason::ImageInvalid,
        ),
        (
            "a record that ends nowhere",
            vec![entry(tar::EntryType::XHeader, "n", "", 0, b"9 path=xy")],
            Reason::ImageInvalid,
        ),
        (
            "a size for all",
            vec![entry(tar::EntryType::XGlobalHeader, "n", "", 0, &record("size", b"1")), file("x", b"x")],
            Reason::ImageUnsupported,
        ),
        ("a file of a folder's name", vec![file("x/", b"x")], Reason::ImageInvalid),
        ("zeros between", vec![file("x", b"x"), vec![0; 512], file("y", b"y")], Reason::ImageInvalid),
        ("parts that overlap", sparse("20", "0,4,2,4", b"12345678"), Reason::ImageInvalid),
        ("parts in disorder", sparse("20", "8,4,0,4", b"12345678"), Reason::ImageInvalid),
        ("a part beyond the end", sparse("20", "17,4", b"1234"), Reason::ImageInvalid),
        ("a part beyond all numbers", sparse("20", "18446744073709551615,4", b"1234"), Reason::ImageInvalid),
        (
            "parts that are shorter than what is stored",
            sparse("20", "0,4", b"12345678"),
            Reason::ImageInvalid,
        ),
        ("parts that are longer than what is stored", sparse("20", "0,8", b"1234"), Reason::ImageInvalid),
        ("a part without a length", sparse("20", "0,4,8", b"1234"), Reason::ImageInvalid),
        ("a hole as large as a disk", sparse("9223372036854775807", "0,4", b"1234"), Reason::ImageTooLarge),
        (
            "parts without a size",
            vec![pax(&[("GNU.sparse.map", "0,1")]), file("x", b"x")],
            Reason::ImageInvalid,
        ),
        (
            "a sparse folder",
            vec![pax(&[("GNU.sparse.size", "0"), ("GNU.sparse.map", "0,0")]), folder("x")],
            Reason::ImageInvalid,
        ),
        ("a map that is longer than the file", leading("999\n"), Reason::ImageInvalid),
        ("a map without end", leading("99999999\n"), Reason::ImageTooLarge),
        ("a map of no numbers", leading("x\n"), Reason::ImageInvalid),
        (
            "old sparse in a new header",
            vec![{
                let mut header = tar::Header::new_ustar();
                header.set_path("x").unwrap();
                header.set_entry_type(tar::EntryType::GNUSparse);
                header.set_size(0);
                header.set_mode(0o644);
                header.set_uid(0);
                header.set_gid(0);
                header.set_cksum();
                header.as_bytes().to_vec()
            }],
            Reason::ImageInvalid,
        ),
    ];
    for (name, entries, reason) in attacks {
        let bench = Bench::new();
        let layer = bench.layer(&entries);
        assert_eq!(bench.unpack(&[layer]).unwrap_err(), reason, "{name}");
        bench.check();
    }
    // As the standard says: the size of the header is not looked at.
    let bench = Bench::new();
    let mut small = file("x", b"12345678");
    small.splice(124..136, *b"00000000000\0");
    let mut header = tar::Header::from_byte_slice(&small[..512]).clone();
    header.set_cksum();
    small.splice(..512, header.as_bytes().iter().copied());
    let root = bench.unpack(&[bench.layer(&[pax(&[("size", "8")]), small, file("y", b"y")])]).unwrap();
    assert_eq!(std::fs::read(root.join("x")).unwrap(), b"12345678");
    assert!(root.join("y").exists());
}

#[test]
fn refusals_name_the_entry() {
    use edgewarden_oci::records::RecordKey;
    for (entries, name) in [
        (vec![folder("a"), entry(tar::EntryType::new(b'Z'), "a/odd", "", 0o644, b"")], "`a/odd`"),
        (vec![link("a\u{7}", "missing")], "`a\\u{7}`"),
        (vec![file("before", b"x"), pax(&[("size", "x")])], "`before`"),
        (vec![pax(&[("path", "lost")]), entry(tar::EntryType::Link, "x", "gone", 0, b"")], "`lost`"),
    ] {
        let bench = Bench::new();
        let layer = bench.layer(&entries);
        let refused = bench.store.root_file_system(&sha256(b"image"), &[layer], &RecordKey::new(&[7; 32]));
        let refusal = refused.unwrap_err().refusal();
        assert!(refusal.to_string().contains(name), "{refusal}");
    }
}

#[test]
fn the_last_of_entries_of_one_name_counts() {
    let bench = Bench::new();
    let root = bench.unpack(&[bench.layer(&[
        file("a", b"1"),
        link("b", "a"),
        file("a", b"2"),
        symlink("c", "/outside"),
        file("c", b"2"),
        folder("d"),
        file("d/inside", b"1"),
        file("d", b"2"),
        file("e", b"1"),
        folder("e"),
        file("e/inside", b"2"),
        file("f", b"1"),
        link("f", "f"),
        file("g", b"1"),
        symlink("g", "a"),
    ])]);
    let root = root.unwrap();
    for (name, content) in [("a", "2"), ("b", "1"), ("c", "2"), ("d", "2"), ("e/inside", "2"), ("f", "1")] {
        assert_eq!(std::fs::read_to_string(root.join(name)).unwrap(), content, "{name}");
    }
    assert_eq!(std::fs::read_link(root.join("g")).unwrap(), Path::new("a"));
    bench.check();

    // As `tar -r` makes them.
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    for content in ["old", "new"] {
        std::fs::write(place.path().join("twice"), content).unwrap();
        run("tar", place.path(), &["-r", "-f", "layer.tar", "twice"]);
    }
    let tar = std::fs::read(place.path().join("layer.tar")).unwrap();
    let root = bench.unpack_as("appended", &[bench.stored(TAR, &tar, &tar)]).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("twice")).unwrap(), "new");
}

#[test]
fn entries_without_end_are_stopped_at_the_limit() {
    let bench = Bench::new();
    let tar = file("a", b"").repeat(1_000_000);
    let layer = bench.stored(ZSTD, &packed("zstd", &["-q", "-1"], &tar), &tar);
    assert_eq!(bench.unpack(&[layer]).unwrap_err(), Reason::ImageTooLarge);
    bench.check();
}

/// Each marker in a folder must not cost a look at all that is in it.
#[test]
fn a_folder_of_ten_thousand_files_is_unpacked_hidden_and_filled_again() {
    let bench = Bench::new();
    let lower: Vec<_> = (0..10_000).map(|n| file(&format!("a/{n}"), b"1")).collect();
    let upper: Vec<_> = (0..10_000)
        .flat_map(|n| [file("a/.wh..wh..opq", b""), file(&format!("a/{n}"), b"2"), file("a/.wh.1", b"")])
        .collect();
    let root = bench.unpack(&[bench.layer(&lower), bench.layer(&upper)]).unwrap();
    assert_eq!(std::fs::read_dir(root.join("a")).unwrap().count(), 10_000);
    assert_eq!(std::fs::read(root.join("a/1")).unwrap(), b"2");
}

#[test]
fn whiteouts_hide_what_is_below_wherever_they_stand() {
    let lower = [
        folder("a"),
        file("a/one", b"1"),
        folder("a/sub"),
        file("a/sub/old", b"1"),
        folder("b"),
        file("b/one", b"1"),
        file("c", b"1"),
        folder("d"),
        file("d/one", b"1"),
    ];
    let mut upper = vec![
        file("a/new", b"2"),
        file("a/sub/new", b"2"),
        file("a/.wh..wh..opq", b""),
        folder("b"),
        file("b/new", b"2"),
        file(".wh.b", b""),
        file("c", b"2"),
        file(".wh.c", b""),
        file(".wh.d", b""),
        file(".wh.never", b""),
    ];
    for order in ["as written", "backwards"] {
        let bench = Bench::new();
        let root = bench.unpack(&[bench.layer(&lower), bench.layer(&upper)]).unwrap();
        let there = |name: &str| root.join(name).symlink_metadata().is_ok();
        for (name, expected) in [
            ("a/new", true),
            ("a/one", false),
            ("a/sub/new", true),
            ("a/sub/old", false),
            ("b/new", true),
            ("b/one", false),
            ("d", false),
        ] {
            assert_eq!(there(name), expected, "{order}: {name}");
        }
        assert_eq!(std::fs::read(root.join("c")).unwrap(), b"2", "{order}");
        upper.reverse();
    }
    // By a link to the folder, and to the root.
    let bench = Bench::new();
    let root = bench.unpack(&[
        bench.layer(&[folder("a"), file("a/old", b"1"), symlink("to", "a"), symlink("up", "/")]),
        bench.layer(&[
            file("a/new", b"2"),
            file("to/.wh..wh..opq", b""),
            file("up/.wh.run", b""),
            folder(".wh.sys"),
            folder("up/.wh.proc"),
            symlink("up/tmp", "a"),
        ]),
    ]);
    let root = root.unwrap();
    assert!(root.join("a/new").exists() && !root.join("a/old").exists());
    assert!(edgewarden_oci::tree::mount_folders_are_empty(&root), "what is mounted over stays a folder");
}

#[test]
fn hard_links_reach_into_lower_layers() {
    let bench = Bench::new();
    let root = bench.unpack(&[
        bench.layer(&[folder("a"), file("a/tool", b"tool"), symlink("short", "a/tool")]),
        bench.layer(&[
            link("b", "./a/tool"),
            link("/c", "/a/tool"),
            link("also", "short"),
            file("a/.wh.tool", b""),
        ]),
    ]);
    let root = root.unwrap();
    assert!(!root.join("a/tool").exists());
    assert_eq!(root.join("b").metadata().unwrap().ino(), root.join("c").metadata().unwrap().ino());
    assert_eq!(std::fs::read(root.join("c")).unwrap(), b"tool");
    assert_eq!(std::fs::read_link(root.join("also")).unwrap(), Path::new("a/tool"));
}

#[test]
fn folders_may_come_late_or_never_and_layers_may_be_empty() {
    let bench = Bench::new();
    let tar = vec![0; 1024];
    let empty = bench.stored(TAR, &tar, &tar);
    let gzip = bench.layer(&[]);
    let late = bench.layer(&[
        as_v7_folder(&file("./a//b/./c/", b"")[..512]),
        file("x/y/z", b"1"),
        entry(tar::EntryType::Directory, "x/y/", "", 0o700, b""),
        file("/abs/olute", b"1"),
    ]);
    let root = bench.unpack(&[empty, gzip, late]).unwrap();
    assert!(root.join("a/b/c").is_dir());
    assert!(root.join("abs/olute").is_file());
    assert_eq!(root.join("x").metadata().unwrap().permissions().mode() & 0o777, 0o755);
    assert!(root.join("x/y/z").is_file() && root.join("x/y").is_dir());
}

/// The kind that V7 gave to everything.
fn as_v7_folder(bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::from_byte_slice(bytes).clone();
    header.as_old_mut().linkflag = [0];
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// What a subscriber wrote.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_left_out_is_said() {
    let bench = Bench::new();
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    run("mknod", place.path(), &["null", "c", "1", "3"]);
    run("mknod", place.path(), &["disk", "b", "8", "0"]);
    run("mkfifo", place.path(), &["pipe"]);
    run("mkdir", place.path(), &["dev"]);
    run("mknod", place.path(), &["dev/console", "c", "5", "1"]);
    run("cp", place.path(), &["/bin/true", "su"]);
    run("chmod", place.path(), &["4755", "su"]);
    let tar = run("tar", place.path(), &["-c", "-f", "-", "."]);
    let ping =
        [pax(&[("SCHILY.xattr.security.capability", "\u{1}\u{2}\n\u{3}")]), file("ping", b"x")].concat();
    let layers = [
        bench.layer(&[file("disk", b"of a lower layer")]),
        bench.stored(TAR, &tar, &tar),
        bench.layer(&[entry(tar::EntryType::Regular, "plain", "", 0o755, b"x"), ping]),
    ];
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let root = tracing::subscriber::with_default(subscriber, || bench.unpack(&layers)).unwrap();
    for name in ["null", "disk", "pipe", "dev/console"] {
        assert!(root.join(name).symlink_metadata().is_err(), "{name}");
    }
    assert_eq!(root.join("su").metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    let capability = rustix::fs::getxattr(root.join("ping"), "security.capability", &mut [0; 64]);
    assert_eq!(capability, Err(rustix::io::Errno::NODATA), "no capability stays");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = |what: &str| log.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{log}"));
    let nodes = line("device nodes and FIFOs");
    assert!(nodes.contains("entries=3") && nodes.contains("./null") && nodes.contains("./pipe"), "{nodes}");
    let rights = line("set-user-ID");
    assert!(rights.contains("entries=3") && rights.contains("./su") && rights.contains("ping"), "{rights}");
    assert!(line("where the runtime mounts").contains("dev/console"));
}

#[test]
fn names_are_bytes() {
    let bench = Bench::new();
    let name = OsString::from_vec(b"caf\xe9/\x01\x7f\n'\"".to_vec());
    let path = record("path", name.as_bytes());
    let root = bench.unpack(&[
        bench.layer(&[entry(tar::EntryType::XHeader, "n", "", 0, &path), file("x", b"1")]),
        bench.layer(&[symlink("to", "x")]),
    ]);
    let root = root.unwrap();
    assert_eq!(std::fs::read(root.join(&name)).unwrap(), b"1");
    let hidden = record("path", b"caf\xe9/.wh.\x01\x7f\n'\"");
    let layers = [
        bench.layer(&[entry(tar::EntryType::XHeader, "n", "", 0, &path), file("x", b"1")]),
        bench.layer(&[entry(tar::EntryType::XHeader, "n", "", 0, &hidden), file("x", b"")]),
    ];
    let root = bench.unpack_as("hidden", &layers).unwrap();
    assert!(root.join(OsStr::from_bytes(b"caf\xe9")).is_dir() && !root.join(&name).exists());
}

#[test]
fn an_image_of_umoci_is_what_umoci_unpacks() {
    let bench = Bench::new();
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let umoci = |arguments: &[&str]| drop(run("umoci", place.path(), arguments));
    umoci(&["init", "--layout", "image"]);
    umoci(&["new", "--image", "image:t"]);
    umoci(&["unpack", "--image", "image:t", "bundle"]);
    let root = place.path().join("bundle/rootfs");
    hard_to_write(&root.join("first"));
    std::fs::create_dir_all(root.join("gone/below")).unwrap();
    std::fs::write(root.join("gone/below/file"), "1").unwrap();
    std::fs::write(root.join("changed"), "1").unwrap();
    umoci(&["repack", "--refresh-bundle", "--image", "image:t", "bundle"]);
    std::fs::remove_dir_all(root.join("gone")).unwrap();
    std::fs::remove_file(root.join("first/empty")).unwrap();
    std::fs::write(root.join("changed"), "2").unwrap();
    long_names(&root.join("second"));
    umoci(&["repack", "--refresh-bundle", "--image", "image:t", "bundle"]);
    umoci(&["gc", "--layout", "image"]);

    let layout = ImageLayout::open(&place.path().join("image")).unwrap();
    let (_, _, manifest) = layout.image().unwrap();
    let config = layout.blob(&manifest.config.digest, 1 << 20).unwrap();
    let config = ImageConfig::parse(&manifest.config.digest, &config).unwrap();
    let layers: Vec<Layer> = manifest
        .layers
        .iter()
        .zip(config.rootfs.diff_ids)
        .map(|(layer, diff_id)| {
            bench.store.put(&layout.blob(&layer.digest, 1 << 30).unwrap()).unwrap();
            Layer {
                digest: layer.digest.clone(),
                diff_id,
                size: layer.size,
                media_type: layer.media_type.clone(),
            }
        })
        .collect();
    assert_eq!(layers.len(), 2);
    let unpacked = bench.unpack(&layers).unwrap();
    assert!(!unpacked.join("gone").exists() && !unpacked.join("first/empty").exists());
    assert_eq!(std::fs::read(unpacked.join("changed")).unwrap(), b"2");
    assert_same(&root.join("first"), &unpacked.join("first"), "first");
    assert_same(&root.join("second"), &unpacked.join("second"), "second");
}
