//! A mailbox that cannot be written now does not fail the message, and partial trouble costs nobody his copy.

use super::world::{mx, queue, relaying, restart, said, taken, wait_for_empty_spool, waiting};
use crate::common::daemon::{Daemon, messages, wait_until};
use crate::common::dns::DnsServer;
use crate::common::hop::Hop;
use nix::sys::signal::Signal::SIGUSR1;
use nix::sys::stat::Mode;
use std::fs;

/// To john, jack and somebody elsewhere.
fn send_to_three(daemon: &Daemon) {
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    for to in [
        "john@mail.example",
        "jack@mail.example",
        "y@good.example",
        "JOHN@mail.example",
    ] {
        client.command(&format!("RCPT TO:<{to}>"), "250");
    }
    client.command("DATA", "354");
    client.send("three\r\n.\r\n");
    client.expect("250 OK id=");
}

fn world() -> (DnsServer, Hop, Daemon) {
    let (dns, hop) = (DnsServer::start(), Hop::good());
    mx(&dns, "good.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), "").start();
    (dns, hop, daemon)
}

fn assert_one_copy_each(daemon: &Daemon, hop: &Hop) {
    wait_for_empty_spool(daemon);
    for mbox in ["john/mbox", "jack"] {
        let text = daemon.read(mbox);
        let all = messages(&text);
        assert_eq!(all.len(), 1, "{mbox}: {text}");
        assert!(all[0].ends_with("\nthree\n\n"), "{text}");
    }
    assert_eq!(taken(&hop.told()).len(), 1);
    assert_eq!(said(&hop.told(), "RCPT"), ["RCPT TO:<y@good.example>"]);
}

#[test]
fn a_fifo_in_the_place_of_a_mailbox() {
    let (_dns, hop, daemon) = world();
    nix::unistd::mkfifo(&daemon.path("john/mbox"), Mode::from_bits_truncate(0o600)).unwrap();
    send_to_three(&daemon);
    assert_eq!(messages(&daemon.read("jack")).len(), 1);
    daemon.wait_for("relayed id=");
    // At once, and once from the spool.
    daemon.wait_for_count("deferred id=", 2);
    let table = queue(&daemon.folder);
    assert!(table.contains("<john@mail.example>"), "{table}");
    assert!(!table.contains("<jack@mail.example>"), "{table}");
    fs::remove_file(daemon.path("john/mbox")).unwrap();
    daemon.signal(SIGUSR1);
    assert_one_copy_each(&daemon, &hop);
}

#[test]
fn a_mailbox_that_a_living_process_has_locked() {
    let (_dns, hop, daemon) = world();
    let lock = daemon.path("john/mbox.lock");
    fs::write(&lock, format!("{}\n", std::process::id())).unwrap();
    send_to_three(&daemon);
    let deferred = daemon.wait_for("deferred id=");
    assert!(deferred.contains("john/mbox"), "{deferred}");
    assert!(lock.exists());
    assert!(!waiting(&daemon.folder).is_empty());
    fs::remove_file(&lock).unwrap();
    daemon.signal(SIGUSR1);
    assert_one_copy_each(&daemon, &hop);
}

#[test]
fn it_is_delivered_by_the_next_daemon_too() {
    let (_dns, hop, daemon) = world();
    fs::create_dir(daemon.path("john/mbox")).unwrap();
    send_to_three(&daemon);
    daemon.wait_for_count("deferred id=", 2);
    // What was relayed is recorded too: a kill before that may repeat it.
    wait_until("john's copy alone waits", || {
        waiting(&daemon.folder).len() == 1
    });
    daemon.wait_for("relayed id=");
    let folder = daemon.kill();
    fs::remove_dir(folder.path().join("john/mbox")).unwrap();
    let daemon = restart(&folder);
    daemon.signal(SIGUSR1);
    assert_one_copy_each(&daemon, &hop);
}
