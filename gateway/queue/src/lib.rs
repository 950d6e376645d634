//! The upstream queue.

use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the queue is at its byte cap")]
    Full,
}

/// One stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub sequence: u64,
    pub body: Vec<u8>,
}

/// A handle; clones share one queue.
#[derive(Debug, Clone)]
pub struct Queue {
    id: String,
}

impl Queue {
    pub async fn open(_folder: &Path, _key: &[u8; 32], _bytes_max: u64) -> Result<Self, QueueError> {
        Err(QueueError::Full)
    }
    /// 16 bytes, hexadecimal: changes when a queue is made anew.
    pub fn id(&self) -> &str {
        &self.id
    }
    /// Resolves when the record is on disk.
    pub async fn append(&self, _body: Vec<u8>) -> Result<u64, QueueError> {
        Err(QueueError::Full)
    }
    /// The oldest records that are not acknowledged.
    pub async fn read(&self, _records_max: usize, _bytes_max: usize) -> Result<Vec<Record>, QueueError> {
        Err(QueueError::Full)
    }
    pub async fn acknowledge(&self, _through: u64) -> Result<(), QueueError> {
        Err(QueueError::Full)
    }
}
