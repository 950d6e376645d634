//! Durable files through the public door.

use std::os::unix::fs::{MetadataExt, symlink};

#[cfg(debug_assertions)]
use edgewarden_platform::crash_points::{Step, with_hook};
use edgewarden_platform::durable;

#[test]
fn what_is_written_is_read_with_its_exact_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("document");
    for (bytes, mode) in [(&b"one"[..], 0o600), (b"", 0o644), (b"two, longer", 0o666)] {
        durable::write(&path, bytes, mode).unwrap();
        assert_eq!(durable::read(&path, 100).unwrap().as_deref(), Some(bytes));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    }
    durable::remove(&path).unwrap();
    durable::remove(&path).unwrap();
    assert_eq!(durable::read(&path, 100).unwrap(), None);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn what_is_not_a_small_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("document");
    durable::write(&path, b"12345", 0o600).unwrap();
    assert!(durable::read(&path, 5).is_ok());
    assert!(durable::read(&path, 4).is_err());

    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(durable::read(&link, 100).is_err());
    assert!(durable::read(folder.path(), 100).is_err());

    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(durable::read(&fifo, 100).is_err());
}

#[test]
fn a_failed_write_leaves_the_old_contents_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("occupied");
    std::fs::create_dir(&occupied).unwrap();
    std::fs::write(occupied.join("old"), "contents").unwrap();
    assert!(durable::write(&occupied, b"new", 0o600).is_err());
    assert_eq!(std::fs::read_to_string(occupied.join("old")).unwrap(), "contents");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    assert!(durable::write(&folder.path().join("no/such/folder"), b"new", 0o600).is_err());
    assert!(durable::write(std::path::Path::new("/"), b"new", 0o600).is_err());
}

#[test]
fn a_link_in_the_files_place_is_replaced_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (folder.path().join("document"), folder.path().join("elsewhere"));
    std::fs::write(&elsewhere, "untouched").unwrap();
    symlink(&elsewhere, &path).unwrap();
    durable::write(&path, b"new", 0o600).unwrap();
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
    assert_eq!(durable::read(&path, 10).unwrap().unwrap(), b"new");
}

#[test]
fn leftovers_of_dead_writers_are_swept_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for name in [".document.77.0.ew-tmp", "document", ".hidden", "document.ew-tmp"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    assert_eq!(durable::sweep(folder.path()).unwrap(), 1);
    assert_eq!(durable::sweep(folder.path()).unwrap(), 0);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
}

#[test]
fn writers_of_one_document_never_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("document");
    std::thread::scope(|scope| {
        for letter in b'a'..b'e' {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    durable::write(path, &[letter; 1000], 0o600).unwrap();
                    let read = durable::read(path, 1000).unwrap().unwrap();
                    assert!(read.len() == 1000 && read.iter().all(|byte| *byte == read[0]));
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

/// Root mends a file in a daemon's folder, and the daemon's user puts another file under the name that root works on.
#[test]
#[cfg(debug_assertions)]
fn what_root_gives_away_is_what_root_has_written() {
    const DAEMON: u32 = 54_321;
    let folder = tempfile::tempdir().unwrap();
    let (path, victim) = (folder.path().join("document"), folder.path().join("victim"));
    std::fs::write(&path, "old").unwrap();
    std::fs::write(&victim, "root's").unwrap();
    let own = std::fs::metadata(&victim).unwrap().uid();
    if std::os::unix::fs::chown(&path, Some(DAEMON), Some(DAEMON)).is_err() {
        eprintln!("skipped: only root gives files away");
        return;
    }
    let swapped = victim.clone();
    let swap = move |step: Step<'_>| {
        if let Step::Sync(temporary) = step {
            std::fs::remove_file(temporary)?;
            std::fs::hard_link(&swapped, temporary)?;
        }
        Ok(())
    };
    with_hook(swap, || durable::replace(&path, b"new")).unwrap();
    assert_eq!(std::fs::metadata(&victim).unwrap().uid(), own);

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "old").unwrap();
    std::os::unix::fs::chown(&path, Some(DAEMON), Some(DAEMON)).unwrap();
    durable::replace(&path, b"new").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().uid(), DAEMON);
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}
