//! Builds, pushes and signs module images. Needs no running gateway and no root.

use std::path::PathBuf;

use edgewarden_image_trust::sign::{self, SigningKey};
use edgewarden_names::Digest;
use edgewarden_oci::OciError;
use edgewarden_oci::build::{self, Recipe};
use edgewarden_oci::layout::ImageLayout;
use edgewarden_oci::registry::{self, Access, Registry};
use edgewarden_protocol::deployment::ImageReference;
use edgewarden_terminal::Waiting;

use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `image`.
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
    /// Signs what `registry/repository:tag` or `…@sha256:…` names now, in cosign's keyed layout. Signatures of other
    /// keys stay; of two who sign the same image at the same moment, one must do so again.
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

/// Options of the commands that speak to a registry.
#[derive(Debug, clap::Args)]
pub struct RegistryOptions {
    /// Ask this registry (`host:port`) in plain HTTP.
    #[arg(long)]
    plain_http: Vec<String>,
    /// Logins, in the form of Docker's `config.json`, open to nobody else; without it Docker's own file of the caller
    /// (`$DOCKER_CONFIG/config.json`, `~/.docker/config.json`).
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Roots (PEM) that registries' certificates may lead to, besides the system's. Repeat for more.
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
}

/// `registry/repository`, and what comes after: a tag, or a digest, before which a tag is for people.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    registry: String,
    repository: String,
    version: Version,
}

#[derive(Debug, PartialEq, Eq)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl Image {
    /// Prints the digest or reference of what was made. Needs neither a gateway nor root.
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
                let waiting = Waiting::begin(&format!("pushing `{image}`"));
                let digest = ImageLayout::open(&layout)?.push(&registry, tag).await?;
                drop(waiting);
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
    let existing = registry.signature_manifest(&digest).await?;
    let signed = sign::sign_beside(&image, key, existing.as_deref()).map_err(Problem::failed)?;
    let Some(signed) = signed else {
        eprintln!("this key has signed it already");
        return Ok(image);
    };
    registry.push_blob(&signed.config).await?;
    registry.push_blob(&signed.payload).await?;
    registry.push_manifest(&signed.tag, signed.manifest_media_type, &signed.manifest).await?;
    Ok(image)
}

impl Name {
    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || {
            Problem::Usage(format!(
                "`{}` is not `registry/repository:tag` or `registry/repository@sha256:…`",
                text.escape_debug()
            ))
        };
        // One grammar for all: a name with a tag alone is checked as if it had a digest too.
        if text.contains('@') {
            let image = ImageReference::parse(text).map_err(|_| wrong())?;
            let version = Version::Digest(image.digest().clone());
            return Ok(Self {
                registry: image.registry().into(),
                repository: image.repository().into(),
                version,
            });
        }
        let image =
            ImageReference::parse(&format!("{text}@sha256:{}", "0".repeat(64))).map_err(|_| wrong())?;
        let tag = image.tag().ok_or_else(wrong)?;
        Ok(Self {
            registry: image.registry().into(),
            repository: image.repository().into(),
            version: Version::Tag(tag.into()),
        })
    }

    fn open(&self, options: &RegistryOptions) -> Result<Registry, Problem> {
        let command = registry::Command {
            plain_http: options.plain_http.clone(),
            credentials: options.credentials.clone(),
            ca_files: options.registry_ca.clone(),
        };
        let access = Access::of_command(command, |name| std::env::var(name).ok())?;
        Ok(Registry::new(&self.registry, &self.repository, access)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let by_digest = || Version::Digest(Digest::parse(&digest).unwrap());
        for (text, registry, repository, version) in [
            ("reg/a:1".to_owned(), "reg", "a", Version::Tag("1".into())),
            (
                "127.0.0.1:5000/clinic/alerts:v1.0".into(),
                "127.0.0.1:5000",
                "clinic/alerts",
                Version::Tag("v1.0".into()),
            ),
            (format!("reg/a@{digest}"), "reg", "a", by_digest()),
            (format!("reg/a:1@{digest}"), "reg", "a", by_digest()),
            (format!("reg:5000/a/b:1@{digest}"), "reg:5000", "a/b", by_digest()),
        ] {
            let expected = Name { registry: registry.into(), repository: repository.into(), version };
            assert_eq!(Name::parse(&text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_no_name() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for text in [
            "",
            "/",
            "a",
            "a:1",
            "reg/a",
            "reg/",
            "/a:1",
            "reg/a:",
            "reg/:1",
            "reg/a:1:2",
            "reg/a:x/y",
            "reg/a:..",
            "reg/a: 1",
            "reg/a:1\n",
            "reg/../a:1",
            "reg/A:1",
            "reg/a@1",
            "reg/a@sha256:00",
            "r g/a:1",
            "https://reg/a:1",
        ]
        .map(String::from)
        .into_iter()
        .chain([
            format!("reg/a:@{digest}"),
            format!("reg/a:1:2@{digest}"),
            format!("reg/a@{digest}@{digest}"),
            format!("reg/a@{digest}:1"),
            format!("@{digest}"),
            format!("a@{digest}"),
            format!("reg/a:{}", "x".repeat(129)),
        ]) {
            assert!(matches!(Name::parse(&text), Err(Problem::Usage(_))), "{text:?}");
        }
    }
}
