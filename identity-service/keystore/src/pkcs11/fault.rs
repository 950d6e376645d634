//! PKCS#11's return values (version 2.40, section 5.1) as a caller's errors.

use cryptoki::error::{Error, RvError};

use crate::error::KeystoreError;
pub(super) use crate::owner::Fault;

/// By value, for `map_err`.
#[expect(clippy::needless_pass_by_value, reason = "an error that is passed on is given away")]
pub(super) fn fault(error: Error) -> Fault {
    let Error::Pkcs11(value, function) = error else {
        return Fault::Final(KeystoreError::Token { call: "the library".into(), detail: error.to_string() });
    };
    let (call, detail) = (format!("C_{function:?}"), format!("{value:?}"));
    match value {
        // The session or the token is gone: a new session finds token and keys anew, and says what is missing.
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::SlotIdInvalid
        | RvError::CryptokiNotInitialized
        | RvError::UserNotLoggedIn
        | RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::SessionCount => Fault::Lost(format!("{call}: {detail}")),
        // Some libraries answer these to a moment's trouble, others for ever.
        RvError::GeneralError
        | RvError::FunctionFailed
        | RvError::DeviceError
        | RvError::DeviceMemory
        | RvError::HostMemory => Fault::Garbled(KeystoreError::Token { call, detail }),
        _ => Fault::Final(KeystoreError::Token { call, detail }),
    }
}
