//! The configuration: both files, read and checked as one.
//!
//! Reading changes nothing on the system. Every fault of both files is reported, not only the first,
//! each as `FILE:LINE: what is wrong`, in the order of the lines. A file that cannot be read at all is
//! a fault of its line 1, and so is what is wrong with a default. mail.conf is read by `mail`, user.conf
//! by `users`, values by `value`; what depends on the system's state is looked at by `preflight`.
//!
//! A `Config` is a value: a reload makes a new one, and [`Config::reloaded`] keeps from the old one
//! what only a restart can change.

mod mail;
mod run_as;
mod users;
mod value;

use std::fs::File;
use std::io::Read;
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
        let (mail, faults) = MailConf::read(mail_conf);
        let mut errors = faults_of(mail_conf, faults);
        let (users, faults) = Users::read(user_conf, &|host| mail.names(host));
        errors.extend(faults_of(user_conf, faults));
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
        self.mail.restart_needed(&new.mail)
    }

    /// `new`, but with the keys that only a restart can change as they are now.
    pub fn reloaded(&self, mut new: Config) -> Config {
        new.mail.keep(&self.mail);
        new
    }
}

/// What is wrong with one line of a file, and the line's number.
pub(crate) type Fault = (usize, String);

/// The faults of one file, in the order of its lines.
pub(crate) fn faults_of(file: &Path, mut faults: Vec<Fault>) -> Vec<ConfigError> {
    faults.sort_by_key(|(line, _)| *line);
    let with_file = |(line, what)| ConfigError {
        file: file.into(),
        line,
        what,
    };
    faults.into_iter().map(with_file).collect()
}

/// Hands each line of a file that says something to `take`, with its number, and collects the faults. `Err`: the
/// file cannot be read.
pub(crate) fn read_lines(
    file: &Path,
    mut take: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<Vec<Fault>, Fault> {
    let mut octets = Vec::new();
    let read = File::open(file).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut octets));
    match read {
        Ok(len) if len as u64 <= FILE_MAX => {}
        Ok(_) => return Err((1, "the file is larger than 64 MiB".into())),
        Err(error) => return Err((1, format!("the file cannot be read: {error}"))),
    }
    let lines = (1..).zip(octets.split(|&octet| octet == b'\n'));
    let judged = lines.map(|(number, text)| (number, line(number, text)));
    let taken = judged.map(|(number, text)| match text {
        Ok("") => (number, Ok(())),
        Ok(text) => (number, take(number, text)),
        Err(what) => (number, Err(what.into())),
    });
    Ok(taken
        .filter_map(|(number, taken)| Some((number, taken.err()?)))
        .collect())
}

/// One line, trimmed; empty if it is blank or a comment.
fn line(number: usize, octets: &[u8]) -> Result<&str, &'static str> {
    let octets = octets.strip_suffix(b"\r").unwrap_or(octets);
    if number == 1 && octets.starts_with(b"\xef\xbb\xbf") {
        return Err("a byte order mark: save the file as UTF-8 without one");
    }
    // Looked for in comments too: in a file with CR line ends, all would be one comment.
    if octets.contains(&b'\r') {
        return Err("a carriage return inside the line: end lines with LF or CRLF");
    }
    let octets = octets.trim_ascii();
    if octets.starts_with(b"#") {
        return Ok("");
    }
    match str::from_utf8(octets) {
        Err(_) => Err("not valid UTF-8"),
        Ok(text) if text.contains(|c: char| c.is_control() && c != '\t') => {
            Err("a control character")
        }
        Ok(text) => Ok(text),
    }
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
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = b"\xef\xbb\xbfa = 1\r\n\r\n \n# \xff comment\n\t#x\nb\xff\nc\x00\n  d = \xc3\xa9 \ne\rf\n#g\rh\nlast";
        std::fs::write(file.path(), text).unwrap();
        let mut lines = Vec::new();
        let mut take = |number, text: &str| {
            lines.push((number, text.to_owned()));
            Ok(())
        };
        let faults = read_lines(file.path(), &mut take).unwrap();
        let expected = [(8, "d = é"), (11, "last")].map(|(n, text)| (n, text.to_owned()));
        assert_eq!(lines, expected);
        let numbers: Vec<usize> = faults.iter().map(|(line, _)| *line).collect();
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
