//! The upstream queue.

use std::time::{Duration, Instant};

use edgewarden_queue::Queue;
use edgewarden_tests::Failure;
use zeroize::Zeroizing;

use crate::common::{failed, runtime};
use crate::number::{Number, Target};

/// Messages of 256 bytes, each on disk before it counts, 64 at a time.
pub fn queue() -> Result<Number, Failure> {
    const AT_A_TIME: u32 = 64;
    let folder = tempfile::tempdir()?;
    let rates = runtime()?.block_on(async {
        let queue =
            Queue::open(folder.path(), Zeroizing::new([3; 32]), 256 * 1024 * 1024).await.map_err(failed)?;
        let mut samples = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            let mut appending = Vec::new();
            for _ in 0..AT_A_TIME {
                appending.push(queue.submit(vec![7; 256]).await.map_err(failed)?);
            }
            for append in appending {
                append.done().await.map_err(failed)?;
            }
            samples.push(begun.elapsed());
        }
        queue.close().await;
        Ok::<_, Failure>(samples)
    })?;
    let rate = |batch: Duration| f64::from(AT_A_TIME) / batch.as_secs_f64();
    let values = rates.into_iter().map(rate).collect();
    Ok(Number::of_values("queue, durable appends, 64 at a time", "1/s", Target::Rate, values))
}
