//! A module in Rust: its identity, a token, and the next certificate, with the crate `spiffe`.
//!
//! ```text
//! cargo run -- AUDIENCE
//! ```
//!
//! `SPIFFE_ENDPOINT_SOCKET` names the socket; inside a module it is set.

use std::error::Error;
use std::process::ExitCode;

use spiffe::{WorkloadApiClient, X509Source, X509Svid};
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// Serial number and end of the module's certificate, the first of its chain.
fn facts(svid: &X509Svid) -> Result<(String, String), Box<dyn Error>> {
    let leaf = svid.cert_chain().first().ok_or("a chain without a certificate")?;
    let (_, leaf) = X509Certificate::from_der(leaf.as_bytes())?;
    Ok((leaf.serial.to_str_radix(16), leaf.validity().not_after.to_datetime().format(&Rfc3339)?))
}

/// Prints the identity, a token for `audience` and the trusted domains, then waits for the next certificate.
pub async fn run(audience: &str) -> Result<(), Box<dyn Error>> {
    let client = WorkloadApiClient::connect_env().await?;
    // Once, to be refused at once if this process is not the module's; a source would try again and again.
    client.fetch_x509_svid().await?;

    // A source keeps the newest certificate, key and roots. For TLS connections see the crate `spiffe-rustls`, which asks
    // it at each handshake.
    let source = X509Source::new().await?;
    let mut updates = source.updated();
    let svid = source.svid()?;
    let (serial, end) = facts(&svid)?;
    println!("identity: {}", svid.spiffe_id());
    println!("serial: {serial}");
    println!("ends: {end}");

    // A token that tells `audience` who we are. Fetch one whenever it is needed: the gateway keeps them.
    let token = client.fetch_jwt_svid([audience], None).await?;
    // What the other side does: it has the token checked for its own name.
    let judged = client.validate_jwt_token(audience, token.token()).await?;
    println!("token: {} for {audience}", judged.spiffe_id());

    for (domain, _) in source.bundle_set()?.iter() {
        println!("trusts: {domain}");
    }

    // The gateway renews a certificate at half of its life.
    println!("waiting for the next certificate");
    let next = loop {
        let (next, _) = facts(&*source.svid()?)?;
        if next != serial {
            break next;
        }
        updates.changed().await?;
    };
    println!("serial: {next}");
    source.shutdown().await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(audience) = std::env::args().nth(1) else {
        eprintln!("usage: workload-client AUDIENCE");
        return ExitCode::from(2);
    };
    match run(&audience).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("refused: {error}");
            ExitCode::FAILURE
        }
    }
}
