//! A copy of a fleet, whole and of one instant, also while its server runs.
//!
//! SQLite copies the database in one read transaction (`VACUUM INTO`, <https://www.sqlite.org/lang_vacuum.html>), so
//! the server is not stopped and the copy holds no half of a change. The copy is made beside its place and put there
//! when it is whole and on the disk: a folder of that name is a backup that can be used, whenever the power went.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use crate::data_dir::{DataDir, DataError};
use crate::store::{StoreError, integrity};

/// Failure to copy or check a fleet's database.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("`{}` is there already; a backup never replaces anything", .0.display())]
    Exists(PathBuf),
    #[error("cannot write `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the database cannot be copied")]
    Database(#[from] sqlx::Error),
    /// The copy's damage is most likely the original's.
    #[error(transparent)]
    Check(#[from] StoreError),
    #[error("`{}` does not name a folder to make", .0.display())]
    Name(PathBuf),
}

/// Copies the fleet in `data` to the new folder `to`, mode 0700: it holds the root's private key.
pub async fn backup(data: &DataDir, to: &Path) -> Result<(), BackupError> {
    // First of all: what is not a fleet leaves nothing behind.
    data.settings()?;
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let name = to.file_name().ok_or_else(|| BackupError::Name(to.to_owned()))?;
    let mut partial_name = OsString::from(".");
    partial_name.push(name);
    partial_name.push(".partial");
    let partial = to.with_file_name(partial_name);
    let io = |source| BackupError::Io { path: partial.clone(), source };
    // Left by a backup that was cut off.
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&partial).map_err(io)?;
    let copied = fill(data, &partial).await;
    if copied.is_err() {
        // What cannot be removed is removed by the next try; the failure itself is what counts.
        drop(fs::remove_dir_all(&partial));
    }
    copied?;
    fs::rename(&partial, to).map_err(|source| BackupError::Io { path: to.to_owned(), source })?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(parent)
}

async fn fill(data: &DataDir, folder: &Path) -> Result<(), BackupError> {
    let copy = DataDir::new(folder);
    copy_database(&data.database(), &copy.database()).await?;
    // After the database, `fleet.toml` last, as `init` does: a folder without it is not a fleet.
    data.copy_files(&copy)?;
    sync(folder)
}

async fn copy_database(from: &Path, to: &Path) -> Result<(), BackupError> {
    let options = SqliteConnectOptions::new().filename(from).read_only(true);
    let source = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let copied = sqlx::query("VACUUM INTO ?").bind(to.to_string_lossy().into_owned()).execute(&source).await;
    source.close().await;
    copied?;
    fs::set_permissions(to, Permissions::from_mode(0o600))
        .map_err(|source| BackupError::Io { path: to.to_owned(), source })?;
    let options = SqliteConnectOptions::new().filename(to).read_only(true).immutable(true);
    let copy = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let checked = check(&copy).await;
    copy.close().await;
    checked?;
    sync(to)
}

async fn check(database: &SqlitePool) -> Result<(), BackupError> {
    let mut connection = database.acquire().await?;
    integrity::check_structure(&mut connection).await?;
    integrity::check_contents(&mut connection).await?;
    Ok(())
}

/// Reads all of the database in `data` and says what is not as it was written.
pub async fn check_database(data: &DataDir) -> Result<(), BackupError> {
    data.settings()?;
    let options = SqliteConnectOptions::new().filename(data.database()).read_only(true);
    let database = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let checked = check(&database).await;
    database.close().await;
    checked
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| BackupError::Io { path: path.to_owned(), source })
}
