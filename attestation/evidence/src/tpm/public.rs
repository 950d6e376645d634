use std::fmt;

use super::{ALG_AES, ALG_CFB, ALG_ECC, ALG_ECDSA, ALG_NULL, ALG_RSA, ALG_RSAPSS, ALG_RSASSA, hash_alg};
use super::{DIGEST_BYTES_MAX, NAME_BYTES_MAX};
use crate::reader::{Reader, put_sized};
use crate::{HashAlg, ParseError};

const RSA_2048_BYTES: usize = 256;

/// TPMA_OBJECT (TPM 2.0 Library Part 2, section 8.3). Reserved bits are refused by the parser.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attributes(pub u32);

impl Attributes {
    pub const FIXED_TPM: u32 = 1 << 1;
    pub const ST_CLEAR: u32 = 1 << 2;
    pub const FIXED_PARENT: u32 = 1 << 4;
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    pub const NO_DA: u32 = 1 << 10;
    pub const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
    pub const RESTRICTED: u32 = 1 << 16;
    pub const DECRYPT: u32 = 1 << 17;
    pub const SIGN: u32 = 1 << 18;
    pub const X509_SIGN: u32 = 1 << 19;

    const NAMES: [(u32, &'static str); 12] = [
        (Self::FIXED_TPM, "fixedTPM"),
        (Self::ST_CLEAR, "stClear"),
        (Self::FIXED_PARENT, "fixedParent"),
        (Self::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (Self::USER_WITH_AUTH, "userWithAuth"),
        (Self::ADMIN_WITH_POLICY, "adminWithPolicy"),
        (Self::NO_DA, "noDA"),
        (Self::ENCRYPTED_DUPLICATION, "encryptedDuplication"),
        (Self::RESTRICTED, "restricted"),
        (Self::DECRYPT, "decrypt"),
        (Self::SIGN, "sign"),
        (Self::X509_SIGN, "x509sign"),
    ];

    /// `true` when all of `bits` are set.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    fn known() -> u32 {
        Self::NAMES.iter().fold(0, |all, (bit, _)| all | bit)
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join("|"))
    }
}
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// TPMT_SYM_DEF_OBJECT (section 11.1.7): what a storage key protects its children with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symmetric {
    Null,
    Aes128Cfb,
    Aes256Cfb,
}

/// TPMT_RSA_SCHEME or TPMT_ECC_SCHEME (sections 11.2.4.2 and 11.2.5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Null,
    RsaSsa(HashAlg),
    RsaPss(HashAlg),
    Ecdsa(HashAlg),
}

/// NIST curve of an ECC key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
}

impl Curve {
    /// TPM_ECC_CURVE (section 6.4).
    fn id(self) -> u16 {
        match self {
            Self::P256 => 0x0003,
            Self::P384 => 0x0004,
        }
    }

    /// Bytes of a coordinate.
    pub fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// The algorithm's part of a public area: parameters and unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// RSA with 2048 bits.
    Rsa {
        symmetric: Symmetric,
        scheme: Scheme,
        exponent: u32,
        modulus: Vec<u8>,
    },
    Ecc {
        symmetric: Symmetric,
        scheme: Scheme,
        curve: Curve,
        x: Vec<u8>,
        y: Vec<u8>,
    },
}

/// TPMT_PUBLIC (section 12.2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    pub name_alg: HashAlg,
    pub attributes: Attributes,
    pub auth_policy: Vec<u8>,
    pub key: Key,
}

impl Public {
    /// Parses a TPMT_PUBLIC of an RSA or ECC key, without a byte left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes, "public area");
        let algorithm = reader.u16()?;
        let name_alg = hash_alg(&mut reader)?;
        let attributes = Attributes(reader.u32()?);
        if attributes.0 & !Attributes::known() != 0 {
            return Err(ParseError::Value { what: "object attributes", value: attributes.0.into() });
        }
        let auth_policy = reader.sized("authorization policy", DIGEST_BYTES_MAX)?.to_vec();
        if !auth_policy.is_empty() && auth_policy.len() != name_alg.size() {
            return Err(ParseError::Malformed("the authorization policy is no digest of the name algorithm"));
        }
        let key = match algorithm {
            ALG_RSA => Key::read_rsa(&mut reader)?,
            ALG_ECC => Key::read_ecc(&mut reader)?,
            other => return Err(ParseError::Value { what: "key type", value: other.into() }),
        };
        reader.end()?;
        Ok(Self { name_alg, attributes, auth_policy, key })
    }

    /// The TPMT_PUBLIC.
    pub fn to_bytes(&self) -> Vec<u8> {
        let algorithm = match self.key {
            Key::Rsa { .. } => ALG_RSA,
            Key::Ecc { .. } => ALG_ECC,
        };
        let mut out = algorithm.to_be_bytes().to_vec();
        out.extend_from_slice(&self.name_alg.id().to_be_bytes());
        out.extend_from_slice(&self.attributes.0.to_be_bytes());
        put_sized(&mut out, &self.auth_policy);
        self.key.write(&mut out);
        out
    }

    /// The object's Name: the name algorithm and its digest of the public area (Part 1, section 16).
    pub fn name(&self) -> Vec<u8> {
        let mut name = Vec::with_capacity(NAME_BYTES_MAX);
        name.extend_from_slice(&self.name_alg.id().to_be_bytes());
        name.extend(self.name_alg.digest(&[&self.to_bytes()]));
        name
    }

    /// The point of an ECC key, uncompressed (SEC 1 section 2.3.3): 4, x, y.
    pub fn point(&self) -> Option<Vec<u8>> {
        let Key::Ecc { curve, x, y, .. } = &self.key else { return None };
        let mut point = vec![4];
        for coordinate in [x, y] {
            // A TPM may leave out leading zeros.
            point.extend(std::iter::repeat_n(0, curve.size().checked_sub(coordinate.len())?));
            point.extend_from_slice(coordinate);
        }
        Some(point)
    }
}

impl Key {
    fn read_rsa(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let symmetric = Symmetric::read(reader)?;
        let scheme = Scheme::read(reader)?;
        if matches!(scheme, Scheme::Ecdsa(_)) {
            return Err(ParseError::Malformed("an RSA key has an ECC scheme"));
        }
        let bits = reader.u16()?;
        if bits != 2048 {
            return Err(ParseError::Value { what: "RSA key size", value: bits.into() });
        }
        let exponent = reader.u32()?;
        let modulus = reader.sized("RSA modulus", RSA_2048_BYTES)?.to_vec();
        if modulus.len() != RSA_2048_BYTES {
            return Err(ParseError::Malformed("the RSA modulus has not 2048 bits"));
        }
        Ok(Self::Rsa { symmetric, scheme, exponent, modulus })
    }

    fn read_ecc(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let symmetric = Symmetric::read(reader)?;
        let scheme = Scheme::read(reader)?;
        if matches!(scheme, Scheme::RsaSsa(_) | Scheme::RsaPss(_)) {
            return Err(ParseError::Malformed("an ECC key has an RSA scheme"));
        }
        let id = reader.u16()?;
        let curve = [Curve::P256, Curve::P384].into_iter().find(|curve| curve.id() == id);
        let curve = curve.ok_or(ParseError::Value { what: "curve", value: id.into() })?;
        let kdf = reader.u16()?;
        if kdf != ALG_NULL {
            return Err(ParseError::Value { what: "key derivation scheme", value: kdf.into() });
        }
        let x = reader.sized("x coordinate", curve.size())?.to_vec();
        let y = reader.sized("y coordinate", curve.size())?.to_vec();
        Ok(Self::Ecc { symmetric, scheme, curve, x, y })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Rsa { symmetric, scheme, exponent, modulus } => {
                symmetric.write(out);
                scheme.write(out);
                out.extend_from_slice(&2048_u16.to_be_bytes());
                out.extend_from_slice(&exponent.to_be_bytes());
                put_sized(out, modulus);
            }
            Self::Ecc { symmetric, scheme, curve, x, y } => {
                symmetric.write(out);
                scheme.write(out);
                out.extend_from_slice(&curve.id().to_be_bytes());
                out.extend_from_slice(&ALG_NULL.to_be_bytes());
                put_sized(out, x);
                put_sized(out, y);
            }
        }
    }
}

impl Symmetric {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        match reader.u16()? {
            ALG_NULL => Ok(Self::Null),
            ALG_AES => match (reader.u16()?, reader.u16()?) {
                (128, ALG_CFB) => Ok(Self::Aes128Cfb),
                (256, ALG_CFB) => Ok(Self::Aes256Cfb),
                (bits, _) => Err(ParseError::Value { what: "AES key size or mode", value: bits.into() }),
            },
            other => Err(ParseError::Value { what: "symmetric algorithm", value: other.into() }),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        let fields: &[u16] = match self {
            Self::Null => &[ALG_NULL],
            Self::Aes128Cfb => &[ALG_AES, 128, ALG_CFB],
            Self::Aes256Cfb => &[ALG_AES, 256, ALG_CFB],
        };
        out.extend(fields.iter().flat_map(|field| field.to_be_bytes()));
    }
}

impl Scheme {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        match reader.u16()? {
            ALG_NULL => Ok(Self::Null),
            ALG_RSASSA => hash_alg(reader).map(Self::RsaSsa),
            ALG_RSAPSS => hash_alg(reader).map(Self::RsaPss),
            ALG_ECDSA => hash_alg(reader).map(Self::Ecdsa),
            other => Err(ParseError::Value { what: "key scheme", value: other.into() }),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        let (algorithm, hash) = match self {
            Self::Null => (ALG_NULL, None),
            Self::RsaSsa(hash) => (ALG_RSASSA, Some(hash)),
            Self::RsaPss(hash) => (ALG_RSAPSS, Some(hash)),
            Self::Ecdsa(hash) => (ALG_ECDSA, Some(hash)),
        };
        out.extend_from_slice(&algorithm.to_be_bytes());
        out.extend(hash.into_iter().flat_map(|hash| hash.id().to_be_bytes()));
    }
}
