//! The configuration: both files, read and checked as one.
//!
//! Reading changes nothing on the system. Every fault of both files is reported, not only the first,
//! each as `FILE:LINE: what is wrong`, in the order of the lines. A file that cannot be read at all is
//! a fault of its line 1, and so is what is wrong with a default. mail.conf is read by `mail_conf`,
//! user.conf by `user_conf`, values by `conf_value`; what depends on the system's state is looked at
//! by `preflight`.
//!
//! A `Config` is a value: a reload makes a new one, and [`Config::reloaded`] keeps from the old one
//! what only a restart can change.

mod mail;
mod run_as;
mod users;
mod value;

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::smtp::address::Host;

pub use mail::MailConf;
pub use run_as::RunAs;
pub use users::{Place, Users};

/// The largest file that is read: far more than any list of users, and a bound for `/dev/zero`.
const FILE_MAX: u64 = 64 << 20;

/// Both files, read and checked. `Clone + PartialEq` so that a reload can be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// mail.conf.
    pub mail: MailConf,
    /// user.conf.
    pub users: Users,
}

/// One fault: `FILE:LINE: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}", file = file.display())]
pub struct ConfigError {
    /// The file, as the command line names it.
    pub file: PathBuf,
    /// The line, from 1; 1 also for what belongs to no line.
    pub line: usize,
    /// What is wrong, and mostly what to write instead.
    pub what: String,
}

impl Config {
    /// Reads both files.
    ///
    /// # Errors
    ///
    /// Every fault of both, those of mail.conf first.
    pub fn load(mail_conf: &Path, user_conf: &Path) -> Result<Config, Vec<ConfigError>> {
        let (mail, mut errors) = MailConf::read(mail_conf);
        let (users, user_errors) = Users::read(user_conf, &|host| mail.names(host));
        errors.extend(user_errors);
        if errors.is_empty() {
            Ok(Config { mail, users })
        } else {
            Err(errors)
        }
    }

    /// HOSTNAME or one of LOCAL_DOMAINS.
    pub fn is_local(&self, host: &Host) -> bool {
        self.mail.is_local(host)
    }

    /// Whether RELAY_FROM holds this client (v4-mapped is v4).
    pub fn may_relay(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.mail
            .relay_from
            .iter()
            .any(|network| network.contains(&client))
    }

    /// The keys that differ in `new` and that only a restart can change.
    pub fn restart_needed(&self, new: &Config) -> Vec<&'static str> {
        let (old, new) = (&self.mail, &new.mail);
        [
            ("HOSTNAME", old.hostname != new.hostname),
            ("LISTEN_ADDR", old.listen_addr != new.listen_addr),
            ("LISTEN_PORT", old.listen_port != new.listen_port),
            ("SPOOL_DIR", old.spool_dir != new.spool_dir),
            ("RUN_AS", old.run_as != new.run_as),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
    }

    /// `new`, but with the keys that only a restart can change as they are now.
    pub fn reloaded(&self, new: Config) -> Config {
        let old = self.mail.clone();
        Config {
            mail: MailConf {
                hostname: old.hostname,
                listen_addr: old.listen_addr,
                listen_port: old.listen_port,
                spool_dir: old.spool_dir,
                run_as: old.run_as,
                ..new.mail
            },
            users: new.users,
        }
    }
}

/// The faults of one file, as they are found.
pub(crate) struct Faults<'a> {
    file: &'a Path,
    list: Vec<ConfigError>,
}

impl<'a> Faults<'a> {
    pub(crate) fn of(file: &'a Path) -> Faults<'a> {
        Faults {
            file,
            list: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, line: usize, what: impl Into<String>) {
        self.list.push(ConfigError {
            file: self.file.into(),
            line,
            what: what.into(),
        });
    }

    pub(crate) fn any(&self) -> bool {
        !self.list.is_empty()
    }

    /// All of them in the order of their lines.
    pub(crate) fn sorted(mut self) -> Vec<ConfigError> {
        self.list.sort_by_key(|error| error.line);
        self.list
    }
}

/// The whole file; an unreadable one is a fault, and then empty.
pub(crate) fn read_file(path: &Path, faults: &mut Faults<'_>) -> Vec<u8> {
    let mut octets = Vec::new();
    let read = || -> io::Result<()> {
        File::open(path)?
            .take(FILE_MAX + 1)
            .read_to_end(&mut octets)?;
        if octets.len() as u64 > FILE_MAX {
            return Err(io::Error::other("larger than 64 MiB"));
        }
        Ok(())
    }();
    match read {
        Ok(()) => octets,
        Err(error) => {
            faults.add(1, format!("the file cannot be read: {error}"));
            Vec::new()
        }
    }
}

/// The lines that say something, trimmed, with their numbers: no blank lines, no comments. A line
/// that is no plain text is a fault.
pub(crate) fn lines<'a>(octets: &'a [u8], faults: &mut Faults<'_>) -> Vec<(usize, &'a str)> {
    let mut lines = Vec::new();
    for (number, mut line) in (1..).zip(octets.split(|&octet| octet == b'\n')) {
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if let (1, Some(rest)) = (number, line.strip_prefix(b"\xef\xbb\xbf")) {
            faults.add(1, "a byte order mark: save the file as UTF-8 without one");
            line = rest;
        }
        // Looked for in comments too: in a file with CR line ends, all would be one comment.
        if line.contains(&b'\r') {
            faults.add(
                number,
                "a carriage return inside the line: end lines with LF or CRLF",
            );
            continue;
        }
        line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match str::from_utf8(line) {
            Err(_) => faults.add(number, "not valid UTF-8"),
            Ok(text) if text.contains(|c: char| c.is_control() && c != '\t') => {
                faults.add(number, "a control character");
            }
            Ok(text) => lines.push((number, text)),
        }
    }
    lines
}

/// The known key that `key` was probably meant to be.
pub(crate) fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key = key.to_ascii_uppercase().replace(['-', ' ', '.'], "_");
    let (changes, known) = known
        .iter()
        .map(|known| (distance(&key, known), *known))
        .min()?;
    (changes <= 2 || changes * 3 <= known.len()).then_some(known)
}

/// How many octets to insert, remove or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            left = (corner + usize::from(x != y)).min(*cell + 1).min(left + 1);
            corner = std::mem::replace(cell, left);
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mail: &str, users: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let (m, u) = (dir.path().join("mail.conf"), dir.path().join("user.conf"));
        std::fs::write(&m, format!("HOSTNAME = example.org\n{mail}")).unwrap();
        std::fs::write(&u, users).unwrap();
        Config::load(&m, &u).unwrap()
    }

    #[test]
    fn lines_skip_what_says_nothing_and_report_what_is_no_text() {
        let file = Path::new("f");
        let mut faults = Faults::of(file);
        let text = b"\xef\xbb\xbfa = 1\r\n\r\n \n# \xff comment\n\t#x\nb\xff\nc\x00\n  d = \xc3\xa9 \ne\rf\n#g\rh\nlast";
        assert_eq!(
            lines(text, &mut faults),
            [(1, "a = 1"), (8, "d = é"), (11, "last")]
        );
        let numbers: Vec<usize> = faults.sorted().iter().map(|error| error.line).collect();
        assert_eq!(numbers, [1, 6, 7, 9, 10]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_fault_of_its_first_line() {
        let errors = Config::load(Path::new("/nowhere/m"), Path::new("/")).unwrap_err();
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            text[0].starts_with("/nowhere/m:1: the file cannot be read: No such"),
            "{text:?}"
        );
        assert!(
            text.last()
                .unwrap()
                .starts_with("/:1: the file cannot be read: Is a dir"),
            "{text:?}"
        );
        let errors = Config::load(Path::new("/dev/zero"), Path::new("/dev/null")).unwrap_err();
        assert!(errors[0].what.contains("64 MiB"), "{errors:?}");
    }

    #[test]
    fn local_hosts_and_relaying_networks() {
        let config = config(
            "LOCAL_DOMAINS = a.example, [192.0.2.1]\nRELAY_FROM = 10.0.0.0/8, ::1",
            "",
        );
        for host in [
            "EXAMPLE.org",
            "A.example",
            "[192.0.2.1]",
            "[IPv6:::ffff:192.0.2.1]",
        ] {
            assert!(config.is_local(&host.parse().unwrap()), "{host}");
        }
        for host in ["b.example", "sub.example.org", "[192.0.2.2]"] {
            assert!(!config.is_local(&host.parse().unwrap()), "{host}");
        }
        for (client, may) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("::1", true),
            ("127.0.0.1", false),
            ("11.0.0.0", false),
            ("::2", false),
        ] {
            assert_eq!(config.may_relay(client.parse().unwrap()), may, "{client}");
        }
    }

    #[test]
    fn a_reload_keeps_what_needs_a_restart() {
        let old = config("SPOOL_DIR = /a\nLISTEN_PORT = 25", "john:/m/john");
        let same = config(
            "\n# moved\nLISTEN_PORT = 25\nSPOOL_DIR = /a",
            "# x\njohn:/m/john",
        );
        assert_eq!(old, same, "where a line stands is no part of what it says");
        assert!(old.restart_needed(&same).is_empty());

        let new = config(
            "SPOOL_DIR = /b\nLISTEN_ADDR = ::\nMAX_CLIENTS = 7",
            "jack:/m/jack",
        );
        assert_eq!(old.restart_needed(&new), ["LISTEN_ADDR", "SPOOL_DIR"]);
        let reloaded = old.reloaded(new.clone());
        assert!(old.restart_needed(&reloaded).is_empty());
        assert_eq!(reloaded.mail.max_clients, 7);
        assert_eq!(reloaded.users, new.users);
    }
}
