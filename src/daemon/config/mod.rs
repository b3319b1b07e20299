//! The configuration: both files, read and checked as one.
//!
//! Reading changes nothing on the system. Every fault of both files is reported, not only the first,
//! each as `FILE:LINE: what is wrong`, in the order of the lines. A file that cannot be read at all is
//! a fault of its line 1, and so is what is wrong with a default. mail.conf is read by `mail`, user.conf
//! by `users`, lines of both by `lines`, values by `value`; what depends on the system's state is looked at by `preflight`.
//!
//! A `Config` is a value: a reload makes a new one, and [`Config::reloaded`] keeps from the old one
//! what only a restart can change.

mod lines;
mod mail;
mod run_as;
mod users;
mod value;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::smtp::address::Host;

pub use lines::ConfigError;
pub(crate) use lines::faults_of;
pub use mail::MailConf;
pub use run_as::RunAs;
pub use users::{Place, Users};

/// The two files, as the command line names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// MAIL_CONF.
    pub mail_conf: PathBuf,
    /// USER_CONF.
    pub user_conf: PathBuf,
}

/// Both files, read and checked. `Clone + PartialEq` so that a reload can be compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// mail.conf.
    pub mail: MailConf,
    /// user.conf.
    pub users: Users,
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

    /// HOSTNAME, one of LOCAL_DOMAINS, or `localhost`.
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
