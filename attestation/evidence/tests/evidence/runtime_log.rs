//! Runtime logs: what a quoted value proves, and every way in which a log can be broken.

use edgewarden_evidence::runtime_log::{
    ENTRIES_MAX, Entry, Event, LINE_BYTES_MAX, LOG_BYTES_MAX, Record, ReplayError, Replayed, RuntimeLog,
    Start, Why, extend,
};
use proptest::prelude::*;

fn event(n: u64) -> Record {
    Record::Event(Event {
        audit_sequence: n,
        audit_hash: [u8::try_from(n % 250).unwrap(); 32],
        kind: "module.started".into(),
        subject: format!("sensor-{n} with blanks = and more"),
    })
}

/// Writes a log as `identityd` does.
#[derive(Default)]
struct Writer {
    lines: Vec<String>,
    value: [u8; 32],
}

impl Writer {
    fn put(&mut self, record: Record) {
        let entry = Entry::new(self.lines.len() as u64 + 1, record).unwrap();
        self.value = extend(&self.value, &entry.digest);
        self.lines.push(entry.line());
    }

    fn start(&mut self, why: Why, value: [u8; 32]) {
        let previous = self.value;
        self.value = value;
        self.put(Record::Start(Start { why, pcr: 15, value, previous, resets: 7, restarts: 1 }));
    }

    fn events(&mut self, count: u64) {
        for n in 0..count {
            self.put(event(n));
        }
    }

    fn log(&self) -> RuntimeLog {
        RuntimeLog::parse(self.lines.concat().as_bytes()).unwrap()
    }
}

fn two_boots() -> Writer {
    let mut writer = Writer::default();
    writer.start(Why::Boot, [3; 32]);
    writer.events(3);
    writer.start(Why::Boot, [0; 32]);
    writer.events(2);
    let end = writer.value;
    writer.start(Why::Rotated, end);
    writer.events(3);
    writer
}

fn replays(text: &str, quoted: &[u8; 32]) -> bool {
    RuntimeLog::parse(text.as_bytes()).is_ok_and(|log| log.replay(15, quoted).is_ok())
}

#[test]
fn a_log_replays_to_the_quoted_value() {
    let writer = two_boots();
    let log = writer.log();
    let proven = Replayed { entries: 11, first: 1, unexplained: 0, boots: 2 };
    assert_eq!(log.replay(15, &writer.value), Ok(proven));
    assert_eq!(log.replay(14, &writer.value), Err(ReplayError::Pcr { wanted: 14, found: 15 }));
    assert_eq!(log.replay(15, &[0; 32]), Err(ReplayError::NotQuoted));
    assert_eq!(log.replay(15, &writer.value[..31]), Err(ReplayError::NotQuoted));
    let empty = RuntimeLog::parse(b"").unwrap();
    assert_eq!(empty.replay(15, &[0; 32]), Err(ReplayError::NotQuoted));
    assert_eq!((empty.end(), empty.missing(&[0; 32])), (None, None));
}

#[test]
fn what_rotation_removed_shows_and_the_rest_is_proven() {
    let writer = two_boots();
    for first in [4, 7] {
        let log = RuntimeLog::parse(writer.lines[first..].concat().as_bytes()).unwrap();
        assert_eq!(log.replay(15, &writer.value).unwrap().first, first as u64 + 1);
    }
}

#[test]
fn truncated_reordered_removed_and_altered_entries_are_found() {
    let writer = two_boots();
    let (lines, quoted) = (&writer.lines, &writer.value);
    assert!(replays(&lines.concat(), quoted));
    for at in 0..lines.len() {
        // Cut off from here on, one way and the other, and in the middle of a line.
        assert!(!replays(&lines[..at].concat(), quoted), "cut at {at}");
        if at > 0 && !matches!(at, 4 | 7) {
            assert!(!replays(&lines[at..].concat(), quoted), "begun at {at}");
        }
        let cut = [lines[..at].concat(), lines[at].chars().take(40).collect()].concat();
        assert!(!replays(&cut, quoted), "torn at {at}");
        let mut changed = lines.clone();
        let removed = changed.remove(at);
        if at > 0 {
            assert!(!replays(&changed.concat(), quoted), "removed {at}");
        }
        changed.insert((at + 1).min(changed.len()), removed);
        if at + 1 < lines.len() {
            assert!(!replays(&changed.concat(), quoted), "moved {at}");
        }
        let mut twice = lines.clone();
        twice.insert(at, lines[at].clone());
        assert!(!replays(&twice.concat(), quoted), "twice {at}");
        for byte in 0..lines[at].len() {
            let mut bytes = lines.concat().into_bytes();
            let before: usize = lines[..at].iter().map(String::len).sum();
            bytes[before + byte] ^= 1;
            let text = String::from_utf8(bytes).unwrap_or_default();
            assert!(!replays(&text, quoted), "changed {at} at {byte}");
        }
    }
    assert!(!replays(&format!("{}{}", lines.concat(), Entry::new(12, event(9)).unwrap().line()), quoted));
    // Numbered anew, so that nothing is missing by the numbers.
    let mut forged = Writer::default();
    forged.start(Why::Boot, [3; 32]);
    forged.events(2);
    forged.start(Why::Boot, [0; 32]);
    forged.events(2);
    assert!(!replays(&forged.lines.concat(), quoted));
}

#[test]
fn an_unexplained_start_is_told() {
    let mut writer = two_boots();
    writer.start(Why::Unexplained, [9; 32]);
    writer.events(1);
    assert_eq!(writer.log().replay(15, &writer.value).unwrap().unexplained, 1);
}

#[test]
fn what_was_written_and_not_extended_is_known_by_the_value() {
    let mut writer = Writer::default();
    writer.start(Why::Boot, [3; 32]);
    let mut values = vec![[3; 32], writer.value];
    for n in 0..4 {
        writer.put(event(n));
        values.push(writer.value);
        if n == 1 {
            let end = writer.value;
            writer.start(Why::Rotated, end);
            values.push(writer.value);
        }
    }
    let log = writer.log();
    let digests: Vec<_> = log.entries().iter().map(|entry| entry.digest).collect();
    for (done, value) in values.iter().enumerate() {
        assert_eq!(log.missing(value).unwrap(), digests[done..], "{done}");
    }
    assert_eq!(log.missing(&[0; 32]), None);
    // Another boot's values are of no use in this one.
    writer.start(Why::Boot, [0; 32]);
    assert_eq!(writer.log().missing(&values[3]), None);
}

#[test]
fn lines_are_read_strictly() {
    let good = two_boots().lines.concat();
    let parses = |text: &str| RuntimeLog::parse(text.as_bytes()).is_ok();
    assert!(parses(&good));
    for (from, to) in [
        ("1 start", "01 start"),
        ("1 start", "+1 start"),
        ("1 start", "0 start"),
        ("why=boot", "why=reboot"),
        ("pcr=15", "pcr=256"),
        ("pcr=15", "pcr=15 more=1"),
        ("value=0303", "value=03"),
        ("value=", "VALUE="),
        ("resets=7", "resets=4294967296"),
        ("kind=module", "kind=Module"),
        ("kind=module.started", "kind=module started"),
        ("subject=sensor", "subject=\u{1b}sensor"),
        (" event", "  event"),
        ("\n", "\r\n"),
        ("\n", "\n\n"),
    ] {
        assert!(good.contains(from) && !parses(&good.replacen(from, to, 1)), "{from:?} {to:?}");
    }
    assert!(!parses(good.trim_end()) && RuntimeLog::parse(&[0xff, b'\n']).is_err());
    let long = Event {
        audit_sequence: 1,
        audit_hash: [0; 32],
        kind: "module.started".into(),
        subject: "x".repeat(LINE_BYTES_MAX),
    };
    assert_eq!(Entry::new(1, Record::Event(long)), None);
}

#[test]
fn logs_are_bounded() {
    assert!(RuntimeLog::parse(&vec![b'x'; LOG_BYTES_MAX + 1]).is_err());
    let mut text = String::new();
    let start = Start { why: Why::Boot, pcr: 15, value: [0; 32], previous: [0; 32], resets: 0, restarts: 0 };
    text.push_str(&Entry::new(1, Record::Start(start)).unwrap().line());
    let short = Event { audit_sequence: 1, audit_hash: [0; 32], kind: "a".into(), subject: String::new() };
    let mut n = 2;
    while text.len() < LOG_BYTES_MAX - 200 && n <= ENTRIES_MAX as u64 + 1 {
        text.push_str(&Entry::new(n, Record::Event(short.clone())).unwrap().line());
        n += 1;
    }
    let entries = RuntimeLog::parse(text.as_bytes()).map(|log| log.entries().len());
    assert!(entries.is_ok_and(|entries| entries <= ENTRIES_MAX));
}

proptest! {
    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), text in ".{0,200}") {
        let _ = RuntimeLog::parse(&bytes);
        let _ = RuntimeLog::parse(text.as_bytes());
        let _ = RuntimeLog::parse(format!("1 start {text}\n").as_bytes());
        let _ = RuntimeLog::parse(format!("1 event {text}\n").as_bytes());
    }
}
