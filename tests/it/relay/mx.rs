//! Where a domain's mail goes, asked of a real DNS server.

use crate::common::dns::{DnsServer, Misbehaviour};
use hickory_server::proto::rr::RecordType;
use smtpd788::relay::mx::{Identity, Resolver, RouteError, Target};
use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const PATIENT: Duration = Duration::from_secs(10);
const IMPATIENT: Duration = Duration::from_millis(400);

fn me() -> Identity {
    let listening = vec!["127.0.0.1:25".parse().unwrap()];
    Identity::new("me.example".parse().unwrap(), listening)
}

fn ask(resolver: &Resolver, host: &str) -> Result<Vec<Target>, RouteError> {
    resolver.targets(&host.parse().unwrap(), 25, &me())
}

/// `name/ip name/ip`, or the error: `never: why`, `later: why`.
fn told(resolver: &Resolver, host: &str) -> String {
    match ask(resolver, host) {
        Ok(targets) => targets
            .iter()
            .map(|target| format!("{}/{}", target.name, target.addr.ip()))
            .collect::<Vec<_>>()
            .join(" "),
        Err(RouteError::Never(why)) => format!("never: {why}"),
        Err(RouteError::Later(why)) => format!("later: {why}"),
    }
}

#[test]
fn every_outcome() {
    let dns = DnsServer::start();
    dns.address("mx1.test", "192.0.2.1")
        .address("mx2.test", "192.0.2.2")
        .address("mx6.test", "192.0.2.6")
        .address("mx6.test", "2001:db8::6")
        .address("here.test", "127.0.0.1")
        .cname("alias.test", "mx1.test")
        .cname("alias2.test", "alias.test")
        .cname("lost.test", "gone.test")
        .cname("round.test", "round.test");
    dns.mx("two.test", 20, "mx2.test")
        .mx("two.test", 10, "mx1.test")
        .mx("both.test", 10, "mx6.test")
        .mx("both.test", 20, "mx1.test");
    dns.address("bare.test", "192.0.2.7")
        .exists("nothing.test")
        .mx("null.test", 0, ".")
        .mx("null2.test", 0, ".")
        .mx("null2.test", 10, "mx1.test");
    dns.misbehave("servfail.test", Misbehaviour::ServFail)
        .misbehave("refused.test", Misbehaviour::Refused)
        .misbehave("notimp.test", Misbehaviour::NotImplemented)
        .misbehave("refers.test", Misbehaviour::Refers);
    dns.mx("cname-mx.test", 10, "alias.test")
        .mx("cname-mx2.test", 10, "alias2.test")
        .cname("aka-two.test", "two.test")
        .cname("aka-bare.test", "bare.test");
    dns.mx("first-gone.test", 10, "gone.test")
        .mx("first-gone.test", 20, "mx2.test")
        .mx("all-gone.test", 10, "gone.test")
        .mx("all-gone.test", 20, "nothing.test")
        .mx("first-fails.test", 10, "servfail.test")
        .mx("first-fails.test", 20, "mx2.test")
        .mx("all-fail.test", 10, "refused.test")
        .mx("all-fail.test", 20, "gone.test")
        .mx("number.test", 10, "192.0.2.1");
    dns.mx("loop-name.test", 10, "mx1.test")
        .mx("loop-name.test", 20, "me.example")
        .mx("loop-name.test", 30, "mx2.test")
        .mx("loop-address.test", 10, "mx1.test")
        .mx("loop-address.test", 20, "here.test")
        .mx("loop-address.test", 30, "mx2.test")
        .mx("loop-first.test", 10, "here.test")
        .mx("loop-first.test", 20, "mx2.test");
    dns.address("half.test", "192.0.2.8").misbehave_for(
        "half.test",
        RecordType::AAAA,
        Misbehaviour::ServFail,
    );
    dns.exists("half-dead.test").misbehave_for(
        "half-dead.test",
        RecordType::A,
        Misbehaviour::ServFail,
    );

    let table = [
        // By preference; both kinds of address of a host before the next.
        ("two.test", "mx1.test/192.0.2.1 mx2.test/192.0.2.2"),
        ("TWO.Test", "mx1.test/192.0.2.1 mx2.test/192.0.2.2"),
        (
            "both.test",
            "mx6.test/2001:db8::6 mx6.test/192.0.2.6 mx1.test/192.0.2.1",
        ),
        // No MX.
        ("bare.test", "bare.test/192.0.2.7"),
        (
            "nothing.test",
            "never: nothing.test has neither MX nor address records",
        ),
        ("gone.test", "never: gone.test does not exist (NXDOMAIN)"),
        (
            "null.test",
            "never: null.test does not accept mail (null MX)",
        ),
        ("null2.test", "mx1.test/192.0.2.1"),
        // No answer.
        (
            "servfail.test",
            "later: DNS lookup of servfail.test MX failed: SERVFAIL",
        ),
        (
            "refused.test",
            "later: DNS lookup of refused.test MX failed: REFUSED",
        ),
        (
            "notimp.test",
            "later: DNS lookup of notimp.test MX failed: Not Implemented",
        ),
        (
            "refers.test",
            "later: DNS lookup of refers.test MX failed: the name server only refers to others",
        ),
        // Aliases.
        ("cname-mx.test", "alias.test/192.0.2.1"),
        ("cname-mx2.test", "alias2.test/192.0.2.1"),
        ("aka-two.test", "mx1.test/192.0.2.1 mx2.test/192.0.2.2"),
        ("aka-bare.test", "aka-bare.test/192.0.2.7"),
        ("lost.test", "never: lost.test does not exist (NXDOMAIN)"),
        (
            "round.test",
            "later: DNS lookup of round.test MX failed: the chain of aliases is too long",
        ),
        // Hosts without addresses.
        ("first-gone.test", "mx2.test/192.0.2.2"),
        (
            "all-gone.test",
            "never: no mail host of all-gone.test has an address that can be called",
        ),
        ("first-fails.test", "mx2.test/192.0.2.2"),
        (
            "all-fail.test",
            "later: DNS lookup of refused.test AAAA failed: REFUSED",
        ),
        (
            "number.test",
            "never: no mail host of number.test has an address that can be called",
        ),
        ("half.test", "half.test/192.0.2.8"),
        (
            "half-dead.test",
            "later: DNS lookup of half-dead.test A failed: SERVFAIL",
        ),
        // Ourselves.
        ("loop-name.test", "mx1.test/192.0.2.1"),
        ("loop-address.test", "mx1.test/192.0.2.1"),
        (
            "loop-first.test",
            "never: mail loop: mail for loop-first.test comes back to this host",
        ),
        (
            "here.test",
            "never: mail loop: mail for here.test comes back to this host",
        ),
        // No DNS at all.
        ("[192.0.2.5]", "[192.0.2.5]/192.0.2.5"),
        ("[IPv6:2001:db8::5]", "[IPv6:2001:db8::5]/2001:db8::5"),
        ("[127.0.0.1]", "never: mail loop: [127.0.0.1] is this host"),
        // Digits and dots without brackets are neither a name nor a literal.
        (
            "192.0.2.5",
            "never: 192.0.2.5 is no domain; an address is written as [192.0.2.5]",
        ),
        (
            "12",
            "never: 12 is no domain; an address is written as [12]",
        ),
    ];
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    for (host, expected) in table {
        assert_eq!(told(&resolver, host), expected, "{host}");
    }
}

#[test]
fn equal_preferences_are_shuffled_and_others_are_not() {
    let dns = DnsServer::start();
    dns.address("a.test", "192.0.2.1")
        .address("b.test", "192.0.2.2")
        .address("c.test", "192.0.2.3")
        .mx("d.test", 20, "c.test")
        .mx("d.test", 10, "a.test")
        .mx("d.test", 10, "b.test");
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    let seen: HashSet<String> = (0..64).map(|_| told(&resolver, "d.test")).collect();
    let expected = [
        "a.test/192.0.2.1 b.test/192.0.2.2 c.test/192.0.2.3",
        "b.test/192.0.2.2 a.test/192.0.2.1 c.test/192.0.2.3",
    ];
    assert_eq!(seen, expected.map(str::to_owned).into());
    assert_eq!(
        dns.questions("d.test", RecordType::MX),
        1,
        "answers are cached"
    );
}

#[test]
fn five_addresses_are_enough_and_each_preference_has_one() {
    let dns = DnsServer::start();
    for n in 1..=40 {
        let host = format!("mx{n}.test");
        for at in 0..3 {
            dns.address(&host, &format!("192.0.{at}.{n}"));
            dns.address(&host, &format!("2001:db8::{at}:{n}"));
        }
        dns.mx("big.test", n, &host);
        if n <= 2 {
            dns.mx("two.test", n, &host);
        }
        if n <= 3 {
            dns.mx("three.test", n, &host);
        }
        // Equal preferences are no further ones: the first host of them is tried at every address.
        dns.mx("equal.test", 7, &host);
    }
    dns.mx("gaps.test", 1, "mx1.test")
        .mx("gaps.test", 2, "gone.test")
        .mx("gaps.test", 3, "mx3.test");
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    let names = |domain: &str| {
        let targets = ask(&resolver, domain).unwrap();
        let names: Vec<String> = targets.into_iter().map(|target| target.name).collect();
        names.join(" ").replace(".test", "")
    };
    assert_eq!(names("big.test"), "mx1 mx2 mx3 mx4 mx5");
    assert_eq!(names("two.test"), "mx1 mx1 mx1 mx1 mx2");
    assert_eq!(names("three.test"), "mx1 mx1 mx1 mx2 mx3");
    assert_eq!(names("gaps.test"), "mx1 mx1 mx1 mx1 mx3");
    assert_eq!(dns.questions("mx40.test", RecordType::A), 0);
    let equal = names("equal.test");
    let first = equal.split(' ').next().unwrap();
    assert_eq!(equal, [first; 5].join(" "));
}

#[test]
fn what_is_too_long_to_follow_is_for_later() {
    let dns = DnsServer::start();
    for n in 0..20 {
        dns.cname(&format!("chain{n}.test"), &format!("chain{}.test", n + 1));
        dns.mx("list.test", n, &format!("gone{n}.test"));
        dns.mx("long.test", n, &format!("gone{n}.test"));
    }
    dns.address("chain20.test", "192.0.2.1");
    dns.mx("long.test", 30, "me.example");
    dns.mx("ours.test", 10, "me.example");
    for n in 0..20 {
        dns.mx("ours.test", 20, &format!("gone{n}.test"));
    }
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    // (The test's name server shows eight aliases at a time.)
    let near = told(&resolver, "chain12.test");
    assert_eq!(near, "chain12.test/192.0.2.1");
    dns.cname("round0.test", "round1.test")
        .cname("round1.test", "round0.test");
    for (domain, what) in [
        ("round0.test", "chain of aliases"),
        ("list.test", "list of mail hosts"),
        ("long.test", "list of mail hosts"),
    ] {
        let found = told(&resolver, domain);
        assert!(
            found.starts_with("later: ") && found.contains(what),
            "{domain}: {found}"
        );
    }
    let ours = told(&resolver, "ours.test");
    assert!(ours.starts_with("never: mail loop: "), "{ours}");
}

#[test]
fn an_answer_too_big_for_a_datagram_comes_over_tcp() {
    let dns = DnsServer::start();
    for n in 1..=200 {
        dns.address("wide.test", &format!("192.0.2.{n}"));
    }
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    assert_eq!(ask(&resolver, "wide.test").unwrap().len(), 5);
}

#[test]
fn no_answer_is_for_later_and_in_time() {
    let dns = DnsServer::start();
    dns.misbehave("silent.test", Misbehaviour::Silent)
        .address("mx1.test", "192.0.2.1")
        .mx("half.test", 10, "silent.test")
        .mx("half.test", 20, "mx1.test");
    let resolver = Resolver::new(&[dns.addr()], IMPATIENT).unwrap();
    let started = Instant::now();
    assert_eq!(
        told(&resolver, "silent.test"),
        "later: DNS lookup of silent.test MX failed: timed out"
    );
    // What is known of the other hosts is used.
    assert_eq!(told(&resolver, "half.test"), "mx1.test/192.0.2.1");
    assert!(started.elapsed() < 2 * (IMPATIENT + Duration::from_secs(1)));
}

#[test]
fn a_dead_name_server_is_for_later() {
    // Bound and never read: nothing answers, and no ICMP says so.
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = Resolver::new(&[mute.local_addr().unwrap()], IMPATIENT).unwrap();
    assert!(told(&resolver, "any.test").starts_with("later: "));
    // Nobody there at all.
    let addr = mute.local_addr().unwrap();
    drop(mute);
    let resolver = Resolver::new(&[addr], IMPATIENT).unwrap();
    assert!(told(&resolver, "any.test").starts_with("later: "));
    // The second one helps.
    let dns = DnsServer::start();
    dns.address("any.test", "192.0.2.1");
    let resolver = Resolver::new(&[addr, dns.addr()], PATIENT).unwrap();
    assert_eq!(told(&resolver, "any.test"), "any.test/192.0.2.1");
}

#[test]
fn one_silent_domain_delays_only_who_asks_it() {
    let dns = DnsServer::start();
    dns.misbehave("silent.test", Misbehaviour::Silent);
    for n in 0..50 {
        dns.address(&format!("d{n}.test"), &format!("192.0.2.{n}"));
    }
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    thread::scope(|scope| {
        let (done, finished) = mpsc::channel();
        for _ in 0..50 {
            let (resolver, done) = (&resolver, done.clone());
            scope.spawn(move || done.send(told(resolver, "silent.test")));
        }
        while dns.questions("silent.test", RecordType::MX) == 0 {
            thread::yield_now();
        }
        let quick: Vec<_> = (0..50)
            .map(|n| {
                let resolver = &resolver;
                scope.spawn(move || told(resolver, &format!("d{n}.test")))
            })
            .collect();
        for (n, quick) in quick.into_iter().enumerate() {
            assert_eq!(quick.join().unwrap(), format!("d{n}.test/192.0.2.{n}"));
        }
        assert!(
            finished.try_recv().is_err(),
            "the others still wait when these have their answers"
        );
        // Speaking again, it is heard: questions are repeated.
        dns.forget("silent.test")
            .address("silent.test", "192.0.2.1");
        for _ in 0..50 {
            assert_eq!(finished.recv().unwrap(), "silent.test/192.0.2.1");
        }
    });
}

#[test]
fn an_error_is_not_remembered() {
    let dns = DnsServer::start();
    dns.misbehave("ill.test", Misbehaviour::ServFail);
    let resolver = Resolver::new(&[dns.addr()], PATIENT).unwrap();
    assert!(told(&resolver, "ill.test").ends_with("SERVFAIL"));
    dns.forget("ill.test").address("ill.test", "192.0.2.1");
    assert_eq!(told(&resolver, "ill.test"), "ill.test/192.0.2.1");
}
