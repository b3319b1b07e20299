//! A stranger sends to a forwarded user whose host refuses, and chooses where the report goes.

use super::world::{beside, mx, relaying, said, wait_for_empty_spool, waiting};
use crate::common::daemon::{Daemon, messages, wait_until};
use crate::common::dns::DnsServer;
use crate::common::hop::{Act, Hop, Step};

/// away@mail.example is forwarded to a host that refuses everybody; `sink` listens at 127.0.0.22, where no report may go.
struct World {
    dns: DnsServer,
    refuses: Hop,
    sink: Hop,
    daemon: Daemon,
}

fn world(lines: &str) -> World {
    let dns = DnsServer::start();
    let refuses = Hop::scripted([(
        Step::Rcpt(0),
        Act::Say("550 5.1.1 <x@bad.example> is nobody\r\n"),
    )]);
    let sink = beside(&refuses, "127.0.0.22");
    mx(&dns, "bad.example", "127.0.0.1");
    let users = "john:{dir}/john/\naway:<x@bad.example>\nhome:<y@near.example>\n";
    let daemon = relaying(&dns, refuses.addr().port(), lines)
        .users(users)
        .start();
    World {
        dns,
        refuses,
        sink,
        daemon,
    }
}

#[test]
fn no_report_to_a_literal_of_a_near_network() {
    let world = world("RELAY_FROM = none\n");
    let mut client = world.daemon.greeted();
    let literals = [
        "[127.0.0.22]",
        "[127.0.0.1]",
        "#2130706454",
        "[IPv6:::1]",
        "[IPv6:::ffff:127.0.0.22]",
        "[10.1.2.3]",
        "[172.16.9.9]",
        "[192.168.1.1]",
        "[169.254.1.1]",
        "[IPv6:fe80::1]",
        "[IPv6:fd12::1]",
    ];
    for literal in literals {
        client.mail(
            &format!("any@{literal}"),
            "away@mail.example",
            "Subject: x\r\n\r\nx\r\n",
        );
    }
    let dropped = world.daemon.wait_for_count("dropped id=", literals.len());
    assert!(dropped[0].contains(" from=<> to=<any@["), "{dropped:?}");
    wait_for_empty_spool(&world.daemon);
    assert_eq!(said(&world.refuses.told(), "RCPT").len(), literals.len());
    assert_eq!(world.sink.told().len(), 0);
}

#[test]
fn who_may_relay_gets_their_report_anywhere() {
    let world = world("RELAY_FROM = 127.0.0.0/8\n");
    world.dns.address("near.example", "127.0.0.22");
    let mut client = world.daemon.greeted();
    for from in ["any@[127.0.0.22]", "any@near.example"] {
        client.mail(from, "away@mail.example", "Subject: x\r\n\r\nx\r\n");
    }
    let told = world.sink.wait_until(|told| said(told, "RCPT").len() == 2);
    assert_eq!(said(&told, "MAIL"), ["MAIL FROM:<>", "MAIL FROM:<>"]);
    wait_for_empty_spool(&world.daemon);
}

#[test]
fn a_name_counts_by_its_addresses() {
    let world = world("RELAY_FROM = none\n");
    world
        .dns
        .address("near.example", "127.0.0.22")
        .address("near6.example", "::1")
        .address("link.example", "169.254.7.7")
        .mx("by-mx.example", 10, "near.example");
    let mut client = world.daemon.greeted();
    let names = [
        "near.example",
        "near6.example",
        "link.example",
        "by-mx.example",
    ];
    for name in names {
        client.mail(
            &format!("any@{name}"),
            "away@mail.example",
            "Subject: x\r\n\r\nx\r\n",
        );
    }
    let bounced = world.daemon.wait_for_count(
        " report=none answer=no report to an address of this machine",
        names.len(),
    );
    for (name, line) in names.iter().zip(&bounced) {
        assert!(line.contains(" to=<any@"), "{name}: {line}");
    }
    wait_for_empty_spool(&world.daemon);
    // Mail for the same name that is no report goes through, and no report rides on its connection.
    client.mail("", "home@mail.example", "Subject: x\r\n\r\nx\r\n");
    client.mail(
        "any@near.example",
        "away@mail.example",
        "Subject: x\r\n\r\nx\r\n",
    );
    world.daemon.wait_for_count(
        " report=none answer=no report to an address of this machine",
        names.len() + 1,
    );
    let told = world.sink.wait_until(|told| said(told, "RCPT").len() == 1);
    assert_eq!(said(&told, "RCPT"), ["RCPT TO:<y@near.example>"]);
    wait_for_empty_spool(&world.daemon);
}

#[test]
fn sixty_an_hour_to_one_domain() {
    let world = world("RELAY_FROM = none\n");
    // Nobody answers there: what is admitted waits in the spool.
    mx(&world.dns, "far.example", "192.0.2.1");
    let mut client = world.daemon.greeted();
    for n in 0..70 {
        let far = if n % 2 == 0 {
            "far.example"
        } else {
            "FAR.Example"
        };
        for from in [format!("u{n}@{far}"), "john@mail.example".to_owned()] {
            client.mail(&from, "away@mail.example", "Subject: x\r\n\r\nx\r\n");
        }
    }
    let dropped = world.daemon.wait_for_count(" dropped id=", 20);
    assert_eq!(
        dropped
            .iter()
            .filter(|line| line.contains("far.example") || line.contains("FAR.Example"))
            .count(),
        10
    );
    wait_until("only reports wait", || {
        waiting(&world.daemon.folder).len() == 60
    });
    assert_eq!(messages(&world.daemon.read("john/mbox")).len(), 60);
    // Another domain has an hour of its own.
    client.mail(
        "u@far.example.net",
        "away@mail.example",
        "Subject: x\r\n\r\nx\r\n",
    );
    world
        .daemon
        .wait_for(" to=<u@far.example.net> report=none ");
    assert_eq!(world.daemon.wait_for_count(" dropped id=", 20).len(), 20);
    assert_eq!(world.sink.told().len(), 0);
}

#[test]
fn a_report_names_the_user_and_not_where_their_mail_goes() {
    let world = world("");
    let mut client = world.daemon.greeted();
    client.mail(
        "john@mail.example",
        "away@mail.example",
        "Subject: x\r\n\r\nx\r\n",
    );
    wait_until("the report has come", || {
        !world.daemon.read("john/mbox").is_empty()
    });
    let report = world.daemon.read("john/mbox");
    for part in [
        "\n<away@mail.example>\n",
        "Final-Recipient: rfc822; away@mail.example\n",
        "550 5.1.1 <away@mail.example> is nobody",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(!report.contains("x@bad.example"), "{report}");
    let orig_to = " to=<x@bad.example> orig_to=<away@mail.example>";
    for event in ["queued", "bounced"] {
        let line = world.daemon.wait_for(&format!(" {event} id="));
        assert!(line.contains(orig_to), "{line}");
    }
}
