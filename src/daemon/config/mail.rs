//! mail.conf: one `KEY = VALUE` a line.
//!
//! Keys are spelled exactly as [`MailConf::KEYS`] has them. Unknown keys, repeated keys, bad values
//! and values that contradict each other are faults, each with its line.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::daemon::config::run_as::{RunAs, run_as};
use crate::daemon::config::value::{
    count, host, ip, is_none, list, nameserver, network, path, port, port_or_0, seconds, size,
};
use crate::daemon::config::{ConfigError, Faults, lines, nearest, read_file};
use crate::message::TimeStamp;
use crate::smtp::address::Host;

/// mail.conf, or its defaults: a field for each key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MailConf {
    /// The name in the greeting, HELO and trace lines; mail for it is local.
    pub hostname: Host,
    /// Further hosts whose mail is local.
    pub local_domains: Vec<Host>,
    /// Addresses to listen on; v4-mapped ones are v4.
    pub listen_addr: Vec<IpAddr>,
    /// The port to listen on; 0 lets the system choose.
    pub listen_port: u16,
    /// Clients served at once, at least 1.
    pub max_clients: usize,
    /// Clients served at once from one address; unless set, a quarter of MAX_CLIENTS, but at least 10,
    /// so that one host cannot shut out all others.
    pub max_clients_per_host: usize,
    /// How long a client may take for a whole command line, or for the next piece of mail data.
    pub client_timeout: Duration,
    /// Octets.
    pub max_message_size: u64,
    /// At least 1; RFC 788 4.5.3 wants 100.
    pub max_recipients: usize,
    /// The form of the trace line.
    pub time_stamp: TimeStamp,
    /// Networks whose clients may send to other domains.
    pub relay_from: Vec<IpNet>,
    /// The port that MX hosts are called on.
    pub relay_port: u16,
    /// Outgoing connections at once, at least 1.
    pub max_relays: usize,
    /// How long to wait for a connection or a reply when forwarding.
    pub relay_timeout: Duration,
    /// Where accepted mail waits.
    pub spool_dir: PathBuf,
    /// The first wait between tries.
    pub retry_min: Duration,
    /// The longest wait between tries, not below `retry_min`.
    pub retry_max: Duration,
    /// After this a message is returned to its sender.
    pub queue_lifetime: Duration,
    /// DNS servers; empty: the system's.
    pub nameserver: Vec<SocketAddr>,
    /// Who to become once the ports are bound.
    pub run_as: Option<RunAs>,
    /// Where each key was written, for later faults.
    pub(crate) lines: Lines,
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
    /// The line of `key`; 1 if it was not written.
    pub(crate) fn of(&self, key: &str) -> usize {
        self.0.get(key).copied().unwrap_or(1)
    }
}

impl MailConf {
    /// Every key, in the order of the documentation.
    pub const KEYS: [&str; 20] = [
        "HOSTNAME",
        "LOCAL_DOMAINS",
        "LISTEN_ADDR",
        "LISTEN_PORT",
        "MAX_CLIENTS",
        "MAX_CLIENTS_PER_HOST",
        "CLIENT_TIMEOUT",
        "MAX_MESSAGE_SIZE",
        "MAX_RECIPIENTS",
        "TIME_STAMP",
        "RELAY_FROM",
        "RELAY_PORT",
        "MAX_RELAYS",
        "RELAY_TIMEOUT",
        "SPOOL_DIR",
        "RETRY_MIN",
        "RETRY_MAX",
        "QUEUE_LIFETIME",
        "NAMESERVER",
        "RUN_AS",
    ];

    /// The defaults, for a host of this name.
    pub fn new(hostname: Host) -> MailConf {
        MailConf {
            hostname,
            local_domains: Vec::new(),
            listen_addr: vec![Ipv4Addr::LOCALHOST.into()],
            listen_port: 25,
            max_clients: 100,
            max_clients_per_host: 25,
            client_timeout: Duration::from_secs(300),
            max_message_size: 25 << 20,
            max_recipients: 100,
            time_stamp: TimeStamp::Received,
            relay_from: vec![
                Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
                Ipv6Net::from(Ipv6Addr::LOCALHOST).into(),
            ],
            relay_port: 25,
            max_relays: 20,
            relay_timeout: Duration::from_secs(120),
            spool_dir: PathBuf::from("/var/spool/smtpd788"),
            retry_min: Duration::from_secs(5 * 60),
            retry_max: Duration::from_secs(4 * 3600),
            queue_lifetime: Duration::from_secs(5 * 86_400),
            nameserver: Vec::new(),
            run_as: None,
            lines: Lines::default(),
        }
    }

    /// Reads mail.conf alone, for what needs no users.
    ///
    /// # Errors
    ///
    /// Every fault of the file.
    pub fn load(file: &Path) -> Result<MailConf, Vec<ConfigError>> {
        let (conf, errors) = MailConf::read(file);
        if errors.is_empty() {
            Ok(conf)
        } else {
            Err(errors)
        }
    }

    /// What could be read, and every fault.
    pub(crate) fn read(file: &Path) -> (MailConf, Vec<ConfigError>) {
        let mut faults = Faults::of(file);
        let octets = read_file(file, &mut faults);
        let unreadable = faults.any();
        let mut conf = MailConf::new(Host::literal(Ipv4Addr::UNSPECIFIED.into()));
        for (line, text) in lines(&octets, &mut faults) {
            if let Err(what) = conf.take(line, text) {
                faults.add(line, what);
            }
        }
        if !unreadable && !conf.lines.0.contains_key("HOSTNAME") {
            match system_hostname() {
                Ok(hostname) => conf.hostname = hostname,
                Err(what) => faults.add(1, what),
            }
        }
        if !conf.lines.0.contains_key("MAX_CLIENTS_PER_HOST") {
            conf.max_clients_per_host = (conf.max_clients / 4).max(10);
        }
        if conf.retry_min > conf.retry_max {
            let line = conf.lines.of("RETRY_MIN").max(conf.lines.of("RETRY_MAX"));
            let (min, max) = (conf.retry_min.as_secs(), conf.retry_max.as_secs());
            faults.add(
                line,
                format!("RETRY_MIN ({min}s) is above RETRY_MAX ({max}s): change one of them"),
            );
        }
        (conf, faults.sorted())
    }

    /// HOSTNAME or one of LOCAL_DOMAINS.
    pub(crate) fn is_local(&self, host: &Host) -> bool {
        self.hostname == *host || self.local_domains.contains(host)
    }

    /// Whether `host` is certainly this one: also as the literal of an address that it listens on.
    pub(crate) fn names(&self, host: &Host) -> bool {
        self.is_local(host)
            || self
                .listen_addr
                .iter()
                .any(|&address| Host::literal(address) == *host)
    }

    /// Takes one line.
    fn take(&mut self, line: usize, text: &str) -> Result<(), String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY = VALUE")?;
        let (key, value) = (key.trim_end(), value.trim_start());
        let Some(&key) = Self::KEYS.iter().find(|known| **known == key) else {
            return Err(match nearest(key, &Self::KEYS) {
                Some(known) => format!("unknown key {key}: is {known} meant?"),
                None => format!("unknown key {key}"),
            });
        };
        if let Some(first) = self.lines.0.insert(key, line) {
            self.lines.0.insert(key, first);
            return Err(format!("{key} is set already, on line {first}"));
        }
        self.set(key, value).map_err(|reason| {
            let hint = if value.contains(" #") && !reason.contains("comment") {
                " (a comment needs a line of its own)"
            } else {
                ""
            };
            format!("{key}: {reason}{hint}")
        })
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() && key != "LOCAL_DOMAINS" {
            return Err("no value: leave the whole line out for the default".into());
        }
        match key {
            "HOSTNAME" => self.hostname = host(value)?,
            "LOCAL_DOMAINS" if value.is_empty() || is_none(value) => self.local_domains.clear(),
            "LOCAL_DOMAINS" => self.local_domains = list(value, host)?,
            "LISTEN_ADDR" => self.listen_addr = list(value, ip)?,
            "LISTEN_PORT" => self.listen_port = port_or_0(value)?,
            "MAX_CLIENTS" => self.max_clients = count(value)?,
            "MAX_CLIENTS_PER_HOST" => self.max_clients_per_host = count(value)?,
            "CLIENT_TIMEOUT" => self.client_timeout = Duration::from_secs(seconds(value)?),
            "MAX_MESSAGE_SIZE" => self.max_message_size = size(value)?,
            "MAX_RECIPIENTS" => self.max_recipients = count(value)?,
            "TIME_STAMP" => self.time_stamp = time_stamp(value)?,
            "RELAY_FROM" if is_none(value) => self.relay_from.clear(),
            "RELAY_FROM" => self.relay_from = list(value, network)?,
            "RELAY_PORT" => self.relay_port = port(value)?,
            "MAX_RELAYS" => self.max_relays = count(value)?,
            "RELAY_TIMEOUT" => self.relay_timeout = Duration::from_secs(seconds(value)?),
            "SPOOL_DIR" => self.spool_dir = path(value)?,
            "RETRY_MIN" => self.retry_min = Duration::from_secs(seconds(value)?),
            "RETRY_MAX" => self.retry_max = Duration::from_secs(seconds(value)?),
            "QUEUE_LIFETIME" => self.queue_lifetime = Duration::from_secs(seconds(value)?),
            "NAMESERVER" => self.nameserver = list(value, nameserver)?,
            "RUN_AS" => self.run_as = Some(run_as(value)?),
            _ => return Err("unknown key".into()),
        }
        Ok(())
    }
}

fn time_stamp(value: &str) -> Result<TimeStamp, String> {
    match value {
        _ if value.eq_ignore_ascii_case("Received") => Ok(TimeStamp::Received),
        _ if value.eq_ignore_ascii_case("Mail-From") => Ok(TimeStamp::MailFrom),
        _ => Err(format!("\"{value}\" is neither Received nor Mail-From")),
    }
}

fn system_hostname() -> Result<Host, String> {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    host(&name).map_err(|_| {
        let name = crate::message::escape::Escaped(name.as_bytes());
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
                .map(|error| format!("{}: {}", error.line, error.what))
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
