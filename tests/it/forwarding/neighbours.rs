//! Hosts and name servers that say nothing, and serve many domains: they delay nobody else's mail.

use super::world::{mx, relaying, restart, said, taken, wait_for_empty_spool};
use crate::common::daemon::{Daemon, wait_until};
use crate::common::dns::{DnsServer, Misbehaviour};
use crate::common::hop::{Act, Hop, Step};
use hickory_server::proto::rr::RecordType;
use nix::sys::signal::Signal::SIGUSR1;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const DOMAINS: usize = 60;

/// Each of these domains gets a message.
fn send_to_all(daemon: &Daemon, domain: impl Fn(usize) -> String) {
    let mut client = daemon.greeted();
    for number in 0..DOMAINS {
        client.mail("a@b", &format!("x@{}", domain(number)), "x\r\n");
    }
}

/// How long mail for the live host takes, from its `250`; the best of some, since the machine may be busy.
fn time_to_live_host(daemon: &Daemon, live: &Hop) -> Duration {
    let mut client = daemon.greeted();
    let times = (0..10).map(|_| {
        let before = taken(&live.told()).len();
        let begun = Instant::now();
        client.mail("a@b", "y@live.example", "y\r\n");
        live.wait_until(|told| taken(told).len() > before);
        begun.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn a_silent_host_with_many_domains_delays_nobody_else() {
    for relays in [100, 5, 2] {
        let (dns, live) = (DnsServer::start(), Hop::good());
        let port = live.addr().port();
        mx(&dns, "live.example", "127.0.0.1");
        // Accepted by the system, and never greeted.
        let silent = TcpListener::bind(("127.0.0.41", port)).unwrap();
        silent.set_nonblocking(true).unwrap();
        for number in 0..DOMAINS {
            mx(&dns, &format!("silent{number}.example"), "127.0.0.41");
        }
        let daemon = relaying(&dns, port, &format!("MAX_RELAYS = {relays}\n")).start();
        send_to_all(&daemon, |number| format!("silent{number}.example"));
        let mut calls = Vec::new();
        wait_until("it is called", || {
            calls.extend(silent.accept());
            !calls.is_empty()
        });
        let took = time_to_live_host(&daemon, &live);
        assert!(took < Duration::from_millis(200), "{relays}: {took:?}");
        // One call until it answers, for all domains.
        calls.extend(std::iter::from_fn(|| silent.accept().ok()));
        assert_eq!(calls.len(), 1, "{relays}");
        // When it has hung up, all of them leave it alone.
        drop(calls);
        daemon.wait_for_count("deferred id=", DOMAINS);
        assert!(silent.accept().is_err(), "{relays}");
    }
}

#[test]
fn name_servers_that_say_nothing_delay_nobody_else() {
    for relays in [100, 5, 1] {
        let (dns, live) = (DnsServer::start(), Hop::good());
        mx(&dns, "live.example", "127.0.0.1");
        for number in 0..DOMAINS {
            dns.misbehave(&format!("dns{number}.example"), Misbehaviour::Silent);
        }
        let lines = format!("MAX_RELAYS = {relays}\n");
        let daemon = relaying(&dns, live.addr().port(), &lines).start();
        send_to_all(&daemon, |number| format!("dns{number}.example"));
        let asked = |number| dns.questions(&format!("dns{number}.example"), RecordType::MX) > 0;
        wait_until("all are asked for", || (0..DOMAINS).all(asked));
        let took = time_to_live_host(&daemon, &live);
        assert!(took < Duration::from_millis(200), "{relays}: {took:?}");
    }
}

/// A fifth of 5 is one: domains of one host take turns, and none waits for the other's connection to grow old.
#[test]
fn domains_of_one_host_share_its_permits() {
    let (dns, live) = (DnsServer::start(), Hop::good());
    for number in 0..4 {
        mx(&dns, &format!("d{number}.example"), "127.0.0.1");
    }
    let daemon = relaying(&dns, live.addr().port(), "MAX_RELAYS = 5\n").start();
    let mut client = daemon.greeted();
    for number in 0..40 {
        client.mail("a@b", &format!("x@d{}.example", number % 4), "x\r\n");
    }
    wait_for_empty_spool(&daemon);
    assert_eq!(said(&live.told(), "RCPT").len(), 40);
}

#[test]
fn a_start_and_a_flush_say_how_many_wait() {
    let (dns, hop) = (
        DnsServer::start(),
        Hop::scripted([(Step::Rcpt(0), Act::Say("451 later\r\n"))]),
    );
    mx(&dns, "b.example", "127.0.0.1");
    let daemon = relaying(&dns, hop.addr().port(), "").start();
    let mut client = daemon.greeted();
    (0..3).for_each(|_| drop(client.mail("a@b", "x@b.example", "x\r\n")));
    daemon.wait_for_count("deferred id=", 3);
    // A file that somebody puts back is found too.
    let spool = daemon.path("spool");
    let files = super::world::waiting(&daemon.folder);
    wait_until("they are written", || {
        let texts = files.iter().map(std::fs::read_to_string);
        texts.flatten().all(|text| text.contains("451 later"))
    });
    daemon.signal(SIGUSR1);
    daemon.wait_for(" trying all 3 messages of the spool now");
    daemon.wait_for_count("deferred id=", 6);
    let folder = daemon.kill();
    let kept = folder.path().join("kept");
    std::fs::rename(&files[0], &kept).unwrap();
    let daemon = restart(&folder);
    daemon.wait_for(" 2 messages wait in the spool");
    std::fs::rename(&kept, spool.join(files[0].file_name().unwrap())).unwrap();
    hop.script([]);
    daemon.signal(SIGUSR1);
    daemon.wait_for(" trying all 3 messages of the spool now");
    wait_for_empty_spool(&daemon);
    assert_eq!(taken(&hop.told()).len(), 3);
}
