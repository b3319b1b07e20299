//! More than one machine, on DNS and SMTP themselves: equal MX hosts of one domain, and a front host that sends each
//! user's mail on to the host where he lives.

use super::world::{mx, relaying, restart, site, wait_for_empty_spool, waiting};
use crate::common::daemon::{Client, Daemon, messages, wait_until};
use crate::common::dns::DnsServer;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
const EACH: usize = 500;

/// How often each number has arrived; a torn tail counts for nothing.
fn arrived(mbox: &str) -> Vec<usize> {
    let number = |message: &String| {
        let (_, text) = message.split_once("\nnumber ")?;
        text.strip_suffix("\n\n")?.parse().ok()
    };
    messages(mbox).iter().filter_map(number).collect()
}

#[test]
fn one_of_three_equal_hosts_is_killed_and_nothing_is_lost() {
    let dns = DnsServer::start();
    let ips = ["127.0.0.11", "127.0.0.12", "127.0.0.13"];
    let mut port = 0;
    let mut hosts: Vec<Daemon> = Vec::new();
    for (number, ip) in ips.iter().enumerate() {
        let name = format!("mx{number}.cluster.example");
        dns.mx("cluster.example", 10, &name).address(&name, ip);
        let mut setup = site(&dns, &name, ip, port);
        setup.mail.push_str("LOCAL_DOMAINS = cluster.example\n");
        hosts.push(setup.start());
        port = hosts[0].addr().port();
    }
    let lines = "RETRY_MIN = 1s\nRETRY_MAX = 2s\nMAX_RELAYS = 20\n";
    let front = relaying(&dns, port, lines).start();
    let addr = front.addr();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut session = Client::connect(addr);
                session.expect("220");
                session.command("HELO c", "250");
                for number in client * EACH..(client + 1) * EACH {
                    session.mail(
                        "a@b",
                        "john@cluster.example",
                        &format!("number {number}\r\n"),
                    );
                }
            });
        }
        wait_until("the victim is at work", || {
            arrived(&hosts[1].read("john/mbox")).len() > 100
        });
        let _ = hosts[1].child.kill();
        let _ = hosts[1].child.wait();
    });
    let deadline = Instant::now() + Duration::from_secs(120);
    while !waiting(&front.folder).is_empty() {
        assert!(
            Instant::now() < deadline,
            "{} wait",
            waiting(&front.folder).len()
        );
        thread::sleep(Duration::from_millis(20));
    }
    let relayed = |host: &str| {
        front
            .matching(&format!(" host={host}.cluster.example "))
            .len()
    };
    let shares = ["mx0", "mx1", "mx2"].map(relayed);
    // A start mends what the kill has torn.
    let folder = std::sync::Arc::clone(&hosts[1].folder);
    hosts[1] = restart(&folder);
    let mut copies: BTreeMap<usize, usize> = BTreeMap::new();
    for host in &hosts {
        for number in arrived(&host.read("john/mbox")) {
            *copies.entry(number).or_default() += 1;
        }
        assert!(waiting(&host.folder).is_empty());
    }
    let all = CLIENTS * EACH;
    let lost: Vec<_> = (0..all)
        .filter(|number| !copies.contains_key(number))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let twice = copies.values().sum::<usize>() - all;
    println!("{all} messages, relayed to each: {shares:?}, second copies: {twice}");
    // At most what was under way on the connections to the victim: a quarter of MAX_RELAYS.
    assert!(twice <= 5, "{twice} second copies");
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    assert_eq!(front.matching("bounced id=").len(), 0);
}

#[test]
fn a_front_host_spreads_its_users_over_two_back_ends() {
    let dns = DnsServer::start();
    let one = site(&dns, "one.example", "127.0.0.14", 0)
        .users("anna:{dir}/anna\n")
        .start();
    let two = site(&dns, "two.example", "127.0.0.15", one.addr().port())
        .users("bert:{dir}/bert\n")
        .start();
    mx(&dns, "one.example", "127.0.0.14");
    mx(&dns, "two.example", "127.0.0.15");
    let front = relaying(&dns, one.addr().port(), "RELAY_FROM = none\n")
        .users("anna:<anna@one.example>\nbert:<bert@two.example>\ncarl:{dir}/carl\n")
        .start();
    let mut client = front.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    for (user, code) in [
        ("anna", "251"),
        ("BERT", "251"),
        ("carl", "250"),
        ("dora", "550"),
    ] {
        client.command(&format!("RCPT TO:<{user}@mail.example>"), code);
    }
    client.command("DATA", "354");
    client.send("number 7\r\n.\r\n");
    client.expect("250 OK id=");
    wait_for_empty_spool(&front);
    let boxes = [one.read("anna"), two.read("bert"), front.read("carl")];
    assert_eq!(boxes.map(|mbox| arrived(&mbox)), [[7], [7], [7]]);
}

/// RFC 788's scenario: the back host takes ten recipients of a message at a time, the front host has fifteen.
#[test]
fn more_recipients_than_the_next_host_takes_at_once() {
    let dns = DnsServer::start();
    mx(&dns, "back.example", "127.0.0.14");
    for (most, messages_there) in [(10, 2), (1, 15), (7, 3), (15, 1)] {
        let users: String = (0..15).map(|n| format!("u{n}:{{dir}}/u{n}\n")).collect();
        let mut back = site(&dns, "back.example", "127.0.0.14", 0).users(&users);
        back.mail += &format!("MAX_RECIPIENTS = {most}\n");
        let back = back.start();
        let front = relaying(&dns, back.addr().port(), "").start();
        let mut client = front.greeted();
        client.command("MAIL FROM:<john@mail.example>", "250");
        for n in 0..15 {
            client.command(&format!("RCPT TO:<u{n}@back.example>"), "250");
        }
        client.command("DATA", "354");
        client.send("Subject: to all\r\n\r\nx\r\n.\r\n");
        client.expect("250 OK id=");
        front.wait_for_count(" relayed id=", 15);
        wait_for_empty_spool(&front);
        for n in 0..15 {
            assert_eq!(
                messages(&back.read(&format!("u{n}"))).len(),
                1,
                "{most} {n}"
            );
        }
        back.wait_for_count(" accepted id=", messages_there);
        assert_eq!(
            back.wait_for_count(" accepted id=", messages_there).len(),
            messages_there,
            "{most}"
        );
        assert_eq!(
            back.wait_for_count(" connect client=", 1).len(),
            1,
            "at once: {most}"
        );
        for event in [" deferred id=", " bounced id="] {
            assert!(
                front.matching(event).is_empty(),
                "{most}: {:?}",
                front.log()
            );
        }
        assert_eq!(front.read("john/mbox"), "");
    }
}
