//! The daemon without NAMESERVER, with resolv.conf files as they are found: in a mount namespace of its own.

use super::world::waiting;
use crate::common::daemon::{Daemon, Setup, wait_until};
use crate::common::dns::DnsServer;
use crate::common::hop::Hop;
use std::fs;
use std::process::Command;

/// A daemon that finds `text` in /etc/resolv.conf; no file at all without it.
fn daemon(text: Option<&str>, port: u16) -> Daemon {
    let setup = Setup::with(&format!("RELAY_PORT = {port}\n"));
    setup.write();
    let file = setup.folder.path().join("resolv.conf");
    fs::write(&file, text.unwrap_or_default()).unwrap();
    // The mount point may be a link; a folder of ours over /etc hides the file.
    let mount = match text {
        Some(_) => format!(
            "mount --bind {} $(readlink -f /etc/resolv.conf)",
            file.display()
        ),
        None => "mount -t tmpfs none /etc".to_owned(),
    };
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec"])
        .arg(format!("{mount}; exec \"$@\""))
        .args(["sh", env!("CARGO_BIN_EXE_smtpd788")])
        .args(["mail.conf", "user.conf"])
        .current_dir(setup.folder.path());
    Daemon::run(command, setup.folder)
}

#[test]
#[ignore = "needs root and mount (Debian package mount)"]
fn what_makes_no_sense_is_passed_over_and_mentioned() {
    let dns = DnsServer::start_at("127.0.0.27:53");
    let hop = Hop::good();
    dns.mx("b.example", 10, "mx.b.example")
        .address("mx.b.example", "127.0.0.1");
    let long = format!("search {}.lan\nnameserver 127.0.0.27\n", "x".repeat(64));
    for (text, mentioned) in [
        ("nameserver 127.0.0.27\n", None),
        ("domain .local\nnameserver 127.0.0.27\n", None),
        ("search home..lan\nnameserver 127.0.0.27\n", None),
        ("search a$b\nnameserver 127.0.0.27\n", None),
        (&long, None),
        (
            "nameserver fe80::1%eth0\nnameserver 127.0.0.27\n",
            Some("resolv.conf:1: fe80::1%eth0: "),
        ),
        (
            "nameserver 127.0.0.27\noptions use-vc perhaps\n",
            Some("resolv.conf:2: \"perhaps\" is not an option"),
        ),
        (
            "nameserver nonsense\nnameserver 127.0.0.27\n",
            Some("resolv.conf:1: \"nonsense\" is not "),
        ),
    ] {
        let daemon = daemon(Some(text), hop.addr().port());
        daemon
            .greeted()
            .mail("john@mail.example", "x@b.example", "x\r\n");
        daemon.wait_for(" relayed id=");
        match mentioned {
            Some(words) => drop(daemon.wait_for(words)),
            None => assert!(daemon.matching("resolv.conf").is_empty(), "{text}"),
        }
    }
}

#[test]
#[ignore = "needs root and mount (Debian package mount)"]
fn a_file_of_no_use_is_named() {
    let hop = Hop::good();
    for (text, words) in [
        (None, "/etc/resolv.conf: No such file or directory"),
        (
            Some("nameserver fe80::1%eth0\n"),
            "/etc/resolv.conf: none of its name servers can be used",
        ),
        // No line: the name server of this machine, and there is none in this test.
        (Some("search lan\n"), "DNS lookup of b.example MX failed: "),
    ] {
        let daemon = daemon(text, hop.addr().port());
        daemon
            .greeted()
            .mail("john@mail.example", "x@b.example", "x\r\n");
        let deferred = daemon.wait_for(" deferred id=");
        assert!(deferred.contains(words), "{deferred}");
        wait_until("it waits", || waiting(&daemon.folder).len() == 1);
    }
}
