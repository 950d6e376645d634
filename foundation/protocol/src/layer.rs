//! Kinds of image layers: one list for whoever judges an image and whoever unpacks it.

use std::fmt;

/// How a layer's tar is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// By media type (OCI image-spec, "Image Layer Filesystem Changeset"; Docker image manifest version 2 schema 2).
    pub fn of(media_type: &str) -> Result<Self, NotUnpacked> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Ok(Self::None)
            }
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Self::Zstd),
            foreign
                if foreign.starts_with("application/vnd.oci.image.layer.nondistributable.")
                    || foreign.starts_with("application/vnd.docker.image.rootfs.foreign.") =>
            {
                Err(NotUnpacked::Foreign)
            }
            _ => Err(NotUnpacked::Unknown),
        }
    }
}

/// Why a layer is not unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotUnpacked {
    /// Its bytes are not in the image's registry: Windows' base layers, above all.
    Foreign,
    Unknown,
}

impl fmt::Display for NotUnpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => {
                "it is a foreign (non-distributable) layer, which is not in the image's registry: build upon another base image"
            }
            Self::Unknown => "layers are tar, plain or with gzip or zstd, as OCI and Docker name them",
        })
    }
}
