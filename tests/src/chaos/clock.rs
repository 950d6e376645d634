//! A wall clock of the gateway's own, which leaps when it is told to. The machine's stays.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::process::run;

const SOURCE: &str = include_str!("clock.c");

#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    leap: PathBuf,
}

impl Clock {
    /// Builds the library that shows a program this clock, in a folder that every user may read.
    pub fn new(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder)?;
        let (source, library, leap) = (folder.join("clock.c"), folder.join("clock.so"), folder.join("leap"));
        fs::write(&source, SOURCE)?;
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
        run(cc.arg(&library).arg(&source).arg("-ldl"))?.ok()?;
        fs::write(&leap, 0_i64.to_ne_bytes())?;
        Ok(Self { library, leap })
    }

    /// Environment variables by which a program is shown this clock.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".into(), self.library.display().to_string()),
            ("EW_CHAOS_CLOCK".into(), self.leap.display().to_string()),
        ]
    }

    /// Seconds beside the truth, from now on.
    pub fn leap(&self, seconds: i64) -> Result<(), Failure> {
        Ok(fs::File::options().write(true).open(&self.leap)?.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}
