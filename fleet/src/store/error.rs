//! Failures of the store, by SQLite's own word on them.

use edgewarden_names::ErrorChain;

/// `CORRUPT` and `NOTADB`.
const DAMAGE_CODES: [u32; 2] = [11, 26];

/// SQLite's primary result codes for a disk that does not do as it is asked: `READONLY`, `IOERR`, `FULL`, `CANTOPEN`.
const DISK_CODES: [u32; 4] = [8, 10, 13, 14];

/// Failure of the database, or contents that are not this fleet's or not what was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database failed")]
    Sql(#[from] sqlx::Error),
    #[error("the database holds something that does not read back: {0}")]
    Content(String),
    #[error("the database is damaged: {0}; restore a backup (docs/operations.md, \"A damaged database\")")]
    Damaged(String),
    #[error(
        "the database is another fleet's: it was made with another root than `root.pem`; put back the one that belongs to it"
    )]
    OtherFleet,
    #[error("the database has schema version {found}; this program knows up to {known}")]
    Newer { found: i64, known: usize },
}

impl StoreError {
    /// `true` when the disk is why: full, failing or read-only. Trying again succeeds once it is not.
    pub fn is_the_disk(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Io(_)))
            || self.primary_code().is_some_and(|code| DISK_CODES.contains(&code))
    }

    fn primary_code(&self) -> Option<u32> {
        let Self::Sql(sqlx::Error::Database(error)) = self else { return None };
        // An extended code has the primary one in its lowest byte.
        error.code()?.parse::<u32>().ok().map(|code| code & 0xff)
    }

    pub(super) fn or_damage(self) -> Self {
        let unreadable = matches!(
            self,
            Self::Sql(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) | Self::Content(_)
        );
        if unreadable || self.primary_code().is_some_and(|code| DAMAGE_CODES.contains(&code)) {
            return Self::Damaged(ErrorChain(&self).to_string());
        }
        self
    }
}
