//! Fifty kills with SIGKILL at random moments: all that was acknowledged is there, in order, once.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edgewarden_queue::Queue;
use zeroize::Zeroizing;

const FOLDER: &str = "QUEUE_KILL_FOLDER";
const KILLS: usize = 50;

async fn open(folder: &Path) -> Queue {
    Queue::open(folder, Zeroizing::new([3; 32]), 8 * 1024 * 1024).await.unwrap()
}

fn say(line: &str) {
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Does its work only as a child of the test below: appends without end, four at a time, and says what is
/// acknowledged; now and then it delivers some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let queue = open(Path::new(&folder)).await;
    for round in 0usize.. {
        let appends: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let sequence = queue.append(vec![1; 200 + (round * 37) % 3000]).await.unwrap();
                    say(&format!("stored {sequence}\n"));
                })
            })
            .collect();
        for append in appends {
            append.await.unwrap();
        }
        if round % 4 == 3 {
            let last = queue.read(10, usize::MAX).await.unwrap().last().unwrap().sequence;
            // Said before it is done: the parent takes either state for right.
            say(&format!("deliver {last}\n"));
            queue.acknowledge(last).await.unwrap();
        }
    }
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_fifty_kills() {
    let folder = tempfile::tempdir().unwrap();
    let (mut stored, mut delivered, mut between) = (0u64, 0u64, 0);
    for kill in 0..KILLS {
        let mut child = KillOnDrop(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
                .env(FOLDER, folder.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let output = BufReader::new(child.0.stdout.take().unwrap());
        // At a random moment, after a number of lines that differs each time.
        let patience = (kill * 7) % 40 + 1;
        let random =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
        let mut seen = 0;
        for line in output.lines() {
            let line = line.unwrap();
            // The test harness's own words may stand in front of the first of ours.
            let words = line.rsplit("... ").next().and_then(|line| line.split_once(' '));
            let Some((word, Ok(number))) = words.map(|(word, number)| (word, number.parse::<u64>())) else {
                continue;
            };
            match word {
                "stored" => stored = stored.max(number),
                "deliver" => delivered = delivered.max(number),
                _ => continue,
            }
            seen += 1;
            if seen == patience {
                std::thread::sleep(Duration::from_micros(u64::from(random % 3000)));
                child.0.kill().unwrap();
            }
        }
        drop(child);
        assert!(seen >= patience, "the child ended by itself");

        let queue = open(folder.path()).await;
        let records = queue.read(usize::MAX, usize::MAX).await.unwrap();
        let sequences: Vec<u64> = records.iter().map(|record| record.sequence).collect();
        let first = sequences.first().copied().unwrap_or(stored + 1);
        let last = sequences.last().copied().unwrap_or(stored);
        assert!(first <= delivered + 1, "kill {kill}: {first} is the oldest, {delivered} were delivered");
        assert_eq!(sequences, (first..=last).collect::<Vec<_>>(), "kill {kill}: in order, none twice");
        assert!(last >= stored, "kill {kill}: {stored} was acknowledged, {last} is the newest");
        between += usize::from(last > stored);
        stored = last;
        if kill % 5 == 4 {
            // So that the cap is never met.
            queue.acknowledge(last).await.unwrap();
            delivered = last;
        }
        queue.close().await;
    }
    assert!(stored > KILLS as u64);
    println!("{stored} records, {between} kills between disk and acknowledgement");
}
