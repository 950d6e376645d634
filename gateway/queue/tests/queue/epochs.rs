//! Names that are never given to two records, and shares that leave room to others.

use std::collections::BTreeMap;
use std::path::Path;

use edgewarden_queue::{Queue, QueueError};
use zeroize::Zeroizing;

const CAP: u64 = 256 * 1024;

async fn open(folder: &Path) -> Queue {
    Queue::open_shared(folder, Zeroizing::new([7; 32]), CAP, |body| body.get(..1)).await.unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

type Names = BTreeMap<(String, u64), Vec<u8>>;

async fn named(queue: &Queue) -> Names {
    let records = queue.read(usize::MAX, usize::MAX).await.unwrap();
    records.into_iter().map(|record| ((record.epoch.to_string(), record.sequence), record.body)).collect()
}

async fn append(queue: &Queue, text: &str, count: u8) {
    for n in 0..count {
        queue.append([text.as_bytes(), &[n]].concat()).await.unwrap();
    }
}

/// No name has two bodies.
fn check(all: &[&Names]) {
    let mut known = Names::new();
    for names in all {
        for (name, body) in *names {
            let before = known.insert(name.clone(), body.clone());
            assert!(before.is_none_or(|before| before == *body), "{name:?} names two records");
        }
    }
}

#[tokio::test]
async fn an_older_copy_gives_no_name_of_before_to_another_record() {
    let folder = tempfile::tempdir().unwrap();
    let (live, backup) = (folder.path().join("live"), folder.path().join("backup"));
    let queue = open(&live).await;
    append(&queue, "before", 5).await;
    queue.acknowledge(2).await.unwrap();
    let before = named(&queue).await;
    queue.close().await;
    copy(&live, &backup);

    let queue = open(&live).await;
    append(&queue, "after", 5).await;
    let after = named(&queue).await;
    queue.acknowledge(10).await.unwrap();
    queue.close().await;

    std::fs::remove_dir_all(&live).unwrap();
    copy(&backup, &live);
    let mut restored = Vec::new();
    for round in 0..3 {
        let queue = open(&live).await;
        append(&queue, &format!("restored {round}"), 5).await;
        restored.push(named(&queue).await);
        queue.close().await;
    }
    check(&[&before, &after, &restored[0], &restored[1], &restored[2]]);
    // What was in the copy has the name that it had: sent again, it is a repetition.
    for (name, body) in &before {
        assert_eq!((after.get(name), restored[2].get(name)), (Some(body), Some(body)));
    }
    assert_eq!((after.len(), restored[2].len()), (8, 18));
}

#[tokio::test]
async fn what_meets_another_record_is_named_anew_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    append(&queue, "a", 6).await;
    queue.acknowledge(3).await.unwrap();
    let old = named(&queue).await;
    let epoch = queue.begin_epoch().await.unwrap().to_string();
    let new = named(&queue).await;
    append(&queue, "b", 3).await;
    let all = named(&queue).await;
    assert_eq!(new.keys().map(|(epoch, _)| epoch).collect::<Vec<_>>(), [&epoch; 3]);
    assert_eq!(new.values().collect::<Vec<_>>(), old.values().collect::<Vec<_>>());
    assert!(all.keys().all(|(name, _)| *name == epoch), "and what comes after, too");
    check(&[&old, &all]);
    queue.close().await;

    let queue = open(folder.path()).await;
    assert_eq!(named(&queue).await, all, "names last");
    append(&queue, "c", 1).await;
    let more = named(&queue).await;
    check(&[&all, &more]);
    // Again, in the middle of what was named anew.
    queue.acknowledge(5).await.unwrap();
    let again = queue.begin_epoch().await.unwrap().to_string();
    let renamed = named(&queue).await;
    assert_eq!(renamed.len(), 5);
    assert!(renamed.keys().all(|(name, _)| *name == again));
    check(&[&more, &renamed]);
    queue.close().await;
    std::fs::write(folder.path().join("renumbered"), b"EWQEPOC1").unwrap();
    let opened = Queue::open(folder.path(), Zeroizing::new([7; 32]), CAP).await;
    assert!(matches!(opened, Err(QueueError::Damaged { .. })), "{opened:?}");
}

/// Written by the version before there were epochs: five records, the first two acknowledged.
#[tokio::test]
async fn a_queue_from_before_is_read_on_under_the_names_that_it_had() {
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/queue/before-epochs")), folder.path());
    let queue = open(folder.path()).await;
    append(&queue, "new", 1).await;
    let names = named(&queue).await;
    let old: Vec<_> = names.iter().filter(|((epoch, _), _)| epoch == queue.id()).collect();
    let bodies: Vec<_> = old.iter().map(|((_, sequence), body)| (*sequence, body.as_slice())).collect();
    assert_eq!(bodies, [(3, &b"old 3"[..]), (4, &b"old 4"[..]), (5, &b"old 5"[..])]);
    let new: Vec<_> = names.iter().filter(|((epoch, _), _)| epoch != queue.id()).collect();
    assert_eq!(new[0].0.1, 6);
}

/// Records of 1,000 bytes that the queue takes of one sender.
async fn fill(queue: &Queue, sender: u8) -> usize {
    for count in 0.. {
        match queue.append(vec![sender; 1000]).await {
            Ok(_) => {}
            Err(QueueError::Share { .. }) => return count,
            Err(error) => panic!("{error:?}"),
        }
    }
    0
}

#[tokio::test]
async fn no_sender_fills_the_queue_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    let first = fill(&queue, b'a').await;
    assert!((180..=210).contains(&first), "four fifths of 256: {first}");
    // However many come, there is room for one more, and nobody gets more by asking again.
    let second = fill(&queue, b'b').await;
    let third = fill(&queue, b'c').await;
    assert!(second >= 35 && third >= 5, "{second} {third}");
    assert_eq!(fill(&queue, b'a').await, 0);
    let last = queue.append(vec![b'd'; 1000]).await.unwrap();
    queue.close().await;
    // Shares are what is on the disk, not what this process has seen.
    let queue = open(folder.path()).await;
    assert_eq!(fill(&queue, b'a').await, 0);
    queue.acknowledge(last).await.unwrap();
    assert!(fill(&queue, b'a').await >= first - 20, "what was acknowledged is free again");
}
