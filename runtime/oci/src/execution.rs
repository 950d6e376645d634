//! User, working folder and command line of an image's first process. Asked by the gateway that starts it, and before
//! that by whoever deploys it: one judge for both.
//!
//! Looks at the unpacked image only. What cannot run is refused with what to change in the image.

use std::io::Read as _;
use std::path::Path;

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::container::StopSignal;
use edgewarden_protocol::deployment::Module;

use crate::manifest::ImageConfig;
use crate::{program, tree};

/// `PATH` of a container when neither image nor deployment says it, as container engines have it.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Users and groups of a container, 0 and up; what lies above cannot be anybody in it.
pub const IDS: u32 = 65_536;
const ACCOUNTS_BYTES_MAX: u64 = 256 * 1024;
const GROUPS_MAX: usize = 64;
/// Most folders of an image's `VOLUME` that are made writable.
const WRITTEN_MAX: usize = 16;

/// A module with its image, unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Execution<'a> {
    pub module: &'a Module,
    pub image: &'a ImageConfig,
    pub root: &'a Path,
}

/// Whom the first process runs as, in the container's own numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    pub user: u32,
    pub group: u32,
    /// Groups that the image's `/etc/group` has the user in, when no group was asked for.
    pub more_groups: Vec<u32>,
    /// Home folder by the image's `/etc/passwd`.
    pub home: Option<String>,
}

impl Account {
    pub fn is_root(&self) -> bool {
        self.user == 0
    }
}

impl Execution<'_> {
    /// Refuses a module that cannot be started at all.
    pub fn check(&self) -> Result<(), Refusal> {
        if !tree::mount_folders_are_empty(self.root) {
            return Err(self.command("something lies in the unpacked image where a gateway mounts"));
        }
        self.account()?;
        self.args().map(drop)
    }

    fn command(&self, rule: impl std::fmt::Display) -> Refusal {
        Refusal::new(Reason::ImageCommand, &self.module.name, rule)
    }

    /// The program, found in the image, and its arguments.
    pub fn args(&self) -> Result<Vec<String>, Refusal> {
        let image = &self.image.config;
        let mut args = image.entrypoint.clone().unwrap_or_default();
        args.extend(if self.module.args.is_empty() {
            image.cmd.clone().unwrap_or_default()
        } else {
            self.module.args.clone()
        });
        let first = args.first_mut().filter(|program| !program.is_empty());
        let first = first.ok_or_else(|| self.command("the image names nothing to run"))?;
        // The runtime would look for it again, in what it has mounted by then.
        *first = program::find(self.root, &self.working_folder()?, self.search_path(), first)
            .map_err(|rule| self.command(rule))?;
        Ok(args)
    }

    /// The deployment's, else the image's last word.
    fn search_path(&self) -> &str {
        let of_image =
            self.image.config.env.iter().flatten().rev().find_map(|pair| pair.strip_prefix("PATH="));
        self.module.env.get("PATH").map(String::as_str).or(of_image).unwrap_or(SEARCH_PATH)
    }

    /// Without links, so that it leads the runtime where it led us. One that the image does not have is made.
    pub fn working_folder(&self) -> Result<String, Refusal> {
        let folder = self.image.config.working_dir.as_deref().filter(|folder| !folder.is_empty());
        let folder = folder.unwrap_or("/");
        if !folder.starts_with('/') {
            return Err(self.command("the image's working folder is not absolute"));
        }
        tree::folder_to_be(self.root, folder).ok_or_else(|| {
            let named = folder.escape_debug();
            self.command(format!(
                "the image's working folder `{named}` lies where a gateway mounts, or is no folder"
            ))
        })
    }

    /// `user[:group]` of the deployment, else of the image, by number or by a name that the image's own tables hold. Root
    /// where neither says.
    pub fn account(&self) -> Result<Account, Refusal> {
        let of_image = self.image.config.user.as_deref().unwrap_or_default();
        let text = self.module.user.as_deref().unwrap_or(of_image);
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() { "0" } else { user };
        let accounts = self.table("/etc/passwd");
        let number = user.parse::<u32>().ok();
        // A number is looked up too: its line has its group and its home.
        let line = accounts.lines().map(fields).find(|line| match number {
            Some(number) => field(line, 2) == Some(number),
            None => line.first() == Some(&user),
        });
        let id = match (number, &line) {
            (Some(number), _) => number,
            (None, Some(line)) => field(line, 2).ok_or_else(|| self.unknown(user, "/etc/passwd"))?,
            (None, None) => return Err(self.unknown(user, "/etc/passwd")),
        };
        let own_group = line.as_ref().and_then(|line| field(line, 3)).unwrap_or(0);
        let home = line.as_ref().and_then(|line| line.get(5)).filter(|home| home.starts_with('/'));
        let groups = self.table("/etc/group");
        let (group, more_groups) = match group {
            Some(group) => (self.group(group, &groups)?, Vec::new()),
            None => (own_group, members(&groups, line.as_ref().and_then(|line| line.first().copied()))),
        };
        if [id, group].iter().chain(&more_groups).any(|id| *id >= IDS) {
            let rule = format!("user and group are below {IDS}: a module has so many of its own");
            return Err(Refusal::new(Reason::ImageUser, &self.module.name, rule));
        }
        Ok(Account { user: id, group, more_groups, home: home.map(|home| (*home).to_owned()) })
    }

    fn group(&self, group: &str, table: &str) -> Result<u32, Refusal> {
        if let Ok(number) = group.parse() {
            return Ok(number);
        }
        let line = table.lines().map(fields).find(|line| line.first() == Some(&group));
        line.and_then(|line| field(&line, 2)).ok_or_else(|| self.unknown(group, "/etc/group"))
    }

    fn unknown(&self, name: &str, table: &str) -> Refusal {
        let rule = format!("the image has no `{}` in its `{table}`", name.escape_debug());
        Refusal::new(Reason::ImageUser, &self.module.name, rule)
    }

    /// A table of the image, found without leaving it. Empty when there is none.
    fn table(&self, path: &str) -> String {
        let mut bytes = Vec::new();
        if let Some(file) = tree::file(self.root, path) {
            // What can be read of it counts: a name behind that is unknown, and that is said.
            drop(file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The deployment's, else the image's.
    pub fn stop_signal(&self) -> StopSignal {
        let of_image =
            || self.image.config.stop_signal.as_deref().and_then(|text| StopSignal::parse(text).ok());
        self.module.stop.signal.or_else(of_image).unwrap_or(StopSignal::TERM)
    }

    /// Folders that the image declares as written to and that nothing of the deployment is mounted at.
    pub fn written_folders(&self) -> Vec<String> {
        let declared = self.image.config.volumes.iter().flat_map(|volumes| volumes.keys());
        let taken = |path: &String| {
            self.module.volumes.iter().any(|volume| volume.path == *path)
                || self.module.temporary.iter().any(|folder| folder.path == *path)
        };
        let plain = |path: &String| tree::folder_to_be(self.root, path).filter(|place| place != "/");
        let mut all: Vec<String> = declared
            .filter(|path| path.starts_with('/'))
            .filter(|path| !taken(path))
            .filter_map(plain)
            .collect();
        all.sort();
        all.dedup();
        all.truncate(WRITTEN_MAX);
        all
    }
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn field(line: &[&str], index: usize) -> Option<u32> {
    line.get(index).and_then(|field| field.parse().ok())
}

/// Groups that name the user as a member, without its own.
fn members(table: &str, user: Option<&str>) -> Vec<u32> {
    let Some(user) = user else { return Vec::new() };
    let of = |line: Vec<&str>| {
        let member =
            line.get(3).is_some_and(|members| members.split(',').any(|member| member.trim() == user));
        member.then(|| field(&line, 2)).flatten()
    };
    table.lines().map(fields).filter_map(of).take(GROUPS_MAX).collect()
}
