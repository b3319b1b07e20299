//! Daemons that call out: settings that fit a DNS server and next hops, and a look at the spool.

use crate::common::daemon::{Daemon, Folder, Setup, command, wait_until};
use crate::common::dns::DnsServer;
use crate::common::hop::{Hop, Told};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// mail.example on a free port, which calls MX hosts on `port`.
pub fn relaying(dns: &DnsServer, port: u16, lines: &str) -> Setup {
    let (dns, setup) = (dns.addr(), Setup::with(lines));
    let mail = format!("{}NAMESERVER = {dns}\nRELAY_PORT = {port}\n", setup.mail);
    Setup { mail, ..setup }
}

/// A daemon of this name at this address; `port` 0 for any.
pub fn site(dns: &DnsServer, host: &str, ip: &str, port: u16) -> Setup {
    let dns = dns.addr();
    Setup {
        mail: format!(
            "HOSTNAME = {host}\nLISTEN_ADDR = {ip}\nLISTEN_PORT = {port}\nSPOOL_DIR = {{dir}}/spool\n\
             NAMESERVER = {dns}\n"
        ),
        ..Setup::default()
    }
}

/// Mail for `domain` goes to `ip`.
pub fn mx(dns: &DnsServer, domain: &str, ip: &str) {
    let host = format!("mx.{domain}");
    dns.mx(domain, 10, &host).address(&host, ip);
}

/// A hop at `ip` on the port of another.
pub fn beside(other: &Hop, ip: &str) -> Hop {
    Hop::bind(
        SocketAddr::new(ip.parse().unwrap(), other.addr().port()),
        [],
    )
}

/// The daemon again, with the files that are there.
pub fn restart(folder: &Arc<Folder>) -> Daemon {
    Daemon::run(command(folder, "info"), Arc::clone(folder))
}

/// What `--queue` shows.
pub fn queue(folder: &Folder) -> String {
    let output = command(folder, "info").arg("--queue").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The messages in the spool.
pub fn waiting(folder: &Folder) -> Vec<PathBuf> {
    let is_message = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.len() == 16 && name.bytes().all(|octet| octet.is_ascii_hexdigit())
    };
    let entries = fs::read_dir(folder.path().join("spool")).unwrap();
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(is_message);
    paths.sort();
    paths
}

pub fn wait_for_empty_spool(daemon: &Daemon) {
    wait_until("the spool is empty", || waiting(&daemon.folder).is_empty());
}

/// Puts `to` in the place of `from` in a file of the daemon's folder.
pub fn change(folder: &Folder, file: &str, from: &str, to: &str) {
    let path = folder.path().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Whole messages that the hop was sent.
pub fn taken(told: &[Told]) -> Vec<String> {
    let data = told.iter().flat_map(|told| &told.data);
    data.filter(|data| data.ends_with(b"\r\n.\r\n"))
        .map(|data| String::from_utf8_lossy(data).into_owned())
        .collect()
}

/// Command lines that begin with `word`, over all connections.
pub fn said(told: &[Told], word: &str) -> Vec<String> {
    let lines = told.iter().flat_map(|told| &told.commands);
    lines
        .filter(|line| line.starts_with(word))
        .cloned()
        .collect()
}
