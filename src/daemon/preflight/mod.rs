//! What can be known about the system before any mail comes: by a start, by a reload, and by `-t`.
//!
//! The answers can be outdated a moment later, so they replace no check at run time. Faults stop a start; warnings do
//! not, as one mailbox that is out of order is no reason to refuse everybody's mail: its mail waits in the spool.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, statfs};
use nix::unistd::{AccessFlags, Gid, Uid, eaccess};

use crate::daemon::config::{Config, ConfigError, Files, faults_of};
use crate::relay::queue;
use crate::store::directory::{self, Owner};
use crate::store::mailbox::{self, Finding, Identity};
use crate::store::spool::{self, Spool};

/// Open files beside those of clients and relays: listeners, log, mailboxes, DNS, and what the queue keeps open.
const FILES_BESIDE: u64 = 100 + (spool::RECYCLED + queue::OPEN) as u64;

/// A client holds its connection and a file (spilled data, or the mailbox being written); a relay the
/// same, with the spooled message.
const FILES_EACH: u64 = 2;

/// A thread costs its stack and the guard page below.
const MAPPINGS_EACH: u64 = 2;

/// Mappings of the program itself, its libraries, the allocator and its own few threads.
const MAPPINGS_BESIDE: u64 = 1000;

/// Deliveries of one message at a time.
const DELIVERIES: usize = 8;

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

impl Findings {
    /// Adds those of a further check.
    pub fn append(&mut self, more: Findings) {
        self.faults.extend(more.faults);
        self.refused.extend(more.refused);
        self.warnings.extend(more.warnings);
    }
}

impl Config {
    /// RUN_AS needs root, unless it names the user that we are.
    pub fn check_run_as(&self, files: &Files) -> Option<ConfigError> {
        let (me, run_as) = (Uid::effective(), self.mail.run_as.as_ref()?);
        let impossible = !me.is_root() && run_as.uid != me.as_raw();
        let user = &run_as.user;
        impossible.then(|| {
            self.fault(
                files,
                "RUN_AS",
                format!("only root can become {user}, and this is user {me}"),
            )
        })
    }

    /// What the user who starts us can tell: directories that are missing and cannot be made.
    pub fn check_before(&self, files: &Files) -> Findings {
        let mut findings = Findings::default();
        let who = self.owner().map_or_else(Identity::current, |owner| {
            Identity::of(owner.uid, owner.gid)
        });
        let mailboxes = self.mailboxes();
        let mut faults = Vec::new();
        for (file, line) in &mailboxes {
            let mut above = file.ancestors().skip(1);
            if let Some((outer, other)) = above.find_map(|dir| mailboxes.get_key_value(dir)) {
                let outer = outer.display();
                faults.push((
                    *line,
                    format!("{outer} is a mailbox of line {other}, not a directory"),
                ));
            } else if let Err(error) = std::path::absolute(file) {
                faults.push((*line, no_working_directory(file, &error)));
            } else if let Some(Finding::Fault(what)) = mailbox::check(file, &who) {
                faults.push((*line, what));
            }
        }
        findings.faults = faults_of(&files.user_conf, faults);
        if !self.mail.spool_dir.exists() {
            findings.refused.extend(self.check_spool_dir(files));
        }
        findings
    }

    /// What the user that the daemon runs as finds, who is this process by now; and all that is to be warned about.
    pub fn check_as_user(&self, files: &Files) -> Findings {
        let mut findings = Findings::default();
        if self.mail.spool_dir.exists() {
            findings.refused.extend(self.check_spool_dir(files));
        }
        let who = Identity::current();
        let mailboxes = self.mailboxes();
        let warnings = &mut findings.warnings;
        *warnings = limits(
            self.threads(mailboxes.len()),
            hard_file_limit(),
            max_map_count(),
        );
        if Uid::effective().is_root() && self.mail.run_as.is_none() {
            warnings.push("the daemon runs as root: RUN_AS names a user to become".into());
        }
        if self.users.iter().next().is_none() {
            let file = files.user_conf.display();
            warnings.push(format!(
                "{file} names no users: no mail is taken for this host"
            ));
        }
        for network in self
            .mail
            .relay_from
            .iter()
            .filter(|network| network.prefix_len() == 0)
        {
            warnings.push(format!(
                "RELAY_FROM holds {network}: an open relay, for anybody's mail"
            ));
        }
        for file in mailboxes.keys() {
            if let Some(Finding::Warning(what)) = mailbox::check(file, &who) {
                warnings.push(what);
            }
            if file.parent() == Some(&self.mail.spool_dir) {
                let file = file.display();
                warnings.push(format!(
                    "mailbox {file} lies in SPOOL_DIR, which is for the queue alone"
                ));
            }
        }
        findings
    }

    /// Makes the directories that are missing, each on its own, and gives them to the user of RUN_AS.
    pub fn make_folders(&self, files: &Files) -> Findings {
        let mut findings = Findings::default();
        let mut faults = Vec::new();
        let owner = self.owner().filter(|_| Uid::effective().is_root());
        for (file, line) in self.mailboxes() {
            let folder = file.parent().unwrap_or(Path::new("."));
            if let Err(error) = directory::make(folder, owner) {
                faults.push((
                    line,
                    format!("{} cannot be made: {error}", folder.display()),
                ));
            }
        }
        findings.faults = faults_of(&files.user_conf, faults);
        if let Err(error) = directory::make(&self.mail.spool_dir, owner) {
            let dir = self.mail.spool_dir.display();
            let what = format!("{dir} cannot be made: {error}");
            findings.refused.push(self.fault(files, "SPOOL_DIR", what));
        }
        findings
    }

    /// Who directories are made for, if it is not this process.
    fn owner(&self) -> Option<Owner> {
        let run_as = self.mail.run_as.as_ref()?;
        Some(Owner {
            uid: Uid::from_raw(run_as.uid),
            gid: Gid::from_raw(run_as.gid),
        })
    }

    /// Every mailbox with the first line that names it.
    fn mailboxes(&self) -> BTreeMap<&Path, usize> {
        let mut mailboxes = BTreeMap::new();
        for (file, line) in self.users.files() {
            let first = mailboxes.entry(file).or_insert(line);
            *first = line.min(*first);
        }
        mailboxes
    }

    /// Threads at the most: each client's, those that deliver its message beside it, and the queue's.
    fn threads(&self, mailboxes: usize) -> u64 {
        let deliveries = mailboxes.clamp(1, DELIVERIES);
        let clients = self.mail.max_clients.saturating_mul(deliveries);
        clients.saturating_add(self.mail.max_relays) as u64
    }

    fn check_spool_dir(&self, files: &Files) -> Option<ConfigError> {
        let what = check_spool_dir(&self.mail.spool_dir).err()?;
        Some(self.fault(files, "SPOOL_DIR", what))
    }

    fn fault(&self, files: &Files, key: &str, what: String) -> ConfigError {
        let (file, line) = (
            files.mail_conf.clone(),
            self.mail.lines.of(key).unwrap_or(1),
        );
        let what = format!("{key}: {what}");
        ConfigError { file, line, what }
    }
}

fn no_working_directory(path: &Path, error: &io::Error) -> String {
    format!(
        "{} is relative, and the working directory cannot be used: {error}",
        path.display()
    )
}

/// Why mail cannot wait in `dir`, or why it cannot be made.
fn check_spool_dir(dir: &Path) -> Result<(), String> {
    std::path::absolute(dir).map_err(|error| no_working_directory(dir, &error))?;
    for above in dir.ancestors() {
        // A relative path ends in "": the working directory.
        let above = if above == Path::new("") {
            Path::new(".")
        } else {
            above
        };
        let shown = above.display();
        let data = match fs::metadata(above) {
            // A link to nowhere is no directory, and none can be made in its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !above.is_symlink() => {
                continue;
            }
            Err(error) => return Err(format!("{shown} cannot be used: {error}")),
            Ok(data) => data,
        };
        if !data.is_dir() {
            return Err(format!("{shown} is no directory"));
        }
        if above == dir {
            Spool::check(dir).map_err(|error| format!("{shown} {error}"))?;
        }
        eaccess(
            above,
            AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK,
        )
        .map_err(|error| format!("{shown} cannot be written to: {}", error.desc()))?;
        let disk =
            statfs(above).map_err(|error| format!("{shown} cannot be used: {}", error.desc()))?;
        if [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&disk.filesystem_type()) {
            return Err(format!("{shown} is the kernel's, and takes no files"));
        }
        // One that does not count its blocks has none at all.
        if disk.blocks() > 0 && disk.blocks_available() == 0 {
            return Err(format!("no space is left on the disk of {shown}"));
        }
        return Ok(());
    }
    Ok(())
}

fn hard_file_limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE)
        .ok()
        .map(|(_, hard)| hard)
}

fn max_map_count() -> Option<u64> {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    text.trim().parse().ok()
}

/// Which limits are too low for so many threads. `None`: unknown, or there is none.
fn limits(threads: u64, files: Option<u64>, mappings: Option<u64>) -> Vec<String> {
    let needs = [
        (
            "open files",
            files,
            FILES_EACH,
            FILES_BESIDE,
            "the hard limit (ulimit -Hn) is",
        ),
        (
            "memory mappings",
            mappings,
            MAPPINGS_EACH,
            MAPPINGS_BESIDE,
            "vm.max_map_count is",
        ),
    ];
    let mut warnings = Vec::new();
    for (what, limit, each, beside, name) in needs {
        let need = threads.saturating_mul(each).saturating_add(beside);
        if let Some(limit) = limit.filter(|limit| *limit < need) {
            warnings.push(format!(
                "MAX_CLIENTS and MAX_RELAYS may need {need} {what}, but {name} {limit}: raise it, or lower them"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests;
