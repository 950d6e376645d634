//! One service after the other: descriptors by protox, messages by prost, calls by tonic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use tonic_prost_build::Builder;

/// An error that leaves the tree as it was, or partly written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("{0}")]
    Proto(#[from] protox::Error),
    #[error("cannot read or write `{}`: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

/// One service: its source, and what stands in the tree because of it.
struct Service {
    /// Beneath `proto/`.
    protos: &'static [&'static str],
    descriptor: &'static str,
    /// Beneath `wire/src/`.
    code: &'static str,
    /// The server is generated too; otherwise `workload-server` has one of its own.
    server: bool,
    /// Messages that hold a secret, a key or a capability: without `Debug`. `.` is all of them.
    silent: &'static [&'static str],
    /// The messages lie in modules named by their packages.
    nested: bool,
}

const SERVICES: [Service; 4] = [
    Service {
        protos: &["workloadapi.proto"],
        descriptor: "workloadapi.descriptor.bin",
        code: "workloadapi.rs",
        server: false,
        silent: &["X509SVID", "JWTSVID", "ValidateJWTSVIDRequest"],
        nested: false,
    },
    Service {
        protos: &["keys.proto"],
        descriptor: "keys.descriptor.bin",
        code: "keysapi.rs",
        server: true,
        silent: &[
            "Capability",
            "CertifyRequest",
            "CreateKeyResponse",
            "DecryptRequest",
            "DecryptResponse",
            "DeleteKeyRequest",
            "EncryptRequest",
            "GrantResponse",
            "SealRequest",
            "SealResponse",
            "SignRequest",
            "UnsealRequest",
            "UnsealResponse",
        ],
        nested: false,
    },
    Service {
        protos: &["secrets.proto"],
        descriptor: "secrets.descriptor.bin",
        code: "secrets_v1.rs",
        server: true,
        silent: &["Secret", "WatchResponse"],
        nested: false,
    },
    Service {
        protos: &["envoy/sds.proto", "envoy/secret.proto"],
        descriptor: "envoy.descriptor.bin",
        code: "envoy.rs",
        server: true,
        silent: &["."],
        nested: true,
    },
];

/// The folder that holds `proto` and `wire`.
pub fn workload_api() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Each generated file by its path beneath `root`.
pub fn generate(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, GenerateError> {
    let mut files = BTreeMap::new();
    for service in &SERVICES {
        let protos = root.join("proto");
        let named = service.protos.iter().map(|proto| protos.join(proto));
        let mut described = protox::compile(named, [&protos])?;
        let code = code(service, described.clone())?;
        files.insert(Path::new("wire/src").join(service.code), code.into_bytes());
        // Comments are for the code. What reflection tells of is names and numbers.
        for file in &mut described.file {
            file.source_code_info = None;
        }
        files.insert(Path::new("proto").join(service.descriptor), described.encode_to_vec());
    }
    Ok(files)
}

fn code(service: &Service, described: prost_types::FileDescriptorSet) -> Result<String, GenerateError> {
    let folder =
        tempfile::tempdir().map_err(|source| GenerateError::File { path: std::env::temp_dir(), source })?;
    let failed = |source| GenerateError::File { path: folder.path().to_owned(), source };
    let builder = builder(folder.path()).build_server(service.server).skip_debug(service.silent);
    let builder = if service.nested { builder.include_file("mod.rs") } else { builder };
    builder.compile_fds(described).map_err(failed)?;
    if service.nested {
        return nested(folder.path(), "mod.rs");
    }
    let mut made: Vec<PathBuf> =
        fs::read_dir(folder.path()).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
    made.sort();
    made.iter().map(|path| read(path)).collect()
}

fn builder(folder: &Path) -> Builder {
    tonic_prost_build::configure()
        .out_dir(folder)
        .bytes(".")
        .build_transport(false)
        .codec_path("crate::codec::ProstCodec")
}

fn read(path: &Path) -> Result<String, GenerateError> {
    fs::read_to_string(path).map_err(|source| GenerateError::File { path: path.to_owned(), source })
}

/// A file with what its `include!` lines name in their place, without the heads of those files.
fn nested(folder: &Path, file: &str) -> Result<String, GenerateError> {
    let mut text = String::new();
    for line in read(&folder.join(file))?.lines() {
        let named = line.trim().strip_prefix("include!(").and_then(|rest| rest.split('"').nth(1));
        let Some(named) = named else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let included = read(&folder.join(named.trim_start_matches('/')))?;
        text.extend(
            included.split_inclusive('\n').filter(|line| !line.starts_with("// This file is @generated")),
        );
    }
    Ok(text)
}
