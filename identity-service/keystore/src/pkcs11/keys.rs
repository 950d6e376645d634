//! The gateway's keys in the token: found by their labels, and believed only with the attributes that they were made with.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::agreement::AgreementKey;
use super::fault::{Fault, fault};
use super::record::{Known, Record};
use super::sealed;
use crate::ecdsa;
use crate::error::KeystoreError;

/// Labels, which are the CKA_IDs too. Changing one loses every gateway's keys.
const DEVICE: &str = "edgewarden-device-key-1";
const GATEWAY_CA: &str = "edgewarden-gateway-ca-key-1";
const SEALING: &str = "edgewarden-sealing-key-1";
const AGREEMENT: &str = "edgewarden-agreement-key-1";

/// CKA_EC_PARAMS of P-256: the OID 1.2.840.10045.3.1.7, DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const POINT_BYTES: usize = 65;
const AES_KEY_BYTES: u64 = 32;

pub(super) struct Keys {
    pub(super) device: SigningKey,
    pub(super) gateway_ca: SigningKey,
    pub(super) agreement: AgreementKey,
    pub(super) sealing: ObjectHandle,
}

pub(super) struct SigningKey {
    pub(super) handle: ObjectHandle,
    /// Uncompressed.
    pub(super) point: Vec<u8>,
}

pub(super) fn hash(message: &[u8]) -> Vec<u8> {
    digest(&SHA256, message).as_ref().to_vec()
}

impl SigningKey {
    /// Signs a SHA-256 digest; DER.
    pub(super) fn sign(&self, session: &Session, hash: &[u8]) -> Result<Vec<u8>, Fault> {
        let signature = session.sign(&Mechanism::Ecdsa, self.handle, hash).map_err(fault)?;
        if signature.len() != 2 * ecdsa::NUMBER_BYTES {
            return Err(KeystoreError::Answer("an ECDSA signature has not 64 bytes").into());
        }
        let (r, s) = signature.split_at(ecdsa::NUMBER_BYTES);
        Ok(ecdsa::der(r, s)?)
    }

    /// The public and the private object are halves of one key.
    fn check(&self, session: &Session) -> Result<(), Fault> {
        let mut message = [0; 32];
        rand::fill(&mut message).map_err(|_| KeystoreError::Answer("the random number generator failed"))?;
        let signature = self.sign(session, &hash(&message))?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .map_err(|_| KeystoreError::Answer("a key in the token is not a P-256 point"))?
            .verify_sig(&message, &signature)
            .map_err(|_| KeystoreError::Answer("a private key in the token is not its public key's").into())
    }
}

impl Keys {
    /// Finds the keys, or makes them when the record says that there never were any.
    pub(super) fn open(session: &Session, token: &str, record: &Record) -> Result<Self, Fault> {
        let shelf = Shelf { session, token };
        if let Some(mut known) = record.read()? {
            let keys = Self {
                device: shelf.signing_key(DEVICE)?.ok_or_else(|| shelf.missing(DEVICE))?,
                gateway_ca: shelf.signing_key(GATEWAY_CA)?.ok_or_else(|| shelf.missing(GATEWAY_CA))?,
                agreement: match &known.agreement {
                    Some(_) => shelf.agreement_key()?.ok_or_else(|| shelf.missing(AGREEMENT))?,
                    None => shelf.agreement_key_or_new()?,
                },
                sealing: shelf.sealing_key()?.ok_or_else(|| shelf.missing(SEALING))?,
            };
            keys.compare(&shelf, &known, record)?;
            if known.agreement.is_none() {
                known.agreement = Some(keys.agreement.point.clone());
                record.write(&known)?;
            }
            return Ok(keys);
        }
        let keys = Self {
            device: shelf.found_or_made(DEVICE)?,
            gateway_ca: shelf.found_or_made(GATEWAY_CA)?,
            agreement: shelf.agreement_key_or_new()?,
            sealing: match shelf.sealing_key()? {
                Some(key) => key,
                None => shelf.make_sealing_key()?,
            },
        };
        record.write(&Known {
            device: keys.device.point.clone(),
            gateway_ca: keys.gateway_ca.point.clone(),
            agreement: Some(keys.agreement.point.clone()),
            check: sealed::make_check(session, keys.sealing)?,
        })?;
        Ok(keys)
    }

    fn compare(&self, token: &Shelf<'_>, known: &Known, record: &Record) -> Result<(), Fault> {
        let other = |key: &str| {
            Fault::Final(KeystoreError::OtherKey {
                token: token.token.to_owned(),
                key: key.to_owned(),
                path: record.path().to_owned(),
            })
        };
        if self.device.point != known.device {
            return Err(other(DEVICE));
        }
        if self.gateway_ca.point != known.gateway_ca {
            return Err(other(GATEWAY_CA));
        }
        if known.agreement.as_ref().is_some_and(|point| *point != self.agreement.point) {
            return Err(other(AGREEMENT));
        }
        if sealed::opens_check(token.session, self.sealing, &known.check)? {
            Ok(())
        } else {
            Err(other(SEALING))
        }
    }
}

/// Attributes that a key must have, and what is wrong when one is not so. An attribute that the token does not tell is
/// not so.
type Demand = (AttributeType, bool, &'static str);

const PRIVATE_DEMANDS: [Demand; 7] = [
    (AttributeType::Token, true, "is not kept in the token (CKA_TOKEN)"),
    (AttributeType::Private, true, "can be used without a login (CKA_PRIVATE)"),
    (AttributeType::Sensitive, true, "can be read in clear (CKA_SENSITIVE)"),
    (AttributeType::Extractable, false, "can be taken out of the token (CKA_EXTRACTABLE)"),
    (AttributeType::AlwaysSensitive, true, "could be read in clear once (CKA_ALWAYS_SENSITIVE)"),
    (
        AttributeType::NeverExtractable,
        true,
        "was not made in the token, or could be taken out (CKA_NEVER_EXTRACTABLE)",
    ),
    (AttributeType::Sign, true, "may not sign (CKA_SIGN)"),
];
const AGREEMENT_DEMANDS: [Demand; 7] = {
    let [token, private, sensitive, extractable, always, never, _] = PRIVATE_DEMANDS;
    let derive = (AttributeType::Derive, true, "may not derive (CKA_DERIVE)");
    [token, private, sensitive, extractable, always, never, derive]
};
const SEALING_DEMANDS: [Demand; 8] = {
    let [token, private, sensitive, extractable, always, never, _] = PRIVATE_DEMANDS;
    [
        token,
        private,
        sensitive,
        extractable,
        always,
        never,
        (AttributeType::Encrypt, true, "may not encrypt (CKA_ENCRYPT)"),
        (AttributeType::Decrypt, true, "may not decrypt (CKA_DECRYPT)"),
    ]
};
/// Uses that a key must not have. A token that does not know one does not allow it.
const PRIVATE_REFUSED: [AttributeType; 5] = [
    AttributeType::Decrypt,
    AttributeType::SignRecover,
    AttributeType::Unwrap,
    AttributeType::Derive,
    AttributeType::AlwaysAuthenticate,
];
const AGREEMENT_REFUSED: [AttributeType; 5] = [
    AttributeType::Decrypt,
    AttributeType::SignRecover,
    AttributeType::Unwrap,
    AttributeType::Sign,
    AttributeType::AlwaysAuthenticate,
];
const SEALING_REFUSED: [AttributeType; 4] =
    [AttributeType::Wrap, AttributeType::Unwrap, AttributeType::Sign, AttributeType::Derive];

/// An attribute that is yes or no.
fn flag(attributes: &[Attribute], wanted: AttributeType) -> Option<bool> {
    let attribute = attributes.iter().find(|attribute| attribute.attribute_type() == wanted)?;
    match attribute {
        Attribute::Token(value)
        | Attribute::Private(value)
        | Attribute::Sensitive(value)
        | Attribute::Extractable(value)
        | Attribute::AlwaysSensitive(value)
        | Attribute::NeverExtractable(value)
        | Attribute::AlwaysAuthenticate(value)
        | Attribute::Sign(value)
        | Attribute::SignRecover(value)
        | Attribute::Encrypt(value)
        | Attribute::Decrypt(value)
        | Attribute::Wrap(value)
        | Attribute::Unwrap(value)
        | Attribute::Derive(value) => Some(*value),
        _ => None,
    }
}

/// The token's objects.
pub(super) struct Shelf<'a> {
    pub(super) session: &'a Session,
    pub(super) token: &'a str,
}

impl Shelf<'_> {
    pub(super) fn missing(&self, key: &str) -> Fault {
        Fault::Final(KeystoreError::KeyMissing { token: self.token.to_owned(), key: key.to_owned() })
    }

    fn wrong(&self, key: &str, problem: &'static str) -> Fault {
        let (token, key) = (self.token.to_owned(), key.to_owned());
        Fault::Final(KeystoreError::KeyAttribute { token, key, problem })
    }

    fn find(&self, class: ObjectClass, key: &str) -> Result<Option<ObjectHandle>, Fault> {
        let template = [Attribute::Class(class), Attribute::Label(key.into())];
        let found = self.session.find_objects(&template).map_err(fault)?;
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            _ => Err(self.wrong(key, "is there more than once")),
        }
    }

    fn attributes(&self, object: ObjectHandle, wanted: &[AttributeType]) -> Result<Vec<Attribute>, Fault> {
        self.session.get_attributes(object, wanted).map_err(fault)
    }

    fn check(
        &self,
        key: &str,
        object: ObjectHandle,
        demands: &[Demand],
        refused: &[AttributeType],
    ) -> Result<(), Fault> {
        let wanted: Vec<_> = demands.iter().map(|(kind, ..)| *kind).chain(refused.iter().copied()).collect();
        let attributes = self.attributes(object, &wanted)?;
        if let Some((.., problem)) =
            demands.iter().find(|(kind, demanded, _)| flag(&attributes, *kind) != Some(*demanded))
        {
            return Err(self.wrong(key, problem));
        }
        if refused.iter().any(|kind| flag(&attributes, *kind) == Some(true)) {
            return Err(self.wrong(key, "has more uses than it was made for"));
        }
        let id = self.attributes(object, &[AttributeType::Id])?;
        if id != [Attribute::Id(key.into())] {
            return Err(self.wrong(key, "has another CKA_ID than it was made with"));
        }
        Ok(())
    }

    /// Both halves with their point, or `None` if there is neither.
    fn pair(
        &self,
        key: &str,
        demands: &[Demand],
        refused: &[AttributeType],
    ) -> Result<Option<(ObjectHandle, Vec<u8>)>, Fault> {
        let private = self.find(ObjectClass::PRIVATE_KEY, key)?;
        let public = self.find(ObjectClass::PUBLIC_KEY, key)?;
        let (private, public) = match (private, public) {
            (None, None) => return Ok(None),
            (Some(private), Some(public)) => (private, public),
            (Some(_), None) => return Err(self.wrong(key, "has lost its public half")),
            (None, Some(_)) => return Err(self.missing(key)),
        };
        self.check(key, private, demands, refused)?;
        for half in [private, public] {
            self.check_curve(key, half)?;
        }
        let point = match self.attributes(public, &[AttributeType::EcPoint])?.as_slice() {
            [Attribute::EcPoint(bytes)] => point(bytes),
            _ => None,
        };
        let point = point.ok_or_else(|| self.wrong(key, "has no point of P-256 (CKA_EC_POINT)"))?;
        Ok(Some((private, point)))
    }

    fn check_curve(&self, key: &str, half: ObjectHandle) -> Result<(), Fault> {
        let kind = self.attributes(half, &[AttributeType::KeyType, AttributeType::EcParams])?;
        if kind == [Attribute::KeyType(KeyType::EC), Attribute::EcParams(P256.into())] {
            Ok(())
        } else {
            Err(self.wrong(key, "is not on the curve P-256 (CKA_EC_PARAMS)"))
        }
    }

    /// Checked in full, or not there.
    pub(super) fn signing_key(&self, key: &str) -> Result<Option<SigningKey>, Fault> {
        let Some((handle, point)) = self.pair(key, &PRIVATE_DEMANDS, &PRIVATE_REFUSED)? else {
            return Ok(None);
        };
        let found = SigningKey { handle, point };
        found.check(self.session)?;
        Ok(Some(found))
    }

    /// The private half alone, checked but for what a signature shows.
    pub(super) fn signing_half(&self, key: &str) -> Result<ObjectHandle, Fault> {
        let half = self.find(ObjectClass::PRIVATE_KEY, key)?.ok_or_else(|| self.missing(key))?;
        self.check(key, half, &PRIVATE_DEMANDS, &PRIVATE_REFUSED)?;
        self.check_curve(key, half)?;
        Ok(half)
    }

    /// Checked in full, or not there.
    fn agreement_key(&self) -> Result<Option<AgreementKey>, Fault> {
        let Some((handle, point)) = self.pair(AGREEMENT, &AGREEMENT_DEMANDS, &AGREEMENT_REFUSED)? else {
            return Ok(None);
        };
        let found = AgreementKey { handle, point };
        found.check(self.session)?;
        Ok(Some(found))
    }

    fn agreement_key_or_new(&self) -> Result<AgreementKey, Fault> {
        if let Some(found) = self.agreement_key()? {
            return Ok(found);
        }
        self.make_pair(AGREEMENT, &[Attribute::Sign(false), Attribute::Derive(true)])?;
        self.agreement_key()?.ok_or_else(|| self.missing(AGREEMENT))
    }

    pub(super) fn found_or_made(&self, key: &str) -> Result<SigningKey, Fault> {
        if let Some(found) = self.signing_key(key)? {
            return Ok(found);
        }
        self.make_pair(key, &[Attribute::Sign(true), Attribute::Derive(false)])?;
        // A token that made something else than it was asked for is found out here.
        self.signing_key(key)?.ok_or_else(|| self.missing(key))
    }

    fn make_pair(&self, key: &str, uses: &[Attribute; 2]) -> Result<(), Fault> {
        let public = [
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(uses.contains(&Attribute::Sign(true))),
            Attribute::EcParams(P256.into()),
            Attribute::Label(key.into()),
            Attribute::Id(key.into()),
        ];
        let mut private = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::SignRecover(false),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Label(key.into()),
            Attribute::Id(key.into()),
        ];
        private.extend_from_slice(uses);
        self.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).map_err(fault)?;
        tracing::info!(token = self.token, key, "made a key in the token");
        Ok(())
    }

    /// Both halves, as many as there are.
    pub(super) fn destroy(&self, key: &str) -> Result<(), Fault> {
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            let template = [Attribute::Class(class), Attribute::Label(key.into())];
            for object in self.session.find_objects(&template).map_err(fault)? {
                self.session.destroy_object(object).map_err(fault)?;
            }
        }
        Ok(())
    }

    fn sealing_key(&self) -> Result<Option<ObjectHandle>, Fault> {
        let Some(found) = self.find(ObjectClass::SECRET_KEY, SEALING)? else { return Ok(None) };
        self.check(SEALING, found, &SEALING_DEMANDS, &SEALING_REFUSED)?;
        let kind = self.attributes(found, &[AttributeType::KeyType, AttributeType::ValueLen])?;
        match kind.as_slice() {
            [Attribute::KeyType(KeyType::AES), Attribute::ValueLen(length)] if **length == AES_KEY_BYTES => {
                Ok(Some(found))
            }
            _ => Err(self.wrong(SEALING, "is not an AES-256 key (CKA_VALUE_LEN)")),
        }
    }

    fn make_sealing_key(&self) -> Result<ObjectHandle, Fault> {
        let template = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Derive(false),
            Attribute::ValueLen(AES_KEY_BYTES.into()),
            Attribute::Label(SEALING.into()),
            Attribute::Id(SEALING.into()),
        ];
        self.session.generate_key(&Mechanism::AesKeyGen, &template).map_err(fault)?;
        tracing::info!(token = self.token, key = SEALING, "made a key in the token");
        self.sealing_key()?.ok_or_else(|| self.missing(SEALING))
    }
}

/// CKA_EC_POINT: a DER OCTET STRING with the point, and in some tokens the point itself.
fn point(bytes: &[u8]) -> Option<Vec<u8>> {
    let point = bytes.strip_prefix(&[0x04, 0x41]).filter(|rest| rest.len() == POINT_BYTES).unwrap_or(bytes);
    (point.len() == POINT_BYTES && point.first() == Some(&4)).then(|| point.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_with_and_without_their_wrapping() {
        let bare = [&[4][..], &[7; 64]].concat();
        let wrapped = [&[0x04, 0x41][..], &bare].concat();
        assert_eq!(point(&bare).unwrap(), bare);
        assert_eq!(point(&wrapped).unwrap(), bare);
        for bad in
            [&[][..], &bare[1..], &bare[..64], &wrapped[..66], &[&wrapped[..], &[0]].concat(), &[5; 65]]
        {
            assert_eq!(point(bad), None, "{bad:?}");
        }
    }
}
