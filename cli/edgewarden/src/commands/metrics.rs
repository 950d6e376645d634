//! `edgewarden metrics`: what `identityd` tells a monitoring system, as it tells it.

use std::time::Duration;

use edgewarden_metrics::door::SOCKET;
use edgewarden_protocol::layout::Layout;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::exit::Problem;

const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(layout: &Layout) -> Result<(), Problem> {
    let path = layout.identity_run().join(SOCKET);
    let mut stream = UnixStream::connect(&path).await.map_err(|error| {
        Problem::text(format!(
            "cannot reach `{}`: {error}\nhint: does the gateway run? start it with `edgewarden up`",
            path.display()
        ))
    })?;
    let mut answer = String::new();
    let exchange = async {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await
    };
    match timeout(PATIENCE, exchange).await {
        Ok(read) => read.map_err(Problem::failed)?,
        Err(elapsed) => return Err(Problem::failed(elapsed)),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(Problem::text(format!(
            "identityd answered `{}`",
            head.lines().next().unwrap_or_default()
        )));
    }
    print!("{body}");
    Ok(())
}
