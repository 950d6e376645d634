//! Checks of users, and of owners and modes of files and folders.

use std::path::{Path, PathBuf};

use edgewarden_protocol::config::Keystore;

use super::words::{no_config, pass_unless};
use crate::check::{Check, Finding};
use crate::facts::{Facts, GATEWAY_USER, IDENTITY_USER, Kind};

/// Checks of the area `permissions`: users, and owners and modes of files and folders.
pub const CHECKS: &[Check] = &[
    Check {
        id: "permissions.identity_user",
        title: "the system user `ew-identity` exists and is not root",
        remedy: "`useradd --system --no-create-home ew-identity`",
        run: |facts| user(IDENTITY_USER, facts.users.identity.map(|user| user.uid)),
    },
    Check {
        id: "permissions.gateway_user",
        title: "the system user `ew-gateway` exists and is not root",
        remedy: "`useradd --system --no-create-home ew-gateway`",
        run: |facts| user(GATEWAY_USER, facts.users.gateway.map(|user| user.uid)),
    },
    Check {
        id: "permissions.separate_users",
        title: "`ew-identity` and `ew-gateway` are two users",
        remedy: "`userdel ew-gateway && useradd --system --no-create-home ew-gateway`, then `edgewarden up` gives the folders their owner again",
        run: separate,
    },
    Check {
        id: "permissions.identity_state",
        title: "keys and certificates are in a folder of `ew-identity` alone",
        remedy: "`chown ew-identity: /var/lib/edgewarden/identity && chmod 0700 /var/lib/edgewarden/identity`",
        run: |facts| folder(facts, &facts.layout.identity_state(), Owner::Identity, 0o700),
    },
    Check {
        id: "permissions.gateway_state",
        title: "the upstream queue is in a folder of `ew-gateway` alone",
        remedy: "`chown ew-gateway: /var/lib/edgewarden/gateway && chmod 0700 /var/lib/edgewarden/gateway`",
        run: |facts| folder(facts, &facts.layout.gateway_state(), Owner::Gateway, 0o700),
    },
    Check {
        id: "permissions.runtime_state",
        title: "images and containers are in a folder of root alone",
        remedy: "`chown root: /var/lib/edgewarden/runtime && chmod 0700 /var/lib/edgewarden/runtime`",
        run: |facts| folder(facts, &facts.layout.runtime_state(), Owner::Root, 0o700),
    },
    Check {
        id: "permissions.logs",
        title: "the modules' logs are in a folder of root alone",
        remedy: "`chown root: /var/lib/edgewarden/logs && chmod 0700 /var/lib/edgewarden/logs`",
        run: |facts| folder(facts, &facts.layout.logs(), Owner::Root, 0o700),
    },
    Check {
        id: "permissions.run_folders",
        title: "the folders of the sockets belong to their daemons, who alone can write there",
        remedy: "restart the gateway: it gives its folders in /run/edgewarden their owners and modes",
        run: run_folders,
    },
    Check {
        id: "permissions.way",
        title: "the daemons' users can walk to their folders, and nobody else can put other folders in their place",
        remedy: "`chmod o+x,go-w FOLDER` for each folder that the message names",
        run: way,
    },
    Check {
        id: "permissions.secret_file",
        title: "the keystore's passphrase or PIN can be read by `ew-identity` and by nobody else",
        remedy: "`chown ew-identity: FILE && chmod 0400 FILE`",
        run: secret_file,
    },
];

#[derive(Clone, Copy)]
enum Owner {
    Root,
    Identity,
    Gateway,
}

impl Owner {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Identity => IDENTITY_USER,
            Self::Gateway => GATEWAY_USER,
        }
    }

    fn uid(self, facts: &Facts) -> Option<u32> {
        match self {
            Self::Root => Some(0),
            Self::Identity => facts.users.identity.map(|user| user.uid),
            Self::Gateway => facts.users.gateway.map(|user| user.uid),
        }
    }
}

fn user(name: &str, uid: Option<u32>) -> Finding {
    match uid {
        None => Finding::fail(format!("there is no user `{name}`")),
        Some(0) => Finding::fail(format!("`{name}` is root")),
        Some(uid) => Finding::pass(format!("uid {uid}")),
    }
}

fn separate(facts: &Facts) -> Finding {
    match (facts.users.identity, facts.users.gateway) {
        (Some(identity), Some(gateway)) if identity.uid == gateway.uid => Finding::fail(format!(
            "both have the uid {}: the messaging daemon could read the keys",
            gateway.uid
        )),
        (Some(_), Some(_)) => Finding::pass("they are"),
        _ => Finding::skip("one of them does not exist"),
    }
}

/// The fault of a folder's kind, owner or mode; `None` for a good one, and for one that is not there.
fn fault(facts: &Facts, path: &Path, owner: Owner, mode: u32) -> Option<String> {
    let (node, uid) = (facts.node(path)?, owner.uid(facts)?);
    if node.kind != Kind::Folder {
        Some(format!("`{}` is not a folder", path.display()))
    } else if node.uid != uid {
        Some(format!("`{}` belongs to user {}, not to {}", path.display(), node.uid, owner.name()))
    } else if node.mode & !mode & 0o777 != 0 {
        Some(format!("`{}` has mode {:04o}, wider than {mode:04o}", path.display(), node.mode))
    } else if node.mode & 0o700 != 0o700 {
        Some(format!("`{}` has mode {:04o}, which shuts its owner out", path.display(), node.mode))
    } else {
        None
    }
}

fn folder(facts: &Facts, path: &Path, owner: Owner, mode: u32) -> Finding {
    let shown = path.display();
    if facts.node(path).is_none() {
        return Finding::skip(format!("`{shown}` is made at the first start"));
    }
    match fault(facts, path, owner, mode) {
        None => Finding::pass(format!("`{shown}` belongs to {}", owner.name())),
        Some(why) => Finding::fail(why)
            .remedy(format!("`chown {}: {shown} && chmod {mode:04o} {shown}`", owner.name())),
    }
}

fn run_folders(facts: &Facts) -> Finding {
    let layout = &facts.layout;
    let folders = [
        (layout.identity_run(), Owner::Identity, 0o755),
        (layout.identity_run().join("workload"), Owner::Identity, 0o711),
        (layout.runtime_run(), Owner::Root, 0o755),
        (layout.gateway_run(), Owner::Gateway, 0o755),
    ];
    if folders.iter().all(|(path, ..)| facts.node(path).is_none()) {
        return Finding::skip("they are made at the first start after the machine's");
    }
    let wrong: Vec<String> =
        folders.iter().filter_map(|(path, owner, mode)| fault(facts, path, *owner, *mode)).collect();
    pass_unless(&wrong, "all of them")
}

const STICKY: u32 = 0o1000;

fn way(facts: &Facts) -> Finding {
    let layout = &facts.layout;
    let ends = [layout.identity_state(), layout.gateway_state(), layout.identity_run(), layout.gateway_run()];
    let mut above: Vec<PathBuf> =
        ends.iter().flat_map(|end| end.ancestors().skip(1)).map(Path::to_path_buf).collect();
    above.sort();
    above.dedup();
    let mut wrong = Vec::new();
    for path in above {
        let Some(node) = facts.node(&path) else { continue };
        let shown = path.display();
        // As one who is neither owner nor in the group.
        if node.mode & 0o001 == 0 {
            wrong.push(format!("`{shown}` cannot be walked through (mode {:04o})", node.mode));
        }
        if node.uid != 0 && node.mode & STICKY == 0 {
            wrong.push(format!("`{shown}` belongs to user {}", node.uid));
        }
        if node.mode & 0o002 != 0 && node.mode & STICKY == 0 {
            wrong.push(format!("`{shown}` can be written by everybody (mode {:04o})", node.mode));
        }
    }
    pass_unless(&wrong, "every folder above")
}

fn secret_file(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    // As strict as the keystore itself, which refuses what is not so.
    let (path, refused) = match &config.keystore {
        Keystore::Software { passphrase_file } => (passphrase_file, 0o027),
        Keystore::Pkcs11 { pin_file, .. } => (pin_file, 0o077),
        _ => return Finding::skip("a TPM needs none"),
    };
    let shown = path.display();
    let (Some(node), Some(user)) = (facts.node(path), facts.users.identity) else {
        return Finding::skip(format!("`{shown}` is not there, or its user is not"));
    };
    let remedy = format!("`chown {IDENTITY_USER}: {shown} && chmod 0400 {shown}`");
    if node.kind != Kind::File {
        Finding::fail(format!("`{shown}` is not a regular file"))
    } else if node.mode & refused != 0 {
        Finding::fail(format!("`{shown}` has mode {:04o}: others can read or write it", node.mode))
            .remedy(remedy)
    } else if node.rights(user.uid, &[user.gid]) & 4 == 0 {
        Finding::fail(format!("`{shown}` cannot be read by {IDENTITY_USER}")).remedy(remedy)
    } else {
        Finding::pass(format!("`{shown}`"))
    }
}
