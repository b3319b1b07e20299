//! What cannot be delivered comes back by the way of all mail; what cannot come back is logged and dropped.

use super::world::{beside, mx, relaying, said, taken, wait_for_empty_spool};
use crate::common::daemon::{Daemon, messages};
use crate::common::dns::DnsServer;
use crate::common::hop::{Act, Hop, Step};

/// bad.example refuses every recipient, good.example none.
fn world(lines: &str) -> (DnsServer, Hop, Hop, Daemon) {
    let (dns, good) = (DnsServer::start(), Hop::good());
    let bad = beside(&good, "127.0.0.35");
    bad.script([(Step::Rcpt(0), Act::Say("550 5.1.1 nobody of that name\r\n"))]);
    mx(&dns, "good.example", "127.0.0.1");
    mx(&dns, "bad.example", "127.0.0.35");
    let daemon = relaying(&dns, good.addr().port(), lines).start();
    (dns, good, bad, daemon)
}

fn assert_report(text: &str, id: &str, status: &str, said: &str) {
    for part in [
        "Content-Type: multipart/report; report-type=\"delivery-status\"",
        "Auto-Submitted: auto-replied",
        "Final-Recipient: rfc822; x@bad.example",
        "Action: failed",
        &format!("Status: {status}"),
        said,
        "Subject: my words",
        id,
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("the body"), "{text}");
}

const WORDS: &str = "Subject: my words\r\n\r\nthe body\r\n";

#[test]
fn a_local_sender_finds_the_report_in_his_mailbox() {
    let (_dns, _good, _bad, daemon) = world("");
    let id = daemon
        .greeted()
        .mail("john@mail.example", "x@bad.example", WORDS);
    let bounced = daemon.wait_for("bounced id=");
    assert!(
        bounced.contains(&format!("id={id} to=<x@bad.example> report=")),
        "{bounced}"
    );
    wait_for_empty_spool(&daemon);
    let mbox = daemon.read("john/mbox");
    assert!(mbox.starts_with("From MAILER-DAEMON "), "{mbox}");
    let all = messages(&mbox);
    assert_eq!(all.len(), 1);
    assert!(all[0].starts_with("Return-Path: <>\n"));
    let said = "Diagnostic-Code: smtp; 550 5.1.1 nobody of that name\n";
    assert_report(&all[0], &id, "5.1.1", said);
}

#[test]
fn a_remote_sender_gets_it_by_his_mx() {
    let (_dns, good, _bad, daemon) = world("");
    let id = daemon
        .greeted()
        .mail("me@good.example", "x@bad.example", WORDS);
    let told = good.wait_until(|told| taken(told).len() == 1);
    assert_eq!(said(&told, "MAIL"), ["MAIL FROM:<>"]);
    assert_eq!(said(&told, "RCPT"), ["RCPT TO:<me@good.example>"]);
    assert_report(
        &taken(&told)[0].replace("\r\n", "\n"),
        &id,
        "5.1.1",
        "550 5.1.1",
    );
    wait_for_empty_spool(&daemon);
}

#[test]
fn a_report_that_cannot_be_delivered_is_dropped_with_a_line() {
    let (_dns, good, bad, daemon) = world("");
    let mut client = daemon.greeted();
    let id = client.mail("me@bad.example", "x@bad.example", WORDS);
    let bounced = daemon.wait_for_count("bounced id=", 2);
    assert!(bounced[0].contains(&format!("id={id} ")), "{bounced:?}");
    assert!(
        bounced[1].contains(" to=<me@bad.example> report=none "),
        "{bounced:?}"
    );
    client.mail("", "y@bad.example", WORDS);
    daemon.wait_for(" to=<y@bad.example> report=none ");
    // A sender of ours who is not there.
    client.mail("nobody@mail.example", "z@bad.example", WORDS);
    daemon.wait_for("to=<nobody@mail.example>: no such user");
    wait_for_empty_spool(&daemon);
    assert_eq!(said(&bad.told(), "RCPT").len(), 4);
    assert_eq!(said(&good.told(), "RCPT").len(), 0);
    assert_eq!(daemon.read("john/mbox"), "");
}

#[test]
fn mail_that_is_too_old_comes_back_with_the_last_answer() {
    let (_dns, _good, bad, daemon) = world("QUEUE_LIFETIME = 1s\nRETRY_MIN = 1s\nRETRY_MAX = 1s\n");
    bad.script([(Step::Rcpt(0), Act::Say("451 not today\r\n"))]);
    let id = daemon
        .greeted()
        .mail("john@mail.example", "x@bad.example", WORDS);
    daemon.wait_for("deferred id=");
    daemon.wait_for("bounced id=");
    wait_for_empty_spool(&daemon);
    let all = messages(&daemon.read("john/mbox"));
    assert_eq!(all.len(), 1);
    assert_report(&all[0], &id, "4.4.7", "451 not today");
}

#[test]
fn one_report_names_all_that_failed() {
    let (dns, good, _bad, daemon) = world("");
    dns.mx("null.example", 0, ".");
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<john@mail.example>", "250");
    for to in [
        "x@bad.example",
        "y@null.example",
        "z@nowhere.example",
        "w@good.example",
    ] {
        client.command(&format!("RCPT TO:<{to}>"), "250");
    }
    client.command("DATA", "354");
    client.send(format!("{WORDS}.\r\n"));
    let id = client.expect("250 OK id=").split_off("250 OK id=".len());
    wait_for_empty_spool(&daemon);
    assert_eq!(daemon.wait_for_count("bounced id=", 3).len(), 3);
    let all = messages(&daemon.read("john/mbox"));
    assert_eq!(all.len(), 1);
    assert_report(&all[0], &id, "5.1.1", "550 5.1.1");
    for part in [
        "rfc822; y@null.example",
        "null MX",
        "rfc822; z@nowhere.example",
        "NXDOMAIN",
    ] {
        assert!(all[0].contains(part), "{part}\n{}", all[0]);
    }
    assert!(!all[0].contains("w@good.example"), "{}", all[0]);
    assert_eq!(taken(&good.told()).len(), 1);
}

/// cron writes as root@localhost; a daemon without a name of its own as john@[its address].
#[test]
fn the_names_of_this_host_get_their_reports() {
    let users = "john:{dir}/john/\nroot:{dir}/root/\n";
    let (dns, good) = (DnsServer::start(), Hop::good());
    dns.mx("null.example", 0, ".");
    let daemon = relaying(
        &dns,
        good.addr().port(),
        "LISTEN_ADDR = 127.0.0.1, 127.0.0.37\n",
    )
    .users(users)
    .start();
    let mut client = daemon.greeted();
    for from in [
        "root@localhost",
        "root@LocalHost",
        "john@[127.0.0.1]",
        "john@[127.0.0.37]",
    ] {
        client.mail(from, "x@null.example", WORDS);
    }
    wait_for_empty_spool(&daemon);
    for user in ["john", "root"] {
        let reports = messages(&daemon.read(&format!("{user}/mbox")));
        assert_eq!(reports.len(), 2, "{user}: {:?}", daemon.log());
    }
    assert!(daemon.matching("loop").is_empty(), "{:?}", daemon.log());
    assert_eq!(good.told().len(), 0);
}
