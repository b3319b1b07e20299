//! The way of a message out of the house, while all or most goes well.

use super::world::{
    beside, change, mx, queue, relaying, said, site, taken, wait_for_empty_spool, waiting,
};
use crate::common::daemon::{Client, Setup, messages, wait_until};
use crate::common::dns::{DnsServer, Misbehaviour};
use crate::common::hop::{Act, Hop, Step};
use nix::sys::signal::Signal::{SIGHUP, SIGUSR1};

#[test]
fn a_message_goes_over_two_daemons() {
    let dns = DnsServer::start();
    mx(&dns, "b.example", "127.0.0.31");
    let b = site(&dns, "b.example", "127.0.0.31", 0).start();
    let a = relaying(&dns, b.addr().port(), "").start();
    let long = "x".repeat(70_000);
    let content = format!("Subject: over two\r\n\r\n..dot\r\nFrom here\r\n\u{e9}\r\n{long}\r\n");
    let id = a
        .greeted()
        .mail("jack@mail.example", "john@b.example", &content);
    let relayed = a.wait_for("relayed id=");
    assert!(relayed.contains(&format!("id={id} to=<john@b.example> host=mx.b.example ")));
    let accepted = b.wait_for("accepted id=");
    assert!(
        accepted.contains(" from=<jack@mail.example> "),
        "{accepted}"
    );
    let their_id = accepted.split_once("id=").unwrap().1[..16].to_owned();
    assert!(
        relayed.contains(&format!("250 OK id={their_id}")),
        "{relayed}"
    );
    let all = messages(&b.read("john/mbox"));
    assert_eq!(all.len(), 1);
    let content = format!("Subject: over two\n\n.dot\nFrom here\n\u{e9}\n{long}\n\n");
    let (trace, rest) = all[0].split_at(all[0].len() - content.len());
    assert_eq!(rest, content);
    let lines: Vec<_> = trace.lines().collect();
    assert_eq!(lines[0], "Return-Path: <jack@mail.example>");
    assert_eq!(lines[1], "Delivered-To: <john@b.example>");
    assert!(lines[2].starts_with("Received: from mail.example ([127.0.0.1]) by b.example "));
    assert!(lines[3].starts_with("Received: from client.example ([127.0.0.1]) by mail.example "));
    assert_eq!(lines.len(), 4, "{trace}");
    wait_for_empty_spool(&a);
    assert_eq!(queue(&a.folder), "queue is empty\n");
}

#[test]
fn a_user_who_went_away_is_forwarded_for_anyone() {
    let (dns, hop) = (DnsServer::start(), Hop::good());
    mx(&dns, "b.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), "RELAY_FROM = none\n")
        .users("away:<john@b.example>\njohn:{dir}/john/\n")
        .start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    let reply = client.command("RCPT TO:<Away@mail.example>", "251");
    assert_eq!(
        reply,
        "251 User not local; will forward to <john@b.example>"
    );
    client.command("RCPT TO:<john@b.example>", "550");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    client.send("x\r\n.\r\n");
    client.expect("250 OK id=");
    let told = hop.wait_until(|told| taken(told).len() == 1);
    assert_eq!(said(&told, "MAIL"), ["MAIL FROM:<a@b>"]);
    assert_eq!(said(&told, "RCPT"), ["RCPT TO:<john@b.example>"]);
    assert_eq!(messages(&daemon.read("john/mbox")).len(), 1);
    wait_for_empty_spool(&daemon);
}

#[test]
fn a_dead_domain_keeps_nothing_from_the_other_and_comes_back() {
    let (dns, good) = (DnsServer::start(), Hop::good());
    mx(&dns, "good.example", "127.0.0.1");
    mx(&dns, "dead.example", "127.0.0.32");
    let daemon = relaying(&dns, good.addr().port(), "").start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<john@mail.example>", "250");
    for to in ["x@dead.example", "y@good.example", "z@dead.example"] {
        client.command(&format!("RCPT TO:<{to}>"), "250");
    }
    client.command("DATA", "354");
    client.send("twice\r\n.\r\n");
    client.expect("250 OK id=");
    daemon.wait_for("relayed id=");
    let deferred = daemon.wait_for_count("deferred id=", 2);
    assert!(
        deferred
            .iter()
            .all(|line| line.contains("Connection refused"))
    );
    wait_until("the table shows the dead alone", || {
        let table = queue(&daemon.folder);
        table.contains("<x@dead.example>")
            && table.contains("<z@dead.example>")
            && !table.contains("<y@good.example>")
            && !table.contains(" now ")
            && table.matches("Connection refused").count() == 2
    });
    let mended = beside(&good, "127.0.0.32");
    daemon.signal(SIGUSR1);
    let told = mended.wait_until(|told| taken(told).len() == 1);
    let whom = ["RCPT TO:<x@dead.example>", "RCPT TO:<z@dead.example>"];
    assert_eq!(said(&told, "RCPT"), whom);
    wait_for_empty_spool(&daemon);
    assert_eq!(taken(&good.told()).len(), 1);
}

#[test]
fn what_was_put_off_goes_out_by_itself() {
    let dns = DnsServer::start();
    let hop = Hop::scripted([(Step::Rcpt(0), Act::Say("451 try again\r\n"))]);
    mx(&dns, "b.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), "RETRY_MIN = 1s\nRETRY_MAX = 1s\n").start();
    daemon
        .greeted()
        .mail("john@mail.example", "x@b.example", "x\r\n");
    assert!(
        daemon
            .wait_for("deferred id=")
            .contains("said at RCPT: 451 try again")
    );
    daemon.wait_for_count("deferred id=", 2);
    hop.script([]);
    daemon.wait_for("relayed id=");
    wait_for_empty_spool(&daemon);
    assert_eq!(taken(&hop.told()).len(), 1);
}

#[test]
fn other_name_servers_are_asked_after_sighup() {
    let (deaf, dns, hop) = (DnsServer::start(), DnsServer::start(), Hop::good());
    deaf.misbehave("b.example", Misbehaviour::Refused);
    mx(&dns, "b.example", "127.0.0.1");
    let daemon = relaying(&deaf, hop.addr().port(), "").start();
    daemon.greeted().mail("a@b", "x@b.example", "x\r\n");
    assert!(daemon.wait_for("deferred id=").contains("REFUSED"));
    let [old, new] = [&deaf, &dns].map(|dns| dns.addr().to_string());
    change(&daemon.folder, "mail.conf", &old, &new);
    daemon.signal(SIGHUP);
    daemon.wait_for(" reloaded");
    daemon.signal(SIGUSR1);
    daemon.wait_for("relayed id=");
    wait_for_empty_spool(&daemon);
}

#[test]
fn a_host_that_takes_calls_but_no_mail_is_passed_over() {
    let (dns, good) = (DnsServer::start(), Hop::good());
    let rude = beside(&good, "127.0.0.33");
    rude.script([(Step::Mail, Act::Close)]);
    dns.mx("b.example", 10, "rude.b.example")
        .address("rude.b.example", "127.0.0.33");
    dns.mx("b.example", 20, "good.b.example")
        .address("good.b.example", "127.0.0.1");
    let daemon = relaying(&dns, good.addr().port(), "").start();
    for _ in 0..2 {
        daemon.greeted().mail("a@b", "x@b.example", "x\r\n");
    }
    daemon.wait_for_count("relayed id=", 2);
    wait_for_empty_spool(&daemon);
    assert_eq!(taken(&good.told()).len(), 2);
}

#[test]
fn a_message_in_doubt_is_not_given_to_another_host() {
    let (dns, good) = (DnsServer::start(), Hop::good());
    let rude = beside(&good, "127.0.0.37");
    rude.script([(Step::Dot, Act::Close)]);
    dns.mx("b.example", 10, "rude.b.example")
        .address("rude.b.example", "127.0.0.37");
    dns.mx("b.example", 20, "good.b.example")
        .address("good.b.example", "127.0.0.1");
    let daemon = relaying(&dns, good.addr().port(), "").start();
    daemon.greeted().mail("a@b", "x@b.example", "x\r\n");
    daemon.wait_for("deferred id=");
    let (status, log) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert_eq!(taken(&rude.told()).len(), 1);
    assert_eq!(good.told().len(), 0, "{log:#?}");
}

#[test]
fn a_host_that_leaves_all_in_doubt_is_left_alone() {
    let hop = Hop::bind("127.0.0.38:0".parse().unwrap(), [(Step::Dot, Act::Close)]);
    let setup = Setup::with(&format!("RELAY_PORT = {}\n", hop.addr().port()));
    let daemon = setup.start();
    let mut client = daemon.greeted();
    for n in 1..=8 {
        client.mail("a@b", "x@[127.0.0.38]", "x\r\n");
        daemon.wait_for_count("deferred id=", n);
    }
    assert_eq!(taken(&hop.told()).len(), 3);
}

#[test]
fn a_literal_is_called_at_once_and_without_dns() {
    let hop = Hop::bind("127.0.0.34:0".parse().unwrap(), []);
    let setup = Setup::with(&format!(
        "NAMESERVER = 127.0.0.1:9\nRELAY_PORT = {}\n",
        hop.addr().port()
    ));
    let daemon = setup.users("john:<j@[127.0.0.34]>\n").start();
    let mut client = Client::connect(daemon.addr());
    client.expect("220");
    client.command("HELO c", "250");
    client.mail("a@b", "x@[127.0.0.34]", "x\r\n");
    client.mail("a@b", "john@mail.example", "x\r\n");
    let told = hop.wait_until(|told| taken(told).len() == 2);
    let mut whom = said(&told, "RCPT");
    whom.sort();
    assert_eq!(
        whom,
        ["RCPT TO:<j@[127.0.0.34]>", "RCPT TO:<x@[127.0.0.34]>"]
    );
    assert!(waiting(&daemon.folder).len() <= 2);
    wait_for_empty_spool(&daemon);
}
