use edgewarden_names::ModuleName;

use crate::error::KeystoreError;

/// Refuses what is not a label of `a-z 0-9 -`: a name becomes a part of a file name.
pub(crate) fn check(name: &str) -> Result<(), KeystoreError> {
    ModuleName::parse(name).map(drop).map_err(|_| {
        KeystoreError::Request(
            "a key's or sealed value's name has 1 to 63 characters of `a-z`, `0-9` and `-`",
        )
    })
}
