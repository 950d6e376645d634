//! User, working folder and command line of an image's first process. Asked by the gateway that starts it, and before
//! that by whoever deploys it: one judge for both.
//!
//! Looks at the unpacked image only. What cannot run is refused with what to change in the image.

use std::path::Path;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::durable;
use edgewarden_protocol::deployment::Module;

use crate::manifest::ImageConfig;
use crate::{program, tree};

/// `PATH` of a container when neither image nor deployment says it.
pub const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The OCI runtime's own limit; above it lies the number that means "no user".
const ID_MAX: u32 = i32::MAX as u32;
const ACCOUNTS_BYTES_MAX: usize = 64 * 1024;

/// A module with its image, unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Execution<'a> {
    pub module: &'a Module,
    pub image: &'a ImageConfig,
    pub root: &'a Path,
    /// User that it runs as when the image names nobody.
    pub own_user: u32,
    /// Users of the gateway that no module runs as.
    pub forbidden_users: &'a [u32],
}

impl Execution<'_> {
    /// Refuses a module that cannot be started at all.
    pub fn check(&self) -> Result<(), Refusal> {
        if !tree::mount_folders_are_empty(self.root) {
            return Err(self.command("something lies in the unpacked image where a gateway mounts"));
        }
        self.user()?;
        self.args().map(drop)
    }

    fn command(&self, rule: impl std::fmt::Display) -> Refusal {
        Refusal::new(Reason::ImageCommand, &self.module.name, rule)
    }

    fn bad_user(&self, rule: impl std::fmt::Display) -> Refusal {
        Refusal::new(Reason::ImageUser, &self.module.name, rule)
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

    /// Without links, so that it leads the runtime where it led us.
    pub fn working_folder(&self) -> Result<String, Refusal> {
        let folder = self.image.config.working_dir.as_deref().filter(|folder| !folder.is_empty());
        let folder = folder.unwrap_or("/");
        if !folder.starts_with('/') {
            return Err(self.command("the image's working folder is not absolute"));
        }
        // A runtime would make it in the root that modules share, or find it elsewhere.
        tree::folder(self.root, folder).ok_or_else(|| {
            let named = folder.escape_debug();
            self.command(format!("the image's working folder `{named}` is not in the image"))
        })
    }

    /// `user[:group]`, by number or by a name that the image's own tables hold. Root is refused.
    pub fn user(&self) -> Result<(u32, u32), Refusal> {
        let text = self.image.config.user.as_deref().unwrap_or_default();
        if text.is_empty() {
            return Ok((self.own_user, self.own_user));
        }
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let (user, own_group) = match user.parse() {
            Ok(user) => (user, user),
            Err(_) => self.look_up("etc/passwd", user)?,
        };
        let group = match group.map(|group| (group, group.parse())) {
            None => own_group,
            Some((_, Ok(group))) => group,
            Some((name, Err(_))) => self.look_up("etc/group", name)?.0,
        };
        if user == 0 || group == 0 {
            return Err(self.bad_user("the image asks to run as root; give it a USER"));
        }
        if user > ID_MAX || group > ID_MAX {
            return Err(self.bad_user("the image asks to run as a user that no system has"));
        }
        // Users are not the kernel's only measure, but the limits that it keeps for each user are shared by its number.
        if self.forbidden_users.contains(&user) {
            let rule = format!("user {user} is a daemon's own on this gateway; give the image another USER");
            return Err(self.bad_user(rule));
        }
        Ok((user, group))
    }

    /// Number and group of a name in a table of the image. The table's folder must not be a link.
    fn look_up(&self, table: &str, name: &str) -> Result<(u32, u32), Refusal> {
        let unknown =
            || self.bad_user(format!("the image has no `{}` in its `/{table}`", name.escape_debug()));
        let path = self.root.join(table);
        if path
            .parent()
            .is_none_or(|folder| folder.symlink_metadata().map_or(true, |metadata| !metadata.is_dir()))
        {
            return Err(unknown());
        }
        let bytes = durable::read(&path, ACCOUNTS_BYTES_MAX).ok().flatten().ok_or_else(unknown)?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|line| line.first() == Some(&name));
        let number =
            |line: &[&str], index: usize| line.get(index).and_then(|field| field.parse::<u32>().ok());
        let line = line.ok_or_else(unknown)?;
        let id = number(&line, 2).ok_or_else(unknown)?;
        Ok((id, number(&line, 3).unwrap_or(id)))
    }
}
