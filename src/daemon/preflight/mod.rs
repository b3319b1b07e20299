//! What can be known about the system before any mail comes: by a start, by a reload, and by `-t`.
//!
//! The answers can be outdated a moment later, so they replace no check at run time. Faults stop a start; warnings do
//! not, as one mailbox that is out of order is no reason to refuse everybody's mail: its mail waits in the spool.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, Statfs, statfs};
use nix::unistd::{AccessFlags, Gid, Uid, eaccess};

use crate::daemon::config::{Config, ConfigError, Files, RunAs, faults_of};
use crate::daemon::router::DELIVERIES;
use crate::store::directory::{self, Owner};
use crate::store::mailbox::{self, Finding, Identity};
use crate::store::spool::{self, Spool};

/// Open files beside those of clients and relays: listeners and what waits at them, log, mailboxes, DNS, and what the
/// spool keeps open.
const FILES_BESIDE: u64 = 100 + spool::RECYCLED as u64;

/// A client holds its connection and a file (spilled data, or the mailbox being written); a relay the
/// same, with the spooled message.
const FILES_EACH: u64 = 2;

/// A thread costs its stack and the guard page below.
const MAPPINGS_EACH: u64 = 2;

/// Mappings of the program itself, its libraries, the allocator and its own few threads.
const MAPPINGS_BESIDE: u64 = 1000;

/// What the checks have found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Faults of the files: exit status 78.
    pub faults: Vec<ConfigError>,
    /// What the system refuses: exit status 71.
    pub refused: Vec<ConfigError>,
    /// What stops no start.
    pub warnings: Vec<String>,
}

impl Config {
    /// RUN_AS needs root, unless it names the user that we are; whether that is so.
    pub fn check_run_as(&self, files: &Files, findings: &mut Findings) -> bool {
        let me = Uid::effective();
        match &self.mail.run_as {
            Some(RunAs { user, uid, .. }) if !me.is_root() && *uid != me.as_raw() => {
                let what = format!("only root can become {user}, and this is user {me}");
                findings.faults.push(self.fault(files, "RUN_AS", what));
                false
            }
            _ => true,
        }
    }

    /// What the user who starts us can tell: directories that are missing and cannot be made.
    pub fn check_before(&self, files: &Files, findings: &mut Findings) {
        let owner = self.owner();
        let who = owner.map_or_else(Identity::current, |to| Identity::of(to.uid, to.gid));
        let mailboxes = self.users.mailboxes();
        let judge = |(file, line): (&&Path, &usize)| {
            let mut above = file.ancestors().skip(1);
            let what =
                if let Some((outer, line)) = above.find_map(|dir| mailboxes.get_key_value(dir)) {
                    let outer = outer.display();
                    format!("{outer} is a mailbox of line {line}, not a directory")
                } else if let Err(what) = absolute(file) {
                    what
                } else if let Some(Finding::Fault(what)) = mailbox::check(file, &who) {
                    what
                } else {
                    return None;
                };
            Some((*line, what))
        };
        let faults = mailboxes.iter().filter_map(judge).collect();
        findings.faults.extend(faults_of(&files.user_conf, faults));
        if !self.mail.spool_dir.exists() {
            self.check_spool_dir(files, findings);
        }
    }

    /// What the user that the daemon runs as finds, who is this process by now; and all that is to be warned about.
    pub fn check_as_user(&self, files: &Files, findings: &mut Findings) {
        if self.mail.spool_dir.exists() {
            self.check_spool_dir(files, findings);
        }
        let (mailboxes, who) = (self.users.mailboxes(), Identity::current());
        let mut warn = |what| findings.warnings.push(what);
        limits(self.threads(mailboxes.len())).for_each(&mut warn);
        if Uid::effective().is_root() && self.mail.run_as.is_none() {
            warn("the daemon runs as root: RUN_AS names a user to become".into());
        }
        if self.users.iter().next().is_none() {
            let file = files.user_conf.display();
            warn(format!("{file} names no users: nobody here gets mail"));
        }
        let everybody = |network: &&IpNet| network.prefix_len() == 0;
        for network in self.mail.relay_from.iter().filter(everybody) {
            warn(format!(
                "RELAY_FROM holds {network}: an open relay, for anybody's mail"
            ));
        }
        for file in mailboxes.into_keys() {
            if let Some(Finding::Warning(what)) = mailbox::check(file, &who) {
                warn(what);
            }
            if file.parent() == Some(&self.mail.spool_dir) {
                let file = file.display();
                warn(format!(
                    "mailbox {file} lies in SPOOL_DIR, which is for the queue alone"
                ));
            }
        }
    }

    /// Makes the directories that are missing, each on its own, and gives them to the user of RUN_AS.
    pub fn make_folders(&self, files: &Files, findings: &mut Findings) {
        let owner = self.owner().filter(|_| Uid::effective().is_root());
        let shown = |dir: &Path, error| format!("{} cannot be made: {error}", dir.display());
        let mailboxes = self.users.mailboxes().into_iter();
        let faults = mailboxes.filter_map(|(file, line)| {
            let folder = file.parent().unwrap_or(Path::new("."));
            let error = directory::make(folder, owner).err()?;
            // A link that a user has put there is warned about: it must not stop the mail of all others.
            (!directory::is_refusal(&error)).then(|| (line, shown(folder, error)))
        });
        findings
            .faults
            .extend(faults_of(&files.user_conf, faults.collect()));
        if let Err(error) = directory::make(&self.mail.spool_dir, owner) {
            let what = shown(&self.mail.spool_dir, error);
            findings.refused.push(self.fault(files, "SPOOL_DIR", what));
        }
    }

    /// Who directories are made for, if it is not this process.
    fn owner(&self) -> Option<Owner> {
        self.mail.run_as.as_ref().map(|run_as| Owner {
            uid: Uid::from_raw(run_as.uid),
            gid: Gid::from_raw(run_as.gid),
        })
    }

    /// Threads at the most: each client's, those that deliver its message beside it, and the queue's.
    fn threads(&self, mailboxes: usize) -> u64 {
        let clients = self.mail.max_clients * mailboxes.clamp(1, DELIVERIES);
        (clients + self.mail.max_relays) as u64
    }

    fn check_spool_dir(&self, files: &Files, findings: &mut Findings) {
        if let Err(what) = check_spool_dir(&self.mail.spool_dir) {
            findings.refused.push(self.fault(files, "SPOOL_DIR", what));
        }
    }

    fn fault(&self, files: &Files, key: &str, what: String) -> ConfigError {
        let line = self.mail.lines.of(key).unwrap_or(1);
        ConfigError {
            file: files.mail_conf.clone(),
            line,
            what: format!("{key}: {what}"),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| {
        let path = path.display();
        format!("{path} is relative, and the working directory cannot be used: {error}")
    })
}

/// Why mail cannot wait in `dir`, or why it cannot be made.
fn check_spool_dir(dir: &Path) -> Result<(), String> {
    let dir = absolute(dir)?;
    // A link to nowhere is no directory, and none can be made in its place.
    let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    let is_there = |dir: &&Path| !dir.symlink_metadata().is_err_and(is_missing);
    let nearest = dir.ancestors().find(is_there).unwrap_or(Path::new("/"));
    let shown = nearest.display();
    let data = nearest.metadata();
    let data = data.map_err(|error| format!("{shown} cannot be used: {error}"))?;
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    let disk = statfs(nearest).ok();
    let is = |judge: fn(&Statfs) -> bool| disk.as_ref().is_some_and(judge);
    let what = if !data.is_dir() {
        "is no directory".to_owned()
    } else if nearest == dir
        && let Err(error) = Spool::check(&dir)
    {
        error.to_string()
    } else if let Err(error) = eaccess(nearest, all) {
        format!("cannot be written to: {}", error.desc())
    } else if is(|disk| [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&disk.filesystem_type())) {
        "is the kernel's own, and takes no files".to_owned()
    } else if is(|disk| disk.blocks() > 0 && disk.blocks_available() == 0) {
        "lies on a disk that has no space left".to_owned()
    } else {
        return Ok(());
    };
    Err(format!("{shown} {what}"))
}

/// Which limits of the system are too low for so many threads.
fn limits(threads: u64) -> impl Iterator<Item = String> {
    let files = getrlimit(Resource::RLIMIT_NOFILE)
        .ok()
        .map(|(_, hard)| hard);
    let mappings = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let mappings = mappings.and_then(|text| text.trim().parse().ok());
    let need = threads * FILES_EACH + FILES_BESIDE;
    let files = too_low(need, "open files", files, "the hard limit (ulimit -Hn)");
    let need = threads * MAPPINGS_EACH + MAPPINGS_BESIDE;
    let mappings = too_low(need, "memory mappings", mappings, "vm.max_map_count");
    files.into_iter().chain(mappings)
}

/// `limit`: `None` if it is unknown, or if there is none.
fn too_low(need: u64, what: &str, limit: Option<u64>, name: &str) -> Option<String> {
    let limit = limit.filter(|limit| *limit < need)?;
    Some(format!(
        "MAX_CLIENTS and MAX_RELAYS may need {need} {what}, but {name} is {limit}: raise it, or lower them"
    ))
}

#[cfg(test)]
mod tests;
