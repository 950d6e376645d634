//! Meaning of HTTP answers: refusals in a table, and a few that are not.

use crate::common;

use std::sync::LazyLock;
use std::time::Duration;

use common::{Message, NOW, site_root};
use edgewarden_est::wire::{
    self, Answer, BODY_BYTES_MAX, EstLabel, Question, RETRY_AFTER_MAX, RETRY_AFTER_MIN, Reply,
};
use edgewarden_est::{Operation, Severity};
use edgewarden_names::Reason;
use proptest::prelude::*;

const ENROLL: Question = Question::Certificate(Operation::Enroll);

fn good() -> Reply {
    static DER: LazyLock<Vec<u8>> = LazyLock::new(|| Message::of(&[site_root("root").der]).der());
    Reply {
        status: 200,
        content_type: vec!["application/pkcs7-mime; smime-type=certs-only".into()],
        transfer_encoding: vec!["base64".into()],
        retry_after: vec![],
        body: wire::request_body(&DER).into_bytes(),
    }
}

fn status(status: u16, retry_after: &[&str]) -> Reply {
    Reply { status, retry_after: retry_after.iter().map(|&text| text.to_owned()).collect(), ..good() }
}

fn spoilt(change: impl FnOnce(&mut Reply)) -> Reply {
    let mut reply = good();
    change(&mut reply);
    reply
}

#[test]
fn what_is_not_an_answer_is_refused() {
    use Reason::{EstAnswer, EstAuthorization, EstRejected, EstUnavailable};
    let html = spoilt(|reply| {
        reply.content_type = vec!["text/html; charset=utf-8".into()];
        reply.body = b"<html><h1>It works!</h1></html>".to_vec();
    });
    let cases = [
        ("an HTML page with 200", html, EstAnswer, true),
        ("HTML that says it is PKCS#7", spoilt(|r| r.body = b"<html>".to_vec()), EstAnswer, true),
        ("no content type", spoilt(|r| r.content_type = vec![]), EstAnswer, true),
        (
            "two content types",
            spoilt(|r| r.content_type.push("application/pkcs7-mime".into())),
            EstAnswer,
            true,
        ),
        (
            "a wrong content type",
            spoilt(|r| r.content_type = vec!["application/pkix-cert".into()]),
            EstAnswer,
            true,
        ),
        (
            "another smime-type",
            spoilt(|r| {
                r.content_type = vec!["application/pkcs7-mime; smime-type=server-generated-key".into()];
            }),
            EstAnswer,
            true,
        ),
        ("binary", spoilt(|r| r.transfer_encoding = vec!["binary".into()]), EstAnswer, true),
        (
            "quoted-printable",
            spoilt(|r| r.transfer_encoding = vec!["quoted-printable".into()]),
            EstAnswer,
            true,
        ),
        ("two encodings", spoilt(|r| r.transfer_encoding.push("base64".into())), EstAnswer, true),
        ("an empty body", spoilt(|r| r.body = vec![]), EstAnswer, true),
        ("not base64", spoilt(|r| r.body = vec![0x30, 0x82, 0xff]), EstAnswer, true),
        (
            "PEM",
            spoilt(|r| r.body = b"-----BEGIN PKCS7-----\nAAAA\n-----END PKCS7-----".to_vec()),
            EstAnswer,
            true,
        ),
        ("too long", spoilt(|r| r.body = vec![b'A'; BODY_BYTES_MAX + 1]), EstAnswer, true),
        ("202 without a time", status(202, &[]), EstAnswer, true),
        ("202 with a riddle", status(202, &["soon"]), EstAnswer, true),
        ("202 with a negative time", status(202, &["-5"]), EstAnswer, true),
        ("202 with a fraction", status(202, &["1.5"]), EstAnswer, true),
        ("202 with two times", status(202, &["5", "6"]), EstAnswer, true),
        ("202 with a date without zone", status(202, &["Sun, 06 Nov 1994 08:49:37"]), EstAnswer, true),
        ("204", status(204, &[]), EstRejected, true),
        ("206", status(206, &[]), EstRejected, true),
        ("a redirect", status(302, &[]), EstRejected, true),
        ("a lasting redirect", status(308, &[]), EstRejected, true),
        ("400", status(400, &[]), EstRejected, true),
        ("401", status(401, &[]), EstAuthorization, true),
        ("403", status(403, &[]), EstAuthorization, true),
        ("404", status(404, &[]), EstRejected, true),
        ("413", status(413, &[]), EstRejected, true),
        ("418", status(418, &[]), EstRejected, true),
        ("429", status(429, &["7"]), EstUnavailable, false),
        ("500", status(500, &[]), EstUnavailable, false),
        ("503", status(503, &["60"]), EstUnavailable, false),
        ("501", status(501, &["5"]), EstRejected, true),
        ("505", status(505, &[]), EstRejected, true),
        ("101", status(101, &[]), EstRejected, true),
    ];
    for (name, reply, reason, fatal) in cases {
        let error = wire::read(ENROLL, &reply, NOW).expect_err(name);
        assert_eq!((error.reason(), error.severity == Severity::Fatal), (reason, fatal), "{name}: {error}");
    }
}

#[test]
fn spellings_that_servers_use_are_read() {
    let expected = wire::read(ENROLL, &good(), NOW).unwrap();
    assert!(matches!(&expected, Answer::Content(der) if !der.is_empty()));
    for (name, reply) in [
        ("no encoding (RFC 8951)", spoilt(|r| r.transfer_encoding = vec![])),
        ("upper case", spoilt(|r| r.transfer_encoding = vec!["BASE64".into()])),
        ("no smime-type", spoilt(|r| r.content_type = vec!["application/pkcs7-mime".into()])),
        (
            "quotes",
            spoilt(|r| r.content_type = vec!["Application/PKCS7-mime;smime-type=\"certs-only\"".into()]),
        ),
        ("one line", spoilt(|r| r.body.retain(|byte| !byte.is_ascii_whitespace()))),
    ] {
        assert_eq!(wire::read(ENROLL, &reply, NOW).unwrap(), expected, "{name}");
    }
    for status in [204, 404] {
        let reply = Reply { status, ..Reply::default() };
        assert_eq!(wire::read(Question::CsrAttrs, &reply, NOW).unwrap(), Answer::Nothing, "{status}");
        wire::read(Question::CaCerts, &reply, NOW).unwrap_err();
    }
}

#[test]
fn retry_after_is_kept_within_bounds() {
    // 1 900 000 000 is Sun, 17 Mar 2030 17:46:40 GMT.
    for (value, pause) in [
        ("0", RETRY_AFTER_MIN),
        ("120", Duration::from_secs(120)),
        (" 120 ", Duration::from_secs(120)),
        ("86401", RETRY_AFTER_MAX),
        ("18446744073709551615", RETRY_AFTER_MAX),
        ("99999999999999999999999999", RETRY_AFTER_MAX),
        ("Sun, 17 Mar 2030 17:56:40 GMT", Duration::from_secs(600)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", RETRY_AFTER_MIN),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX),
    ] {
        let read = wire::read(ENROLL, &status(202, &[value]), NOW).unwrap();
        assert_eq!(read, Answer::Later(pause), "{value}");
        let error = wire::read(ENROLL, &status(503, &[value]), NOW).unwrap_err();
        assert_eq!(error.severity, Severity::Transient { retry_after: Some(pause) }, "{value}");
    }
}

#[test]
fn a_label_is_one_segment_and_never_an_operation() {
    for text in ["", ".", "..", "a/b", "a%2fb", "a b", "é", "cacerts", "simpleenroll", &"a".repeat(65)] {
        assert_eq!(EstLabel::parse(text).unwrap_err().reason, Reason::EstConfig, "{text}");
    }
    let label = EstLabel::parse("gateways.v1").unwrap();
    assert_eq!(Question::CaCerts.path(Some(&label)), "/.well-known/est/gateways.v1/cacerts");
    assert_eq!(ENROLL.path(None), "/.well-known/est/simpleenroll");
}

proptest! {
    #[test]
    fn no_answer_panics(
        status in any::<u16>(), kind in ".{0,40}", encoding in ".{0,20}", later in ".{0,40}",
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let reply = Reply { status, content_type: vec![kind], transfer_encoding: vec![encoding], retry_after: vec![later], body };
        for question in [Question::CaCerts, Question::CsrAttrs, ENROLL] {
            let _ = wire::read(question, &reply, NOW);
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read(der in prop::collection::vec(any::<u8>(), 1..500)) {
        let reply = spoilt(|reply| reply.body = wire::request_body(&der).into_bytes());
        prop_assert_eq!(wire::read(ENROLL, &reply, NOW).unwrap(), Answer::Content(der));
    }
}
