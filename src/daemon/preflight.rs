//! What a start can know about the system before it binds and becomes somebody else.
//!
//! Nothing is changed: directories are only looked at. The answers can be outdated a moment later,
//! so they replace no check at run time. Faults stop a start; warnings do not, as one mailbox that is
//! out of order is no reason to refuse everybody's mail: its mail waits in the spool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, Uid, eaccess};

use crate::daemon::config::{Config, ConfigError, faults_of};
use crate::relay::queue;
use crate::store::spool;

/// Open files beside those of clients and relays: listeners, log, mailboxes, DNS, and what the queue keeps open.
const FILES_BESIDE: u64 = 100 + (spool::SPARES + queue::OPEN) as u64;

/// A client holds its connection and a file (spilled data, or the mailbox being written); a relay the
/// same, with the spooled message.
const FILES_EACH: u64 = 2;

/// A thread costs its stack and the guard page below.
const MAPPINGS_EACH: u64 = 2;

/// Mappings of the program itself, its libraries, the allocator and its own few threads.
const MAPPINGS_BESIDE: u64 = 1000;

impl Config {
    /// What RUN_AS and the directories of the mailboxes say against a start; the paths are those that
    /// [`Config::load`] was given.
    pub fn check_system(&self, mail_conf: &Path, user_conf: &Path) -> Vec<ConfigError> {
        let mut faults = self
            .check_run_as(mail_conf)
            .err()
            .into_iter()
            .collect::<Vec<_>>();
        faults.extend(self.check_mailboxes(user_conf));
        faults
    }

    /// RUN_AS needs root, unless it names the user that we are.
    ///
    /// # Errors
    ///
    /// The fault of its line.
    pub fn check_run_as(&self, mail_conf: &Path) -> Result<(), ConfigError> {
        let me = Uid::effective();
        match &self.mail.run_as {
            Some(run_as) if !me.is_root() && run_as.uid != me.as_raw() => Err(ConfigError {
                file: mail_conf.into(),
                line: self.mail.lines.of("RUN_AS").unwrap_or(1),
                what: format!(
                    "RUN_AS: only root can become {}, and this is user {me}",
                    run_as.user
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Whether SPOOL_DIR is a directory that we can write to, or can be made.
    ///
    /// # Errors
    ///
    /// The fault of its line. It is the system that refuses here (exit status 71, not 78).
    pub fn check_spool_dir(&self, mail_conf: &Path) -> Result<(), ConfigError> {
        check_dir(&self.mail.spool_dir, true).map_err(|reason| ConfigError {
            file: mail_conf.into(),
            line: self.mail.lines.of("SPOOL_DIR").unwrap_or(1),
            what: format!("SPOOL_DIR: {reason}"),
        })
    }

    fn check_mailboxes(&self, user_conf: &Path) -> Vec<ConfigError> {
        let mut faults = Vec::new();
        let files: BTreeMap<&Path, usize> = self.users.files().collect();
        let mut seen = BTreeSet::new();
        for (file, line) in self.users.files() {
            let mut above = file.ancestors().skip(1);
            if let Some(outer) = above.find(|dir| files.contains_key(dir)) {
                let (outer, other) = (outer.display(), files[outer]);
                let what = format!("{outer} is a mailbox of line {other}, not a directory");
                faults.push((line, what));
            } else if let Some(dir) = file.parent().filter(|dir| seen.insert(*dir))
                && let Err(reason) = check_dir(dir, false)
            {
                faults.push((line, reason));
            }
        }
        faults_of(user_conf, faults)
    }

    /// What the operator should know, but what stops no start: limits of the system that are too low,
    /// an open relay, mailboxes that cannot be written as they are.
    pub fn warnings(&self) -> Vec<String> {
        let threads = (self.mail.max_clients as u64).saturating_add(self.mail.max_relays as u64);
        let files = getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(_, hard)| hard);
        let mappings = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
        let mappings = mappings.and_then(|text| text.trim().parse().ok());
        let mut warnings = limits(threads, files, mappings);
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
        for file in self.users.mailboxes() {
            if let Some(fault) = fs::symlink_metadata(file).ok().as_ref().and_then(oddity) {
                let file = file.display();
                warnings.push(format!(
                    "mailbox {file} is {fault}: mail for it waits in the spool"
                ));
            }
            if file.parent() == Some(&self.mail.spool_dir) {
                let file = file.display();
                warnings.push(format!(
                    "mailbox {file} lies in SPOOL_DIR, which is for the queue alone"
                ));
            }
        }
        warnings
    }
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

/// What an existing mailbox is, if no mail may be appended to it.
fn oddity(data: &Metadata) -> Option<&'static str> {
    let kind = data.file_type();
    match () {
        () if kind.is_symlink() => Some("a symbolic link"),
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a FIFO"),
        () if !kind.is_file() => Some("no regular file"),
        () if data.nlink() > 1 => Some("a file with a second hard link"),
        () => None,
    }
}

/// Whether `dir` is a directory, or can be made. `written`: one that exists has to be writable for us;
/// otherwise (a mailbox may lie in a directory of others) only those that have to be made need that.
fn check_dir(dir: &Path, mut written: bool) -> Result<(), String> {
    for dir in dir.ancestors() {
        // A relative path ends in "": the working directory.
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        let shown = dir.display();
        return match fs::metadata(dir) {
            Ok(data) if !data.is_dir() => Err(format!("{shown} is no directory")),
            Ok(_) if !written => Ok(()),
            Ok(_) => eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK)
                .map_err(|error| format!("{shown} cannot be written to: {}", error.desc())),
            // A link to nowhere is no directory, and none can be made in its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.is_symlink() => {
                written = true;
                continue;
            }
            Err(error) => Err(format!("{shown} cannot be used: {error}")),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::Place;
    use crate::daemon::config::{MailConf, RunAs, Users};
    use std::os::unix::fs::symlink;

    fn config(files: &[&Path]) -> Config {
        let mut users = Users::default();
        for (number, file) in files.iter().enumerate() {
            users.insert(&format!("user{number}"), Place::Mbox(file.into()));
        }
        Config {
            mail: MailConf::new("example.org".parse().unwrap()),
            users,
        }
    }

    fn faults(config: &Config) -> Vec<String> {
        let faults = config.check_system(Path::new("m"), Path::new("u"));
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn directories_are_looked_at_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("file"), "").unwrap();
        symlink("nowhere", dir.join("link")).unwrap();
        let good = [
            dir.join("mbox"),
            dir.join("a/b/mbox"),
            dir.join("file"),
            "rel-nowhere/mbox".into(),
        ];
        for file in &good {
            assert!(faults(&config(&[file])).is_empty(), "{file:?}");
        }
        assert!(!dir.join("a").exists());
        for (file, reason) in [
            ("file/mbox", "/file is no directory"),
            ("file/x/mbox", "/file/x cannot be used: Not a directory"),
            ("link/mbox", "/link cannot be used: No such file"),
        ] {
            let found = faults(&config(&[&dir.join(file)]));
            assert!(
                found.len() == 1 && found[0].starts_with("u:1: "),
                "{found:?}"
            );
            assert!(found[0].contains(reason), "{found:?}");
        }
        let mut config = config(&[]);
        for (spool, good) in [
            ("", true),
            ("a/spool", true),
            ("file", false),
            ("file/x", false),
        ] {
            config.mail.spool_dir = dir.join(spool);
            assert_eq!(
                config.check_spool_dir(Path::new("m")).is_ok(),
                good,
                "{spool}"
            );
        }
    }

    #[test]
    fn a_directory_of_others_may_hold_a_mailbox_but_not_the_spool() {
        if Uid::effective().is_root() {
            return; // may write everywhere
        }
        assert_eq!(check_dir(Path::new("/proc/self"), false), Ok(()));
        assert!(check_dir(Path::new("/proc/self"), true).is_err());
        assert!(check_dir(Path::new("/proc/self/nowhere"), false).is_err());
    }

    #[test]
    fn no_mailbox_lies_in_another() {
        let (outer, inner) = (Path::new("/tmp/x"), Path::new("/tmp/x/mbox"));
        assert_eq!(
            faults(&config(&[outer, inner])),
            ["u:1: /tmp/x is a mailbox of line 1, not a directory"]
        );
        assert!(faults(&config(&[inner, inner])).is_empty());
    }

    #[test]
    fn only_root_becomes_somebody_else() {
        let mut config = config(&[]);
        let me = Uid::effective();
        config.mail.run_as = Some(RunAs {
            user: "me".into(),
            uid: me.as_raw(),
            gid: 1,
        });
        assert!(faults(&config).is_empty());
        config.mail.run_as = Some(RunAs {
            user: "other".into(),
            uid: me.as_raw() + 1,
            gid: 1,
        });
        assert_eq!(faults(&config).is_empty(), me.is_root());
    }

    #[test]
    fn limits_that_are_too_low_are_told() {
        assert!(limits(120, Some(1024), Some(65530)).is_empty());
        assert!(limits(1_000_000, None, None).is_empty());
        let warnings = limits(40_000, Some(4096), Some(65530));
        assert!(warnings[0].contains("80356 open files") && warnings[0].contains("is 4096"));
        assert!(warnings[1].contains("81000 memory mappings") && warnings[1].contains("is 65530"));
    }

    #[test]
    fn odd_mailboxes_and_open_relays_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let path = |name: &str| dir.join(name);
        fs::write(path("good"), "").unwrap();
        symlink("good", path("link")).unwrap();
        fs::create_dir(path("dir")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(path("hard"), "").unwrap();
        fs::hard_link(path("hard"), path("hard2")).unwrap();
        assert!(config(&[&path("good"), &path("new")]).warnings().is_empty());
        for (name, what) in [
            ("link", "a symbolic link"),
            ("dir", "a directory"),
            ("fifo", "a FIFO"),
            ("hard", "a second hard link"),
        ] {
            let warnings = config(&[&path(name)]).warnings();
            assert!(
                warnings.len() == 1 && warnings[0].contains(what),
                "{warnings:?}"
            );
        }
        let mut config = config(&[&path("good")]);
        config.mail.relay_from.push("0.0.0.0/0".parse().unwrap());
        config.mail.spool_dir = dir.into();
        assert_eq!(config.warnings().len(), 2, "{:?}", config.warnings());
    }
}
