//! The server, called by raw gRPC, so that a test may break each rule.

use crate::common;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{ID, Served, Source, client_over, request};
use edgewarden_names::Reason;
use edgewarden_workload_server::{self as server, ARRIVING_MAX, CALLS_MAX, CONNECTIONS_MAX, STREAMS_MAX};
use edgewarden_workload_wire::codec::ProstCodec;
use edgewarden_workload_wire::workloadapi::{
    JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509svidRequest,
    X509svidResponse,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getppid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Streaming};

#[tokio::test]
async fn the_security_header_is_there_once_and_true() {
    let served = Served::new();
    let mut client = served.client().await;
    for (values, allowed) in [
        (&["true"][..], true),
        (&[], false),
        (&["false"], false),
        (&["TRUE"], false),
        (&["1"], false),
        (&[""], false),
        (&["true,true"], false),
        (&["true", "true"], false),
        (&["true", "false"], false),
        (&["false", "true"], false),
    ] {
        let with_header = |mut request: Request<()>| {
            for value in values {
                request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
            }
            request.metadata().clone()
        };
        let metadata = with_header(Request::new(()));
        let mut x509 = Request::new(X509svidRequest {});
        *x509.metadata_mut() = metadata.clone();
        let x509 = client.fetch_x509svid(x509).await.map(drop);
        let mut bundles = Request::new(X509BundlesRequest {});
        *bundles.metadata_mut() = metadata.clone();
        let bundles = client.fetch_x509_bundles(bundles).await.map(drop);
        let mut jwt = Request::new(JwtsvidRequest::default());
        *jwt.metadata_mut() = metadata;
        let jwt = client.fetch_jwtsvid(jwt).await.map(drop);
        if allowed {
            assert!(x509.is_ok() && bundles.is_ok());
            // It asks for no audience.
            assert!(jwt.unwrap_err().message().starts_with("jwt.audience: "));
        } else {
            for answer in [x509, bundles, jwt] {
                let status = answer.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{values:?}");
                assert!(status.message().starts_with("caller.header: "), "{status}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_says_its_reason_and_its_kind() {
    let served = Served::new();
    let mut client = served.client().await;
    for (callers, identity, code) in [
        (Some(Reason::CallerNotModule), None, Code::PermissionDenied),
        (Some(Reason::CallerUnknown), None, Code::PermissionDenied),
        (None, Some(Reason::IdentityUnavailable), Code::Unavailable),
        (None, Some(Reason::AttestFailed), Code::Unavailable),
        (Some(Reason::CallerNotModule), Some(Reason::IdentityUnavailable), Code::PermissionDenied),
    ] {
        *served.source.refuse_callers.lock().unwrap() = callers;
        *served.source.refuse_identity.lock().unwrap() = identity;
        let reason = callers.or(identity).unwrap();
        let svid = client.fetch_x509svid(request(X509svidRequest {})).await.map(drop);
        let bundles = client.fetch_x509_bundles(request(X509BundlesRequest {})).await.map(drop);
        for answer in [svid, bundles] {
            let status = answer.unwrap_err();
            assert_eq!(status.code(), code, "{reason}");
            assert_eq!(status.message(), format!("{reason}: the test says so"));
        }
    }
    assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn streams_agree_and_rotate_together() {
    let served = Served::new();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(
            served.client().await.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner(),
        );
    }
    let mut earlier = None;
    for _ in 0..3 {
        let mut messages = Vec::new();
        for stream in &mut streams {
            messages.push(stream.message().await.unwrap().unwrap());
        }
        assert!(messages.iter().all(|message| *message == messages[0]));
        let [svid] = messages[0].svids.as_slice() else { panic!("one identity") };
        assert_eq!(svid.spiffe_id, ID);
        assert_eq!(svid.bundle, served.source.authority.der);
        assert_ne!(earlier.as_ref(), Some(&messages[0]));
        // A stream that opens later gets the same one.
        let mut later =
            served.client().await.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
        assert_eq!(later.message().await.unwrap().unwrap(), messages[0]);
        earlier = messages.pop();
        served.source.rotate();
    }
}

#[tokio::test]
async fn a_bundle_is_sent_again_only_when_it_is_another() {
    let served = Served::new();
    let mut client = served.client().await;
    let mut bundles = client.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap().into_inner();
    let mut svids = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    let domain = "spiffe://plant.example";
    let first = bundles.message().await.unwrap().unwrap();
    assert_eq!(first.bundles.len(), 1);
    assert_eq!(first.bundles[domain], served.source.authority.der);
    svids.message().await.unwrap().unwrap();

    served.source.rotate();
    svids.message().await.unwrap().unwrap();
    let mut other = common::issue(&served.source.authority, ID);
    Arc::get_mut(&mut other).unwrap().bundle_der.push(common::root().der);
    served.source.give(Some(Arc::clone(&other)));
    // The rotation in between is not seen.
    assert_eq!(bundles.message().await.unwrap().unwrap().bundles[domain], other.bundle_der.concat());
}

#[tokio::test]
async fn a_caller_that_is_no_longer_allowed_gets_no_more() {
    let served = Served::new();
    let mut stream =
        served.client().await.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    served.source.rotate();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(stream.message().await.ok().flatten(), None);
}

#[tokio::test]
async fn streams_end_with_the_instance() {
    for gone in [false, true] {
        let served = Served::new();
        let mut client = served.client().await;
        let mut svids = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
        let mut bundles =
            client.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap().into_inner();
        svids.message().await.unwrap().unwrap();
        bundles.message().await.unwrap().unwrap();
        if gone {
            drop(served.source.current.lock().unwrap().take());
        } else {
            served.source.give(None);
        }
        for status in [svids.message().await.unwrap_err(), bundles.message().await.unwrap_err()] {
            assert_eq!(status.code(), Code::Unavailable);
            assert_eq!(status.message(), "identity.unavailable: the instance has ended");
        }
        assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
    }
}

/// A client that is told why goes elsewhere or comes again; one that is cut off must guess.
#[tokio::test]
async fn every_open_call_is_told_that_the_server_stops() {
    let mut served = Served::new();
    let mut client = served.client().await;
    let mut svids = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    let mut bundles = client.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap().into_inner();
    svids.message().await.unwrap().unwrap();
    bundles.message().await.unwrap().unwrap();
    // A request whose end does not come, and two connections whose other end does not listen: one has asked nothing.
    let mut caller = tonic::client::Grpc::new(served.channel().await);
    let unanswered = tokio::spawn(async move {
        caller.ready().await.unwrap();
        let message = request(futures_util::stream::pending::<ValidateJwtsvidRequest>());
        let path = PathAndQuery::from_static("/SpiffeWorkloadAPI/ValidateJWTSVID");
        let codec = ProstCodec::<ValidateJwtsvidRequest, ValidateJwtsvidResponse>::default();
        caller.client_streaming(message, path, codec).await.unwrap_err()
    });
    let idle = UnixStream::connect(&served.socket).await.unwrap();
    let mut deaf = UnixStream::connect(&served.socket).await.unwrap();
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for connection in [&idle, &deaf] {
        // The server's settings: it has taken the connection.
        connection.readable().await.unwrap();
    }
    served.end().await;
    let statuses =
        [svids.message().await.unwrap_err(), bundles.message().await.unwrap_err(), unanswered.await.unwrap()];
    for status in statuses {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(status.message(), "identity.unavailable: the service is stopping");
    }
    for mut connection in [idle, deaf] {
        // Closed, with whatever was said before.
        connection.read_to_end(&mut Vec::new()).await.ok();
    }
    assert!(UnixStream::connect(&served.socket).await.is_err());
}

/// Descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The rest of the budget's streams, over as few connections as it takes.
async fn open_streams(served: &Served) -> Vec<Streaming<X509svidResponse>> {
    let on_each = usize::try_from(CALLS_MAX).unwrap();
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX / on_each {
        let mut client = served.client().await;
        for _ in 0..on_each {
            let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
            stream.message().await.unwrap().unwrap();
            open.push(stream);
        }
    }
    open
}

/// Five hundred streams of a module are two connections, not five hundred descriptors; all follow a rotation.
#[tokio::test]
async fn many_streams_share_a_few_connections_and_descriptors() {
    let before = descriptors();
    let served = Served::new();
    let mut open = open_streams(&served).await;
    assert!(open.len() >= 500);
    // Other tests run beside this one.
    let taken = descriptors().saturating_sub(before);
    assert!(taken < 250, "{taken} descriptors for {} streams", open.len());
    let rotated = served.source.rotate();
    for stream in &mut open {
        let svid = stream.message().await.unwrap().unwrap().svids.remove(0);
        assert_eq!(svid.x509_svid, rotated.chain_der.concat());
    }
}

/// A module that holds and floods all that it can is not noticed by another.
#[tokio::test]
async fn a_module_at_its_limits_leaves_another_one_alone() {
    let (noisy, quiet) = (Served::new(), Served::new());
    let _open = open_streams(&noisy).await;
    let mut held = Vec::new();
    for _ in 2..CONNECTIONS_MAX {
        held.push(UnixStream::connect(&noisy.socket).await.unwrap());
    }
    let socket = noisy.socket.clone();
    let flood = tokio::spawn(async move {
        loop {
            drop(UnixStream::connect(&socket).await);
        }
    });
    for _ in 0..100 {
        let mut stream =
            quiet.client().await.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
    }
    assert!(!flood.is_finished());
    flood.abort();
}

/// However many calls and streams a module has: to others it is one in the line.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_call_of_a_socket_at_a_time_is_worked_on() {
    let served = Served::new();
    let (mut clients, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut client = served.client().await;
        let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        streams.push(stream);
        clients.push(client);
    }
    served.source.judging_takes_time.store(true, Ordering::SeqCst);
    served.source.rotate();
    let calls: Vec<_> = clients
        .iter()
        .flat_map(|client| std::iter::repeat_n(client, 8))
        .map(|client| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let message = JwtsvidRequest { audience: vec!["records".into()], ..Default::default() };
                client.fetch_jwtsvid(request(message)).await.map(drop)
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    for mut stream in streams {
        stream.message().await.unwrap().unwrap();
    }
    assert_eq!(served.source.judged_beside_others.load(Ordering::SeqCst), 0);
}

/// Anybody on the machine can connect, and begin requests that never end.
#[tokio::test]
async fn strangers_do_not_take_the_places_of_the_modules_requests() {
    let served = Served::new();
    served.source.strangers.store(true, Ordering::SeqCst);
    let mut connection = UnixStream::connect(&served.socket).await.unwrap();
    begin_requests(&mut connection, ARRIVING_MAX).await;
    served.source.strangers.store(false, Ordering::SeqCst);
    let mut client = served.client().await;
    let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    // None of the stranger's requests has been answered or cut off: their end was not waited for.
    let kinds = ping(&mut connection).await;
    assert!(!kinds.contains(&HEADERS) && !kinds.contains(&RESET), "{kinds:?}");
}

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;

/// Returns when the server has answered, and so has read all frames before: the kinds of the frames that came.
async fn ping(connection: &mut UnixStream) -> Vec<u8> {
    // On stream 0, which is the connection.
    connection.write_all(&[0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&PING) {
        // The length has 24 bits, the kind 8.
        let head = connection.read_u32().await.unwrap();
        let [kind, ..] = head.to_le_bytes();
        let length = usize::try_from(head >> 8).unwrap();
        kinds.push(kind);
        connection.read_exact(&mut vec![0; 5 + length]).await.unwrap();
    }
    kinds
}

/// Requests without an end, which the server has read when this returns.
async fn begin_requests(connection: &mut UnixStream, count: usize) {
    const END_HEADERS: u8 = 4;
    let field = |name: &str, value: &str| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    };
    let block = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
        field("workload.spiffe.io", "true"),
    ]
    .concat();
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for number in 0..count {
        let mut headers = frame(u32::try_from(block.len()).unwrap(), HEADERS, END_HEADERS, &block);
        let stream = 2 * u32::try_from(number).unwrap() + 1;
        headers.get_mut(5..9).unwrap().copy_from_slice(&stream.to_be_bytes());
        connection.write_all(&headers).await.unwrap();
    }
    ping(connection).await;
}

/// A request that is begun and never ended holds its place for a while, and no longer.
#[tokio::test]
async fn requests_that_never_end_are_ended() {
    let served = Served::new();
    let mut connection = UnixStream::connect(&served.socket).await.unwrap();
    begin_requests(&mut connection, ARRIVING_MAX).await;
    // What comes now waits for the first that is ended.
    let mut client = served.client().await;
    let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_have_a_budget() {
    let served = Served::new();
    let open = open_streams(&served).await;
    let mut last = served.client().await;
    assert_eq!(usize::try_from(served.source.streams.load(Ordering::SeqCst)).unwrap(), STREAMS_MAX);
    for _ in 0..3 {
        let status = last.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("caller.budget: "), "{status}");
    }
    drop(open);
    // The server learns of it a moment later.
    while served.source.streams.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    let mut stream = last.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn connections_have_a_budget() {
    let served = Served::new();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut connection = UnixStream::connect(&served.socket).await.unwrap();
        // The server's HTTP/2 settings: it has taken the connection.
        connection.read_exact(&mut [0; 9]).await.unwrap();
        held.push(connection);
    }
    let mut refused = UnixStream::connect(&served.socket).await.unwrap();
    assert!(!matches!(refused.read(&mut [0; 9]).await, Ok(1..)));
    held.clear();
    loop {
        let mut connection = UnixStream::connect(&served.socket).await.unwrap();
        if matches!(connection.read(&mut [0; 9]).await, Ok(1..)) {
            break;
        }
    }
}

/// Anybody on the machine can connect: whoever is no caller of this socket cannot keep its callers out.
#[tokio::test]
async fn strangers_do_not_take_the_connections_of_the_callers() {
    let served = Served::new();
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    let mut held = Vec::new();
    for _ in 0..server::STRANGERS_MAX {
        let mut connection = UnixStream::connect(&served.socket).await.unwrap();
        connection.read_exact(&mut [0; 9]).await.unwrap();
        held.push(connection);
    }
    for _ in 0..500 {
        let mut refused = UnixStream::connect(&served.socket).await.unwrap();
        assert!(!matches!(refused.read(&mut [0; 9]).await, Ok(1..)));
    }
    *served.source.refuse_callers.lock().unwrap() = None;
    let mut client = served.client().await;
    let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn who_came_before_its_start_was_known_is_not_cut_off() {
    let served = Served::new();
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    let mut client = served.client().await;
    assert!(client.fetch_x509svid(request(X509svidRequest {})).await.is_err());
    *served.source.refuse_callers.lock().unwrap() = None;
    let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    tokio::time::sleep(server::STRANGER_LIFETIME * 2).await;
    served.source.rotate();
    stream.message().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stranger_that_says_nothing_is_cut_off() {
    let served = Served::new();
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    let mut silent = UnixStream::connect(&served.socket).await.unwrap();
    silent.read_exact(&mut [0; 9]).await.unwrap();
    assert!(silent.read_to_end(&mut Vec::new()).await.is_ok());
}

/// An HTTP/2 frame (RFC 9113 section 4.1) that says it has `length` bytes.
fn frame(length: u32, kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = length.to_be_bytes();
    [&length[..], &[kind, flags, 0, 0, 0, 1], body].concat()
}

#[tokio::test]
async fn frames_without_end_end_the_connection() {
    const CONTINUATION: u8 = 9;
    const DATA: u8 = 0;
    let block = [0; 16 * 1024];
    // A header block that is never complete; and a frame that is larger than any may be.
    let endless = frame(16 * 1024, CONTINUATION, 0, &block);
    for (first, then) in
        [(frame(16 * 1024, HEADERS, 0, &block), endless), (frame(0xff_ffff, DATA, 0, &block), block.to_vec())]
    {
        let served = Served::new();
        let mut connection = UnixStream::connect(&served.socket).await.unwrap();
        connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut sent = connection.write_all(&first).await;
        for _ in 0..10_000 {
            if sent.is_err() {
                break;
            }
            sent = connection.write_all(&then).await;
        }
        assert!(sent.is_err(), "160 MiB were taken");
    }
}

#[tokio::test]
async fn a_request_has_a_size_limit() {
    let served = Served::new();
    let mut client = served.client().await;
    let large = ValidateJwtsvidRequest { svid: "x".repeat(server::REQUEST_BYTES_MAX), ..Default::default() };
    let status = client.validate_jwtsvid(request(large)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let mut large = request(X509svidRequest {});
    large.metadata_mut().insert("x-large", "x".repeat(20 * 1024).parse().unwrap());
    // The refusal is HTTP's own (431), which gRPC tells only at the end of the stream.
    let mut stream = client.fetch_x509svid(large).await.unwrap().into_inner();
    assert!(stream.message().await.is_err());
    assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_and_connections() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let source = Source::new();
    let serving = tokio::spawn(server::serve(listener, Arc::<Source>::clone(&source), async {
        drop(stopped.await);
    }));
    let mut client = client_over(UnixStream::connect(&socket).await.unwrap()).await;
    let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let mut silent = UnixStream::connect(&socket).await.unwrap();
    silent.read_exact(&mut [0; 9]).await.unwrap();
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(stream.message().await.is_err());
    assert!(silent.read_to_end(&mut Vec::new()).await.is_ok());
    while source.streams.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

const SOCKET: &str = "EDGEWARDEN_TEST_SOCKET";

fn this_test_binary(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("--exact").arg(format!("server::{test}")).args(["--ignored", "--nocapture"]);
    command
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_connects_and_hands_its_connection_on() {
    let connection = StdStream::connect(std::env::var(SOCKET).unwrap()).unwrap();
    let connection = Stdio::from(OwnedFd::from(connection));
    // Kills us while it runs, so this is where we end.
    this_test_binary("grandchild_speaks").stdin(connection).status().unwrap();
}

#[tokio::test]
#[ignore = "run by another test in a process of its own"]
async fn grandchild_speaks() {
    let connection = StdStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    connection.set_nonblocking(true).unwrap();
    let mut client = client_over(UnixStream::from_std(connection).unwrap()).await;
    let mut stream = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    // To the kernel, our parent is at the other end, and it lives.
    stream.message().await.unwrap().unwrap();

    kill(getppid(), Signal::SIGKILL).unwrap();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().starts_with("caller.unknown: "), "{status}");
    let status = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let status = client.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_worth_nothing_without_the_process_that_made_it() {
    let served = Served::new();
    let socket = served.socket.clone();
    let child = tokio::task::spawn_blocking(move || {
        // Ends when the grandchild has ended, which holds the output too.
        this_test_binary("child_connects_and_hands_its_connection_on").env(SOCKET, socket).output().unwrap()
    });
    let output = child.await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}
