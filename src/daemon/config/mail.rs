//! mail.conf: one `KEY = VALUE` a line.
//!
//! Keys are spelled exactly as the table below has them. Unknown keys, repeated keys, bad values
//! and values that contradict each other are faults, each with its line.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::daemon::config::lines::{ConfigError, Fault, faults_of, read_lines};
use crate::daemon::config::run_as::{RunAs, run_as};
use crate::daemon::config::value::{
    count, host, ip, list, list_or_none, nameserver, network, path, port, port_or_0, seconds, size,
    time_stamp,
};
use crate::message::TimeStamp;
use crate::message::escape::Escaped;
use crate::smtp::address::Host;

/// Makes [`MailConf`] and all that knows its keys one by one: a row is a key, its field, its default,
/// how its value is read, and whether only a restart can change it.
macro_rules! keys {
    ($($(#[$doc:meta])* $key:literal $field:ident: $type:ty = $default:expr, $read:expr, $restart:expr;)*) => {
        /// mail.conf, or its defaults: a field for each key.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct MailConf {
            $($(#[$doc])* pub $field: $type,)*
            /// Where each key was written, for later faults.
            pub(crate) lines: Lines,
        }

        impl MailConf {
            /// Every key, in the order of the documentation.
            pub const KEYS: &[&str] = &[$($key),*];

            /// The defaults, for a host of this name.
            pub fn new(hostname: Host) -> MailConf {
                let mut conf = MailConf { $($field: $default,)* lines: Lines::default() };
                conf.hostname = hostname;
                conf
            }

            fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
                match key {
                    $($key => self.$field = $read(value)?,)*
                    _ => return Err("unknown key".into()),
                }
                Ok(())
            }

            /// The keys that differ in `new` and that only a restart can change.
            pub(crate) fn restart_needed(&self, new: &MailConf) -> Vec<&'static str> {
                let keys = [$(($key, $restart && self.$field != new.$field)),*];
                keys.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
            }

            /// Keeps of `old` what only a restart can change.
            pub(crate) fn keep(&mut self, old: &MailConf) {
                $(if $restart { self.$field.clone_from(&old.$field); })*
            }
        }
    };
}

const RESTART: bool = true;
const RELOAD: bool = false;

keys! {
    /// The name in the greeting, HELO and trace lines; mail for it is local. By default the system's.
    "HOSTNAME" hostname: Host = Host::literal(Ipv4Addr::UNSPECIFIED.into()), host, RESTART;
    /// Further hosts whose mail is local.
    "LOCAL_DOMAINS" local_domains: Vec<Host> = Vec::new(), |value| list_or_none(value, host), RELOAD;
    /// Addresses to listen on; v4-mapped ones are v4.
    "LISTEN_ADDR" listen_addr: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()], |value| list(value, ip), RESTART;
    /// The port to listen on; 0 lets the system choose.
    "LISTEN_PORT" listen_port: u16 = 25, port_or_0, RESTART;
    /// Clients served at once, at least 1.
    "MAX_CLIENTS" max_clients: usize = 100, count, RELOAD;
    /// Clients served at once from one address; unless set, a quarter of MAX_CLIENTS, but at least 10,
    /// so that one host cannot shut out all others.
    "MAX_CLIENTS_PER_HOST" max_clients_per_host: usize = 25, count, RELOAD;
    /// How long a client may take for a whole command line, or for the next piece of mail data.
    "CLIENT_TIMEOUT" client_timeout: Duration = Duration::from_secs(300), seconds, RELOAD;
    /// Octets.
    "MAX_MESSAGE_SIZE" max_message_size: u64 = 25 << 20, size, RELOAD;
    /// At least 1; RFC 788 4.5.3 wants 100.
    "MAX_RECIPIENTS" max_recipients: usize = 100, count, RELOAD;
    /// The form of the trace line.
    "TIME_STAMP" time_stamp: TimeStamp = TimeStamp::Received, time_stamp, RELOAD;
    /// Networks whose clients may send to other domains.
    "RELAY_FROM" relay_from: Vec<IpNet> = loopback(), |value| list_or_none(value, network), RELOAD;
    /// The port that MX hosts are called on.
    "RELAY_PORT" relay_port: u16 = 25, port, RELOAD;
    /// Outgoing connections at once, at least 1.
    "MAX_RELAYS" max_relays: usize = 100, count, RELOAD;
    /// How long to wait for a connection or a reply when forwarding.
    "RELAY_TIMEOUT" relay_timeout: Duration = Duration::from_secs(120), seconds, RELOAD;
    /// Where accepted mail waits.
    "SPOOL_DIR" spool_dir: PathBuf = PathBuf::from("/var/spool/smtpd788"), path, RESTART;
    /// The first wait between tries.
    "RETRY_MIN" retry_min: Duration = Duration::from_secs(5 * 60), seconds, RELOAD;
    /// The longest wait between tries, not below `retry_min`.
    "RETRY_MAX" retry_max: Duration = Duration::from_secs(4 * 3600), seconds, RELOAD;
    /// After this a message is returned to its sender.
    "QUEUE_LIFETIME" queue_lifetime: Duration = Duration::from_secs(5 * 86_400), seconds, RELOAD;
    /// DNS servers; empty: the system's.
    "NAMESERVER" nameserver: Vec<SocketAddr> = Vec::new(), |value| list(value, nameserver), RELOAD;
    /// Who to become once the ports are bound.
    "RUN_AS" run_as: Option<RunAs> = None, |value| run_as(value).map(Some), RESTART;
}

fn loopback() -> Vec<IpNet> {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    vec![v4.into(), Ipv6Net::from(Ipv6Addr::LOCALHOST).into()]
}

/// The line of each key that was written. No part of the settings: any two are equal, so that a
/// reload sees only what has changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(HashMap<&'static str, usize>);

impl PartialEq for Lines {
    fn eq(&self, _: &Lines) -> bool {
        true
    }
}

impl Lines {
    /// The line of `key`, if it was written.
    pub(crate) fn of(&self, key: &str) -> Option<usize> {
        self.0.get(key).copied()
    }
}

impl MailConf {
    /// Reads mail.conf alone, for what needs no users.
    ///
    /// # Errors
    ///
    /// Every fault of the file.
    pub fn load(file: &Path) -> Result<MailConf, Vec<ConfigError>> {
        match MailConf::read(file) {
            (conf, faults) if faults.is_empty() => Ok(conf),
            (_, faults) => Err(faults_of(file, faults)),
        }
    }

    /// What could be read, and every fault.
    pub(crate) fn read(file: &Path) -> (MailConf, Vec<Fault>) {
        let mut conf = MailConf::new(Host::literal(Ipv4Addr::UNSPECIFIED.into()));
        let mut faults = match read_lines(file, |line, text| conf.take(line, text)) {
            Ok(faults) => faults,
            Err(fault) => return (conf, vec![fault]),
        };
        if conf.lines.of("MAX_CLIENTS_PER_HOST").is_none() {
            conf.max_clients_per_host = (conf.max_clients / 4).max(10);
        }
        if conf.lines.of("HOSTNAME").is_none() {
            match system_hostname() {
                Ok(hostname) => conf.hostname = hostname,
                Err(what) => faults.push((1, what)),
            }
        }
        if conf.retry_min > conf.retry_max {
            let line = conf.lines.of("RETRY_MIN").max(conf.lines.of("RETRY_MAX"));
            let (min, max) = (conf.retry_min.as_secs(), conf.retry_max.as_secs());
            let what =
                format!("RETRY_MIN ({min}s) is above RETRY_MAX ({max}s): change one of them");
            faults.push((line.unwrap_or(1), what));
        }
        (conf, faults)
    }

    /// HOSTNAME, one of LOCAL_DOMAINS, or `localhost`, which is every host to itself.
    pub(crate) fn is_local(&self, host: &Host) -> bool {
        let local = |name: &str| name.eq_ignore_ascii_case("localhost");
        self.hostname == *host
            || self.local_domains.contains(host)
            || matches!(host, Host::Name(name) if local(name.as_str()))
    }

    /// Whether `host` is certainly this one: also as the literal of an address that it listens on.
    pub(crate) fn names(&self, host: &Host) -> bool {
        let mut listening = self.listen_addr.iter();
        self.is_local(host) || listening.any(|&address| Host::literal(address) == *host)
    }

    /// Takes one line.
    fn take(&mut self, line: usize, text: &str) -> Result<(), String> {
        let Some((key, value)) = text.split_once('=') else {
            let hint = if text.contains(':') {
                " (name:where belongs in user.conf, the second file)"
            } else {
                ""
            };
            return Err(format!("expected KEY = VALUE{hint}"));
        };
        let (key, value) = (key.trim_end(), value.trim_start());
        let Some(&key) = Self::KEYS.iter().find(|known| **known == key) else {
            let hint = nearest(key).map(|known| format!(": is {known} meant?"));
            return Err(format!("unknown key {key}{}", hint.unwrap_or_default()));
        };
        if let Some(first) = self.lines.0.get(key) {
            return Err(format!("{key} is set already, on line {first}"));
        }
        self.lines.0.insert(key, line);
        if value.is_empty() && key != "LOCAL_DOMAINS" {
            return Err(format!(
                "{key}: no value: leave the whole line out for the default"
            ));
        }
        self.set(key, value).map_err(|reason| {
            let comment = value.contains(" #") && !reason.contains("comment");
            let hint = if comment {
                " (a comment needs a line of its own)"
            } else {
                ""
            };
            format!("{key}: {reason}{hint}")
        })
    }
}

/// The known key that `key` was probably meant to be: alike but for two octets in one place.
fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_uppercase().replace(['-', ' ', '.'], "_");
    let alike = |known: &&&str| {
        let (a, b) = (known.bytes(), key.bytes());
        let begin = a.clone().zip(b.clone()).take_while(|(a, b)| a == b);
        let end = a.rev().zip(b.rev()).take_while(|(a, b)| a == b);
        known.len().max(key.len()) <= begin.count() + end.count() + 2
    };
    MailConf::KEYS.iter().find(alike).copied()
}

fn system_hostname() -> Result<Host, String> {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    host(&name).map_err(|_| {
        let name = Escaped(name.as_bytes());
        format!(
            "HOSTNAME is not set, and the system's own name \"{name}\" is no domain: set HOSTNAME"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (MailConf, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let (conf, errors) = MailConf::read(file.path());
        (
            conf,
            errors
                .into_iter()
                .map(|(line, what)| format!("{line}: {what}"))
                .collect(),
        )
    }

    #[test]
    fn defaults() {
        let (conf, errors) = read("HOSTNAME = myemail.com\nLISTEN_ADDR = 0.0.0.0\n");
        assert!(errors.is_empty(), "{errors:?}");
        let mut expected = MailConf::new("MYEMAIL.com".parse().unwrap());
        expected.listen_addr = vec!["0.0.0.0".parse().unwrap()];
        assert_eq!(conf, expected);
        let per_host = |clients: &str| {
            read(&format!("MAX_CLIENTS = {clients}"))
                .0
                .max_clients_per_host
        };
        assert_eq!(
            [
                per_host("1"),
                per_host("40"),
                per_host("44"),
                per_host("10000")
            ],
            [10, 10, 11, 2500]
        );
        assert_eq!(
            read("MAX_CLIENTS = 4\nMAX_CLIENTS_PER_HOST = 50")
                .0
                .max_clients_per_host,
            50
        );
    }

    #[test]
    fn every_key_is_taken() {
        let mut conf = MailConf::new(Host::literal(Ipv4Addr::LOCALHOST.into()));
        for key in MailConf::KEYS {
            assert_ne!(conf.set(key, "/"), Err("unknown key".into()), "{key}");
        }
    }

    #[test]
    fn spacing_and_line_ends_do_not_matter() {
        let (conf, errors) =
            read("HOSTNAME=a.example\r\n  MAX_CLIENTS\t=\t7  \r\n\r\n # x\r\nRELAY_FROM = NONE");
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!((conf.max_clients, conf.relay_from), (7, vec![]));
    }

    #[test]
    fn words_for_nothing() {
        for text in [
            "LOCAL_DOMAINS = none",
            "LOCAL_DOMAINS =",
            "LOCAL_DOMAINS = none\nRELAY_FROM = none",
        ] {
            let (conf, errors) = read(&format!("HOSTNAME = a.example\n{text}"));
            assert!(
                errors.is_empty() && conf.local_domains.is_empty(),
                "{text}: {errors:?}"
            );
        }
    }

    #[test]
    fn faults() {
        let rows = [
            ("hello", "2: expected KEY = VALUE"),
            (
                "LISTEN_PORTS = 1",
                "2: unknown key LISTEN_PORTS: is LISTEN_PORT meant?",
            ),
            (
                "max-clients = 1",
                "2: unknown key max-clients: is MAX_CLIENTS meant?",
            ),
            ("COLOUR = red", "2: unknown key COLOUR"),
            ("HOSTNAME = b", "2: HOSTNAME is set already, on line 1"),
            (
                "MAX_CLIENTS = x\n\nMAX_CLIENTS = 1",
                "2: MAX_CLIENTS: \"x\" is no number from 1 to 1000000",
            ),
            (
                "MAX_CLIENTS =",
                "2: MAX_CLIENTS: no value: leave the whole line out for the default",
            ),
            (
                "TIME_STAMP = Recieved",
                "2: TIME_STAMP: \"Recieved\" is neither Received nor Mail-From",
            ),
            (
                "RETRY_MIN = 1d",
                "2: RETRY_MIN (86400s) is above RETRY_MAX (14400s): change one of them",
            ),
            (
                "RETRY_MAX = 1s\nRETRY_MIN = 2s",
                "3: RETRY_MIN (2s) is above RETRY_MAX (1s): change one of them",
            ),
            (
                "SPOOL_DIR = /a # b",
                "2: SPOOL_DIR: a comment needs a line of its own",
            ),
            (
                "LISTEN_PORT = 1 # b",
                "2: LISTEN_PORT: \"1 # b\" is no port: write a number up to 65535 (a comment needs a line of its own)",
            ),
        ];
        for (text, fault) in rows {
            let (_, errors) = read(&format!("HOSTNAME = a\n{text}"));
            assert_eq!(errors.first().map(String::as_str), Some(fault), "{text}");
        }
        for (key, value) in [
            ("CLIENT_TIMEOUT", "0"),
            ("MAX_RELAYS", "0"),
            ("MAX_RECIPIENTS", "0"),
            ("RELAY_PORT", "0"),
        ] {
            assert_eq!(
                read(&format!("HOSTNAME = a\n{key} = {value}")).1.len(),
                1,
                "{key}"
            );
        }
    }

    #[test]
    fn a_bad_hostname_is_one_fault() {
        assert_eq!(read("HOSTNAME = a b").1.len(), 1);
    }
}
