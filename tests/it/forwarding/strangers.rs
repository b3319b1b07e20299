//! Who may relay: RELAY_FROM by the client's address, and nothing that a client says.

use super::world::{change, mx, queue, relaying};
use crate::common::daemon::{Client, Daemon, messages};
use crate::common::dns::DnsServer;
use crate::common::hop::Hop;
use nix::sys::signal::Signal::SIGHUP;

/// What open-relay scanners try: sender, recipient. mail.example and 127.0.0.1 are ours.
const PAIRS: [(&str, &str); 24] = [
    ("probe@foreign.example", "x@foreign.example"),
    ("probe", "x@foreign.example"),
    ("", "x@foreign.example"),
    ("probe@mail.example", "x@foreign.example"),
    ("probe@[127.0.0.1]", "x@foreign.example"),
    ("john@localhost", "x@foreign.example"),
    ("probe@mail.example", "x%foreign.example@mail.example"),
    ("probe@mail.example", "x%foreign.example@[127.0.0.1]"),
    ("probe@mail.example", "\"x@foreign.example\""),
    ("probe@mail.example", "\"x%foreign.example\""),
    ("probe@mail.example", "x@foreign.example@mail.example"),
    ("probe@mail.example", "\"x@foreign.example\"@mail.example"),
    ("probe@mail.example", "x@foreign.example@[127.0.0.1]"),
    ("probe@mail.example", "@mail.example:x@foreign.example"),
    ("probe@mail.example", "@[127.0.0.1]:x@foreign.example"),
    ("probe@mail.example", "foreign.example!x"),
    ("probe@mail.example", "foreign.example!x@mail.example"),
    ("probe@mail.example", "foreign.example!x@[127.0.0.1]"),
    // And what RFC 788 adds.
    ("john@mail.example", "@mail.example,x@foreign.example"),
    (
        "john@mail.example",
        "@[127.0.0.1],@mail.example,x@foreign.example",
    ),
    ("john@mail.example", "x@#2130706689"),
    ("john@mail.example", "x@[127.0.0.65]"),
    ("john@mail.example", "x\\@foreign.example@mail.example"),
    (
        "@mail.example:john@mail.example",
        "x@mail.example.foreign.example",
    ),
];

fn world(lines: &str) -> (DnsServer, Hop, Daemon) {
    let (dns, hop) = (DnsServer::start(), Hop::good());
    mx(&dns, "foreign.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), lines).start();
    (dns, hop, daemon)
}

fn from(source: &str, daemon: &Daemon) -> Client {
    let mut client = Client::connect_from(source, daemon.addr());
    client.expect("220");
    // A stranger may call himself anything.
    client.command("HELO mail.example", "250");
    client
}

/// The code that the recipient gets, or the sender already.
fn attempt(client: &mut Client, sender: &str, to: &str) -> String {
    client.send(format!("MAIL FROM:<{sender}>\r\n"));
    let reply = client.reply();
    if !reply.starts_with("250") {
        return reply[..3].to_owned();
    }
    client.send(format!("RCPT TO:<{to}>\r\n"));
    client.reply()[..3].to_owned()
}

#[test]
fn no_form_of_address_helps_a_stranger() {
    let (_dns, hop, daemon) = world("RELAY_FROM = 127.0.0.1/32\n");
    for (sender, to) in PAIRS {
        let code = attempt(&mut from("127.0.0.5", &daemon), sender, to);
        assert!(["550", "501"].contains(&&*code), "{sender} {to}: {code}");
    }
    let open = attempt(&mut from("127.0.0.1", &daemon), "a@b", "x@foreign.example");
    assert_eq!(open, "250");
    assert_eq!(hop.told().len(), 0);
    assert_eq!(queue(&daemon.folder), "queue is empty\n");
    daemon.wait_for("rejected client=127.0.0.5");
}

/// With a user `*` the odd names are ours: what is taken stays here.
#[test]
fn what_a_catch_all_takes_goes_nowhere_else() {
    let (_dns, hop, daemon) = world("RELAY_FROM = 127.0.0.1/32\n");
    let users = format!("*:{}\n", daemon.path("rest").display());
    std::fs::write(daemon.path("user.conf"), users).unwrap();
    daemon.signal(SIGHUP);
    daemon.wait_for(" reloaded");
    let mut taken = 0;
    for (sender, to) in PAIRS {
        let mut client = from("127.0.0.5", &daemon);
        if attempt(&mut client, sender, to) == "250" {
            taken += 1;
            client.command("DATA", "354");
            client.send("x\r\n.\r\n");
            client.expect("250 OK id=");
        }
    }
    // Percent, bang and quoted names at our name and our literal; not one that ends elsewhere.
    assert_eq!(taken, 6);
    assert_eq!(messages(&daemon.read("rest")).len(), taken);
    assert_eq!(queue(&daemon.folder), "queue is empty\n");
    assert_eq!(hop.told().len(), 0);
}

#[test]
fn relay_from_is_all_that_counts() {
    let rows = [
        ("", ["250", "250"]),
        ("RELAY_FROM = none\n", ["550", "550"]),
        ("RELAY_FROM = 127.0.0.5\n", ["550", "250"]),
        ("RELAY_FROM = 10.0.0.0/8, 127.0.0.0/30\n", ["250", "550"]),
        ("RELAY_FROM = ::1\n", ["550", "550"]),
    ];
    for (lines, codes) in rows {
        let (_dns, _hop, daemon) = world(lines);
        let got = ["127.0.0.1", "127.0.0.5"].map(|source| {
            attempt(
                &mut from(source, &daemon),
                "john@mail.example",
                "x@foreign.example",
            )
        });
        assert_eq!(got, codes, "{lines}");
    }
}

#[test]
fn a_reload_counts_from_the_next_mail() {
    let (_dns, _hop, daemon) = world("RELAY_FROM = 127.0.0.0/8\n");
    let mut client = from("127.0.0.5", &daemon);
    assert_eq!(attempt(&mut client, "a@b", "x@foreign.example"), "250");
    change(
        &daemon.folder,
        "mail.conf",
        "RELAY_FROM = 127.0.0.0/8",
        "RELAY_FROM = none",
    );
    daemon.signal(SIGHUP);
    daemon.wait_for(" reloaded");
    client.command("RCPT TO:<y@foreign.example>", "250");
    assert_eq!(attempt(&mut client, "a@b", "x@foreign.example"), "550");
}
