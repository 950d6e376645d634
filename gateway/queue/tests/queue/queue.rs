//! The queue through its public door.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use edgewarden_queue::{Queue, QueueError, RECORD_BYTES_MAX, Record};
use zeroize::Zeroizing;

const CAP: u64 = 1024 * 1024;

fn key(byte: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([byte; 32])
}

async fn open(folder: &Path) -> Queue {
    Queue::open(folder, key(7), CAP).await.unwrap()
}

async fn all(queue: &Queue) -> Vec<(u64, Vec<u8>)> {
    let records = queue.read(usize::MAX, usize::MAX).await.unwrap();
    records.into_iter().map(|Record { sequence, body, .. }| (sequence, body)).collect()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "segment")).collect();
    found.sort();
    found
}

#[tokio::test]
async fn records_come_back_in_order_until_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    for n in 1..=5u8 {
        assert_eq!(queue.append(vec![n; 10]).await.unwrap(), u64::from(n));
    }
    let two = queue.read(2, usize::MAX).await.unwrap();
    assert_eq!(two.iter().map(|r| r.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(queue.read(9, 25).await.unwrap().len(), 2, "by bytes");
    assert_eq!(queue.read(9, 1).await.unwrap().len(), 1, "one always comes");
    queue.acknowledge(2).await.unwrap();
    queue.acknowledge(1).await.unwrap();
    assert!(matches!(queue.acknowledge(6).await, Err(QueueError::NoSuchRecord(6))));
    assert_eq!(queue.status().messages, 3);
    let id = queue.id().to_owned();
    assert_eq!(id.len(), 32);
    queue.close().await;

    let queue = open(folder.path()).await;
    assert_eq!(queue.id(), id);
    assert_eq!(all(&queue).await, (3..=5).map(|n| (n, vec![n as u8; 10])).collect::<Vec<_>>());
    queue.acknowledge(5).await.unwrap();
    queue.close().await;

    let queue = open(folder.path()).await;
    assert_eq!(all(&queue).await, []);
    assert!(segments(folder.path()).is_empty(), "what is consumed is removed");
    assert_eq!(queue.append(vec![]).await.unwrap(), 6, "numbers are never used again");
}

#[tokio::test]
async fn nothing_readable_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    queue.append(b"glucose 42 glucose 42".to_vec()).await.unwrap();
    let bytes = std::fs::read(&segments(folder.path())[0]).unwrap();
    assert!(!bytes.windows(7).any(|window| window == b"glucose"));
}

#[tokio::test]
async fn another_key_and_another_process_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    queue.append(vec![1]).await.unwrap();
    assert!(matches!(Queue::open(folder.path(), key(7), CAP).await, Err(QueueError::InUse(_))));
    queue.close().await;
    assert!(matches!(Queue::open(folder.path(), key(8), CAP).await, Err(QueueError::WrongKey(_))));
    assert_eq!(all(&open(folder.path()).await).await, [(1, vec![1])], "the attempt has harmed nothing");
}

#[tokio::test]
async fn at_the_cap_the_new_is_refused_and_the_old_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::open(folder.path(), key(7), 64 * 1024).await.unwrap();
    assert!(matches!(queue.append(vec![0; RECORD_BYTES_MAX + 1]).await, Err(QueueError::TooLarge(_))));
    let mut stored = 0;
    let refusal = loop {
        match queue.append(vec![5; 1000]).await {
            Ok(sequence) => stored = sequence,
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, QueueError::Full { bytes_max: 65_536 }), "{refusal}");
    assert!((55..=62).contains(&stored), "{stored}");
    let on_disk: u64 = segments(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(on_disk <= 64 * 1024 && on_disk == queue.status().bytes, "{on_disk}");
    assert_eq!(all(&queue).await.len() as u64, stored);
    // As the fleet takes messages, there is room again, over and over.
    for round in 0..5 {
        queue.acknowledge(stored).await.unwrap();
        for _ in 0..50 {
            stored =
                queue.append(vec![6; 1000]).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    }
    for _ in 0..3 {
        queue.acknowledge(stored).await.unwrap();
        stored = queue.append(vec![7; 60_000]).await.unwrap();
    }
}

#[tokio::test]
async fn many_appends_share_one_sync() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    let appends = (0..500u32).map(|n| {
        let queue = queue.clone();
        tokio::spawn(async move { (queue.append(n.to_be_bytes().to_vec()).await.unwrap(), n) })
    });
    let mut stored = Vec::new();
    for append in appends.collect::<Vec<_>>() {
        let (sequence, n) = append.await.unwrap();
        stored.push((sequence, n.to_be_bytes().to_vec()));
    }
    stored.sort();
    assert_eq!(all(&queue).await, stored);
    // 500 frames of their own would take 56 bytes each on top of the records.
    assert!(queue.status().bytes < 500 * (56 + 8), "{}", queue.status().bytes);
}

/// Three frames, each its own commit, then the queue closed. Returns the segment and where frames begin and end.
async fn three_frames(folder: &Path) -> (PathBuf, [usize; 4]) {
    let queue = open(folder).await;
    let mut ends = [80; 4];
    for n in 0..3u8 {
        queue.append(vec![n; 100]).await.unwrap();
        ends[usize::from(n) + 1] = queue.status().bytes as usize;
    }
    assert_eq!(ends, [80, 240, 400, 560]);
    queue.close().await;
    (segments(folder).remove(0), ends)
}

#[tokio::test]
async fn an_unfinished_end_is_cut_off_wherever_the_crash_cut() {
    for lost in [1, 15, 16, 17, 56, 100, 150, 158, 159] {
        let folder = tempfile::tempdir().unwrap();
        let (path, ends) = three_frames(folder.path()).await;
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(ends[3] as u64 - lost).unwrap();
        let queue = open(folder.path()).await;
        assert_eq!(all(&queue).await, [(1, vec![0; 100]), (2, vec![1; 100])], "{lost}");
        assert_eq!(path.metadata().unwrap().len(), ends[2] as u64);
        assert_eq!(queue.append(vec![9]).await.unwrap(), 3);
        queue.close().await;
        assert_eq!(all(&open(folder.path()).await).await.len(), 3);
    }
    // The file had grown, and the data had not reached the disk.
    for zeros in [1, 40, 160, 5000] {
        let folder = tempfile::tempdir().unwrap();
        let (path, ends) = three_frames(folder.path()).await;
        OpenOptions::new().write(true).open(&path).unwrap().set_len(ends[3] as u64 + zeros).unwrap();
        assert_eq!(all(&open(folder.path()).await).await.len(), 3, "{zeros}");
    }
}

#[tokio::test]
async fn a_cursor_that_a_crash_has_cut_short_is_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path()).await;
    for n in 0..6 {
        queue.append(vec![n]).await.unwrap();
    }
    for through in 1..=4 {
        queue.acknowledge(through).await.unwrap();
    }
    queue.close().await;
    // The fourth acknowledgement and the second share a slot.
    edit(&folder.path().join("cursor"), |bytes| {
        let newest = [0, 4096].into_iter().max_by_key(|slot| bytes[slot + 47]).unwrap();
        assert_eq!(bytes[newest + 47], 4);
        bytes[newest + 40..newest + 48].fill(0xff);
    });
    let queue = open(folder.path()).await;
    assert_eq!(all(&queue).await.first().unwrap().0, 4, "once more rather than never");
    queue.acknowledge(6).await.unwrap();
    queue.close().await;
    assert_eq!(all(&open(folder.path()).await).await, []);
}

fn edit(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_no_crash_explains_is_damage() {
    type Harm = fn(&Path, [usize; 4]);
    let cases: &[(&str, Harm)] = &[
        ("a bit of a frame's ciphertext", |path, ends| edit(path, |b| b[ends[0] + 50] ^= 1)),
        ("a bit of a frame's header", |path, ends| edit(path, |b| b[ends[1] + 3] ^= 1)),
        ("a bit of a frame's tag", |path, ends| edit(path, |b| b[ends[1] - 1] ^= 1)),
        ("a frame taken out", |path, ends| edit(path, |b| drop(b.drain(ends[0]..ends[1])))),
        ("two frames taken out", |path, ends| edit(path, |b| drop(b.drain(ends[0]..ends[2])))),
        ("two frames in the other order", |path, ends| {
            edit(path, |b| {
                let frame: Vec<u8> = b.drain(ends[0]..ends[1]).collect();
                b.splice(ends[1]..ends[1], frame);
            });
        }),
        ("bytes put in", |path, ends| edit(path, |b| b.insert(ends[1], 0))),
        ("a bit of the segment's header", |path, _| edit(path, |b| b[40] ^= 1)),
        ("the segment's header cut off", |path, _| edit(path, |b| b.truncate(70))),
        ("the segment under another number", |path, _| {
            std::fs::rename(path, path.with_file_name("00000000000000000002.segment")).unwrap();
        }),
        ("the file with the id gone", |path, _| std::fs::remove_file(path.with_file_name("queue")).unwrap()),
        ("the file with the id cut off", |path, _| edit(&path.with_file_name("queue"), |b| b.truncate(10))),
        ("the cursor made up", |path, _| {
            std::fs::write(path.with_file_name("cursor"), [b"EWQCURS1".to_vec(), vec![9; 56]].concat())
                .unwrap();
        }),
    ];
    for (name, harm) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (path, ends) = three_frames(folder.path()).await;
        harm(&path, ends);
        let opened = Queue::open(folder.path(), key(7), CAP).await;
        assert!(matches!(opened, Err(QueueError::Damaged { .. })), "{name}: {opened:?}");
    }
}

#[tokio::test]
async fn a_segment_that_is_missing_or_cut_in_the_middle_is_damage() {
    for harm in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..3u8 {
            let queue = open(folder.path()).await;
            queue.append(vec![n]).await.unwrap();
            queue.append(vec![n]).await.unwrap();
            queue.close().await;
        }
        let files = segments(folder.path());
        assert_eq!(files.len(), 3, "each run writes its own segment");
        match harm {
            0 => std::fs::remove_file(&files[0]).unwrap(),
            1 => std::fs::remove_file(&files[1]).unwrap(),
            // A whole frame less: every frame that is left is authentic.
            _ => edit(&files[1], |bytes| bytes.truncate(bytes.len() - 61)),
        }
        let opened = Queue::open(folder.path(), key(7), CAP).await;
        assert!(matches!(opened, Err(QueueError::Damaged { .. })), "{harm}: {opened:?}");
    }
}

/// A file system of 512 KiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.mount(nix::mount::MsFlags::empty(), "size=512k");
        disk
    }
    fn mount(&self, flags: nix::mount::MsFlags, options: &str) {
        nix::mount::mount(Some("tmpfs"), self.0.path(), Some("tmpfs"), flags, Some(options)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_the_producers_error_and_nothing_is_lost() {
    let disk = SmallDisk::new();
    let folder = disk.0.path().join("queue");
    let queue = Queue::open(&folder, key(7), CAP).await.unwrap();
    let (mut stored, mut refused) = (0, 0);
    for n in 0..100 {
        match queue.append(vec![1; if n % 2 == 0 { 20_000 } else { 10 }]).await {
            Ok(sequence) => stored = sequence,
            Err(QueueError::Io { .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(stored > 30 && refused > 20, "{stored} {refused}");
    assert_eq!(all(&queue).await.len() as u64, stored);
    // Acknowledging needs no room, and makes some.
    let disk_bytes = queue.status().bytes;
    let half = stored / 2;
    queue.acknowledge(half).await.unwrap();
    assert!(queue.status().bytes < disk_bytes || segments(&folder).len() == 1);
    queue.close().await;
    // When there is room again the queue goes on where it was.
    disk.mount(nix::mount::MsFlags::MS_REMOUNT, "size=4m");
    let queue = Queue::open(&folder, key(7), CAP).await.unwrap();
    let kept: Vec<u64> = all(&queue).await.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(kept, (half + 1..=stored).collect::<Vec<_>>());
    assert_eq!(queue.append(vec![3]).await.unwrap(), stored + 1);
}
