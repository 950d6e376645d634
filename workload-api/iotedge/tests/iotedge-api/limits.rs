//! Limits of what callers can make the server hold or wait for. The waits are the product's own, so these tests take
//! seconds.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Served, get, parse, post, rest};
use edgewarden_iotedge_api::BODY_BYTES_MAX;
use edgewarden_iotedge_api::server::{CALLS_MAX, CONNECTIONS_MAX, STRANGERS_MAX};
use edgewarden_names::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

const SIGN: &str = "/modules/alerts/genid/7/sign";
const SIGN_BODY: &str = r#"{"keyId":"primary","algo":"HMACSHA256","data":"aGk="}"#;

/// The head of a request whose body is yet to come.
fn head(more: &str) -> String {
    format!("POST {SIGN}?{} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n\r\n", common::VERSION)
}

#[tokio::test]
async fn a_body_has_a_largest_size_however_it_is_sent() {
    let served = Served::new();
    let padded = |size: usize| SIGN_BODY.to_owned() + &" ".repeat(size - SIGN_BODY.len());
    assert_eq!(served.post(SIGN, &padded(BODY_BYTES_MAX)).await.0, 200);
    assert_eq!(served.post(SIGN, &padded(BODY_BYTES_MAX + 1)).await.0, 413);
    // Refused by what is declared, before it comes.
    let mut stream = served.connect().await;
    stream.write_all(head("Content-Length: 18446744073709551614").as_bytes()).await.unwrap();
    assert!(matches!(parse(&rest(&mut stream).await).0, 400 | 413 | 431));

    let chunk = format!("{:x}\r\n{}\r\n", 4096, " ".repeat(4096));
    for (name, pieces) in [
        ("chunks without end", chunk.clone()),
        ("chunks of one byte with long extensions", format!("1;{}\r\n \r\n", "x".repeat(1000))),
    ] {
        let mut stream = served.connect().await;
        stream.write_all(head("Transfer-Encoding: chunked").as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let write = async {
            // Until the server has had enough.
            while writer.write_all(pieces.as_bytes()).await.is_ok() {}
        };
        let read = async {
            let mut bytes = Vec::new();
            drop(reader.read_to_end(&mut bytes).await);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let answer = tokio::join!(write, read).1;
        assert!(matches!(parse(&answer).0, 0 | 400 | 413), "{name}: {answer}");
    }
    let small = format!("{:x}\r\n{SIGN_BODY}\r\n0\r\n\r\n", SIGN_BODY.len());
    let request = head("Connection: close\r\nTransfer-Encoding: chunked") + &small;
    assert_eq!(parse(&served.raw(request.as_bytes()).await).0, 200);
}

#[tokio::test]
async fn headers_have_a_largest_number_and_size() {
    let served = Served::new();
    let one_long = get("/modules").replace("Host:", &format!("X: {}\r\nHost:", "x".repeat(10_000)));
    let many = get("/modules").replace("Host:", &format!("{}Host:", "X: y\r\n".repeat(40)));
    let path = get(&format!("/modules/{}", "a".repeat(70_000)));
    for request in [one_long, many, path] {
        let status = parse(&served.raw(request.as_bytes()).await).0;
        assert!(matches!(status, 0 | 414 | 431), "{status}");
    }
}

#[tokio::test]
async fn who_is_slow_is_cut_off() {
    let served = Served::new();
    let slow = async |sent: String, expected: u16| {
        let mut stream = served.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        // It ends, which is what is tested; how long it takes is the server's.
        assert_eq!(parse(&rest(&mut stream).await).0, expected, "{sent}");
    };
    let dripping = async {
        let mut stream = served.connect().await;
        stream.write_all(b"GET /modules?api-version=2018-06-28 HTTP/1.1\r\n").await.unwrap();
        while stream.write_all(b"X: y\r\n").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        }
    };
    tokio::join!(
        slow(String::new(), 0),
        slow("GET /modules".into(), 0),
        slow("GET /modules?api-version=2018-06-28 HTTP/1.1\r\nHost: lo".into(), 0),
        // Kept after an answer, and then silent.
        slow(get("/modules").replace("Connection: close\r\n", ""), 200),
        slow(head("Content-Length: 10") + "{", 400),
        slow(head("Transfer-Encoding: chunked") + "5\r\n{", 400),
        dripping,
    );
    assert_eq!(served.get("/modules").await.0, 200);
}

/// True when the connection was closed without an answer.
async fn is_turned_away(stream: &mut UnixStream) -> bool {
    drop(stream.write_all(get("/modules").as_bytes()).await);
    rest(stream).await.is_empty()
}

#[tokio::test]
async fn connections_are_counted_and_strangers_take_none_of_the_modules() {
    let served = Served::new();
    let held = async |count: usize| {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = served.connect().await;
            // Answered, so that it is counted by now.
            let kept = get("/modules").replace("Connection: close\r\n", "");
            stream.write_all(kept.as_bytes()).await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            streams.push(stream);
        }
        streams
    };
    let own = held(CONNECTIONS_MAX).await;
    assert!(is_turned_away(&mut served.connect().await).await);
    served.owner.strangers.store(true, Ordering::SeqCst);
    let strangers = held(STRANGERS_MAX).await;
    assert!(is_turned_away(&mut served.connect().await).await);
    served.owner.strangers.store(false, Ordering::SeqCst);
    drop(own);
    // Room again as soon as the server has seen them go.
    while is_turned_away(&mut served.connect().await).await {}
    // Strangers are not kept, whatever they do.
    for mut stream in strangers {
        rest(&mut stream).await;
    }
}

#[tokio::test]
async fn calls_are_counted_and_who_hangs_up_does_not_make_room() {
    let served = Served::new();
    served.owner.close_gate();
    for expected in 1..=CALLS_MAX {
        let mut stream = served.connect().await;
        stream.write_all(post(SIGN, SIGN_BODY).as_bytes()).await.unwrap();
        while served.owner.inside.load(Ordering::SeqCst) < expected {
            tokio::task::yield_now().await;
        }
        drop(stream);
    }
    let (status, text) = served.post(SIGN, SIGN_BODY).await;
    assert_eq!(status, 429);
    assert!(text.contains(Reason::CallerBudget.code()), "{text}");
    served.owner.open_gate();
    while served.post(SIGN, SIGN_BODY).await.0 == 429 {}
    assert_eq!(served.post(SIGN, SIGN_BODY).await.0, 200);
}

/// Many modules whose calls stand still take the threads that are theirs, and none beyond; what waits is answered later.
#[tokio::test]
async fn all_sockets_together_have_so_many_threads() {
    let threads = Arc::new(Semaphore::new(CALLS_MAX + 1));
    let (one, other) = (Served::beside(&threads), Served::beside(&threads));
    let mut waiting = Vec::new();
    for served in [&one, &other] {
        served.owner.close_gate();
        for _ in 0..CALLS_MAX {
            let mut stream = served.connect().await;
            stream.write_all(post(SIGN, SIGN_BODY).as_bytes()).await.unwrap();
            waiting.push(stream);
        }
    }
    let inside = || one.owner.inside.load(Ordering::SeqCst) + other.owner.inside.load(Ordering::SeqCst);
    while inside() <= CALLS_MAX {
        tokio::task::yield_now().await;
    }
    // Time for one more to get in where it must not.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(inside(), CALLS_MAX + 1);
    one.owner.open_gate();
    other.owner.open_gate();
    for mut stream in waiting {
        assert_eq!(parse(&rest(&mut stream).await).0, 200);
    }
}

/// A keystore that stands still keeps nobody from what needs none, and who waits for it is told.
#[tokio::test]
async fn who_waits_for_a_thread_is_told_in_time_and_others_do_not_wait() {
    let served = Served::beside(&Arc::new(Semaphore::new(0)));
    let mut waiting = served.connect().await;
    waiting.write_all(post(SIGN, SIGN_BODY).as_bytes()).await.unwrap();
    for path in ["/trust-bundle", "/modules"] {
        assert_eq!(served.get(path).await.0, 200, "{path}");
    }
    let (status, text) = parse(&rest(&mut waiting).await);
    assert_eq!(status, 429);
    assert!(text.contains(Reason::Busy.code()), "{text}");
}
