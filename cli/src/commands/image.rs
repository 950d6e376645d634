//! Builds, pushes and signs module images. Needs no running gateway and no root.

use std::path::PathBuf;

use edgewarden_image_trust::sign::{self, SigningKey};
use edgewarden_names::Digest;
use edgewarden_oci::OciError;
use edgewarden_oci::build::{self, Recipe};
use edgewarden_oci::layout::ImageLayout;
use edgewarden_oci::registry::Registry;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::deployment::ImageReference;

use crate::exit::Problem;
use crate::output::{self, Format};

#[derive(Debug, clap::Subcommand)]
pub enum Image {
    /// Makes an image from programs and the libraries they load, without a base image. Prints its digest.
    Build {
        /// A program; the first becomes the entry point.
        #[arg(long = "binary", required = true)]
        binaries: Vec<PathBuf>,
        /// An OCI image layout folder to write.
        #[arg(long)]
        layout: PathBuf,
    },
    /// Pushes an image layout to `registry/repository:tag`. Prints the reference with its digest.
    Push {
        layout: PathBuf,
        image: String,
        #[command(flatten)]
        registry: RegistryOptions,
    },
    /// Signs what `registry/repository:tag` or `…@sha256:…` names now, in cosign's keyed layout.
    Sign {
        image: String,
        /// P-256 private key, PKCS#8 PEM, readable by its owner only.
        #[arg(long)]
        key: PathBuf,
        #[command(flatten)]
        registry: RegistryOptions,
    },
    /// Makes a key pair for signing images: FILE and FILE.pub.
    GenerateKey { file: PathBuf },
}

#[derive(Debug, clap::Args)]
pub struct RegistryOptions {
    /// Ask this registry (`host:port`) in plain HTTP.
    #[arg(long)]
    plain_http: Vec<String>,
}

/// `registry/repository`, and what comes after: a tag or a digest.
struct Name {
    registry: String,
    repository: String,
    version: Version,
}

enum Version {
    Tag(String),
    Digest(Digest),
}

impl Image {
    pub async fn run(self, format: Format) -> Result<(), Problem> {
        match self {
            Self::Build { binaries, layout } => {
                let layout = ImageLayout::create(&layout)?;
                let recipe = Recipe { binaries, ..Recipe::default() };
                let digest = build::build(&recipe, &layout)?;
                print(format, "digest", &digest.to_string())
            }
            Self::Push { layout, image, registry } => {
                let name = Name::parse(&image)?;
                let Version::Tag(tag) = &name.version else {
                    return Err(Problem::Usage("push to a tag, such as `registry/repository:1`".into()));
                };
                let registry = name.open(&registry)?;
                let digest = ImageLayout::open(&layout)?.push(&registry, tag).await?;
                print(format, "image", &format!("{image}@{digest}"))
            }
            Self::Sign { image, key, registry } => {
                let key = SigningKey::load(&key).map_err(Problem::failed)?;
                let signed = sign_image(&Name::parse(&image)?, &key, &registry).await?;
                print(format, "signed", &signed.to_string())
            }
            Self::GenerateKey { file } => {
                let key = SigningKey::generate().map_err(Problem::failed)?;
                let public = file.with_added_extension("pub");
                let wrote = edgewarden_platform::durable::write(&file, key.private_pem().as_bytes(), 0o600)
                    .and_then(|()| {
                        edgewarden_platform::durable::write(&public, key.public_pem().as_bytes(), 0o644)
                    });
                wrote
                    .map_err(|error| Problem::text(format!("cannot write `{}`: {error}", file.display())))?;
                print(format, "public_key", &public.display().to_string())
            }
        }
    }
}

async fn sign_image(
    name: &Name,
    key: &SigningKey,
    options: &RegistryOptions,
) -> Result<ImageReference, Problem> {
    let registry = name.open(options)?;
    let digest = match &name.version {
        Version::Tag(tag) => registry.resolve(tag).await?,
        Version::Digest(digest) => digest.clone(),
    };
    let image = ImageReference::parse(&format!("{}/{}@{digest}", name.registry, name.repository))
        .map_err(Problem::Usage)?;
    let signed = sign::sign(&image, key).map_err(Problem::failed)?;
    registry.push_blob(&signed.config).await?;
    registry.push_blob(&signed.payload).await?;
    registry.push_manifest(&signed.tag, signed.manifest_media_type, &signed.manifest).await?;
    Ok(image)
}

impl Name {
    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || {
            Problem::Usage(format!(
                "`{text}` is not `registry/repository:tag` or `registry/repository@sha256:…`"
            ))
        };
        let (registry, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (repository, version) = if let Some((repository, digest)) = rest.split_once('@') {
            (repository, Version::Digest(Digest::parse(digest).map_err(|_| wrong())?))
        } else {
            let (repository, tag) = rest.split_once(':').ok_or_else(wrong)?;
            (repository, Version::Tag(tag.into()))
        };
        Ok(Self { registry: registry.into(), repository: repository.into(), version })
    }

    fn open(&self, options: &RegistryOptions) -> Result<Registry, Problem> {
        let config = Runtime { plain_http_registries: options.plain_http.clone(), ..Runtime::default() };
        Ok(Registry::new(&self.registry, &self.repository, &config)?)
    }
}

fn print(format: Format, name: &str, value: &str) -> Result<(), Problem> {
    if format == Format::Json {
        return output::json(&serde_json::json!({ name: value }));
    }
    println!("{value}");
    Ok(())
}

impl From<OciError> for Problem {
    fn from(error: OciError) -> Self {
        match error {
            OciError::Refused(refusal) => Self::Refused(refusal),
            error @ OciError::Io { .. } => Self::failed(error),
        }
    }
}
