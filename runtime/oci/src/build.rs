//! Makes an image from binaries and the shared libraries that they load.
//!
//! The root file system holds the binaries, what `ldd` names for them (the dynamic loader too), the few files that
//! libc looks for, and the mount points of the runtime. The same inputs give the same bytes and so the same digest:
//! sorted entries, no times, owner root, no host name. `ldd` runs the loader of the binary it looks at: build only
//! what you would run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgewarden_names::{Architecture, Digest, Reason};

use crate::OciError;
use crate::error::refused;
use crate::hashing::Hashing;
use crate::layout::{ImageLayout, json};
use crate::manifest::{
    Execution, ImageConfig, LAYER_BYTES_MAX, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, RootFs,
};

/// User and group of the program: none that an image has a name for, and not root.
const USER: &str = "65532:65532";

/// `nonroot`, as in other minimal images.
const NOBODY: u32 = 65532;

/// The contents of an image to build.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    /// Each lands in `/usr/bin` under its own name. The first is the entry point.
    pub binaries: Vec<PathBuf>,
    /// Arguments after the entry point.
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

enum Entry {
    Folder,
    Text(String),
    Copy { from: PathBuf, mode: u32 },
}

/// Builds the image into a layout. The same inputs give the same digest.
pub fn build(recipe: &Recipe, into: &ImageLayout) -> Result<Digest, OciError> {
    let mut entries = skeleton();
    let mut entry_point = None;
    for binary in &recipe.binaries {
        let Some(name) = binary.file_name().and_then(|name| name.to_str()) else {
            return refused(Reason::RequestInvalid, binary.display(), "the binary has no usable name");
        };
        let place = format!("usr/bin/{name}");
        entry_point.get_or_insert_with(|| format!("/{place}"));
        entries.insert(place, Entry::Copy { from: binary.clone(), mode: 0o755 });
        for library in libraries(binary)? {
            let place = library.to_string_lossy().trim_start_matches('/').to_owned();
            entries.insert(place, Entry::Copy { from: library, mode: 0o755 });
        }
    }
    let Some(entry_point) = entry_point else {
        return refused(Reason::RequestInvalid, "image", "an image needs at least one binary");
    };
    let (layer, diff_id) = layer(&with_parents(entries))?;
    let layer = into.put(OCI_LAYER_GZIP, &layer)?;
    let mut env = vec!["PATH=/usr/bin".to_owned()];
    env.extend(recipe.env.iter().map(|(key, value)| format!("{key}={value}")));
    let config = ImageConfig {
        architecture: Architecture::HERE.as_str().into(),
        os: "linux".into(),
        config: Execution {
            user: Some(USER.into()),
            env: Some(env),
            entrypoint: Some(vec![entry_point]),
            cmd: (!recipe.args.is_empty()).then(|| recipe.args.clone()),
            working_dir: Some("/".into()),
            labels: (!recipe.labels.is_empty()).then(|| recipe.labels.clone()),
            ..Execution::default()
        },
        rootfs: RootFs { kind: "layers".into(), diff_ids: vec![diff_id] },
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        config: into.put(OCI_CONFIG, &json(&config)?)?,
        layers: vec![layer],
        annotations: BTreeMap::new(),
    };
    let image = into.put(OCI_MANIFEST, &json(&manifest)?)?;
    into.set_image(&image)?;
    Ok(image.digest)
}

fn skeleton() -> BTreeMap<String, Entry> {
    let mut entries: BTreeMap<String, Entry> = ["dev", "proc", "run", "sys", "tmp"]
        .into_iter()
        .map(|folder| (folder.into(), Entry::Folder))
        .collect();
    for (file, text) in [
        ("etc/passwd", format!("root:x:0:0::/:/nologin\nnonroot:x:{NOBODY}:{NOBODY}::/:/nologin\n")),
        ("etc/group", format!("root:x:0:\nnonroot:x:{NOBODY}:\n")),
        // Without it libc asks a name server before it reads the hosts file.
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into()),
        ("etc/hosts", String::new()),
        ("etc/resolv.conf", String::new()),
    ] {
        entries.insert(file.into(), Entry::Text(text));
    }
    entries
}

fn with_parents(mut entries: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let files: Vec<String> = entries.keys().cloned().collect();
    for file in files {
        for parent in Path::new(&file).ancestors().skip(1).filter(|parent| *parent != Path::new("")) {
            entries.entry(parent.to_string_lossy().into_owned()).or_insert(Entry::Folder);
        }
    }
    entries
}

/// The shared libraries of a binary, and its loader, by the paths under which they will be looked for.
fn libraries(binary: &Path) -> Result<BTreeSet<PathBuf>, OciError> {
    let output =
        Command::new("ldd").arg(binary).env("LC_ALL", "C").output().map_err(OciError::io("run `ldd`"))?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("statically linked") || text.contains("not a dynamic executable") {
        return Ok(BTreeSet::new());
    }
    if !output.status.success() {
        return refused(
            Reason::RequestInvalid,
            binary.display(),
            format!("`ldd` cannot read it: {}", text.trim()),
        );
    }
    parse_ldd(&text).map_or_else(|rule| refused(Reason::RequestInvalid, binary.display(), rule), Ok)
}

/// Lines are `name => /path (0x…)`, `/loader (0x…)`, `linux-vdso.so.1 (0x…)` or `name => not found`.
fn parse_ldd(text: &str) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.contains("not found") {
            return Err(format!("a library is missing on this machine: `{line}`"));
        }
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        let place = place.split_once(" (").map_or(place, |(place, _)| place);
        if place.starts_with('/') {
            found.insert(PathBuf::from(place));
        }
    }
    Ok(found)
}

/// The layer's gzip bytes and the digest of its tar bytes.
fn layer(entries: &BTreeMap<String, Entry>) -> Result<(Vec<u8>, Digest), OciError> {
    let packed = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::new(6));
    let mut archive = tar::Builder::new(Hashing::new(packed, LAYER_BYTES_MAX));
    for (place, entry) in entries {
        let failed = |source| OciError::Io { what: format!("pack `{place}`"), source };
        match entry {
            Entry::Folder => {
                append(&mut archive, &format!("{place}/"), 0o755, tar::EntryType::Directory, &[])
            }
            Entry::Text(text) => append(&mut archive, place, 0o644, tar::EntryType::Regular, text.as_bytes()),
            Entry::Copy { from, mode } => {
                let bytes =
                    std::fs::read(from).map_err(OciError::io(format!("read `{}`", from.display())))?;
                append(&mut archive, place, *mode, tar::EntryType::Regular, &bytes)
            }
        }
        .map_err(failed)?;
    }
    let finish = || OciError::io("finish the layer");
    let (packed, diff_id, _) = archive.into_inner().map_err(finish())?.finish();
    let mut bytes = packed.finish().map_err(finish())?;
    bytes.flush().map_err(finish())?;
    Ok((bytes, diff_id))
}

fn append(
    archive: &mut tar::Builder<impl std::io::Write>,
    place: &str,
    mode: u32,
    kind: tar::EntryType,
    bytes: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, place, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_prints_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = parse_ldd(text).unwrap().into_iter().collect();
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(found, expected);
        assert!(parse_ldd("\tlibx.so => not found\n").unwrap_err().contains("libx.so"));
        assert!(parse_ldd("").unwrap().is_empty());
    }
}
