//! The choice of addresses, once DNS has answered.

use super::*;

fn me(hostname: &str, listening: &[&str]) -> Identity {
    let listening = listening.iter().map(|addr| addr.parse().unwrap()).collect();
    Identity {
        hostname: hostname.parse().unwrap(),
        listening,
    }
}

fn host(name: &str, preference: u16, ips: &[&str]) -> Exchanger {
    let addresses = match ips {
        [] => Addresses::None,
        ["?"] => Addresses::Unknown(format!("{name} timed out")),
        ips => Addresses::Known(ips.iter().map(|ip| ip.parse().unwrap()).collect()),
    };
    Exchanger {
        name: name.to_owned(),
        preference,
        addresses,
    }
}

fn names(targets: Vec<Target>) -> String {
    targets
        .into_iter()
        .map(|target| target.name)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn what_is_known_of_the_hosts_decides() {
    let me = me("me.example", &["127.0.0.1:25", "192.0.2.9:25"]);
    let later = |name: &str| Err(RouteError::Later(format!("{name} timed out")));
    let never = || {
        Err(RouteError::Never(
            "no mail host of d has an address that can be called".into(),
        ))
    };
    let mail_loop = || {
        Err(RouteError::Never(
            "mail loop: mail for d comes back to this host".into(),
        ))
    };
    let table = [
        (
            "in order",
            vec![host("a", 1, &["192.0.2.1"]), host("b", 2, &["192.0.2.2"])],
            Ok("a b"),
        ),
        (
            "the first is unknown",
            vec![host("a", 1, &["?"]), host("b", 2, &["192.0.2.2"])],
            Ok("b"),
        ),
        (
            "the first is none",
            vec![host("a", 1, &[]), host("b", 2, &["192.0.2.2"])],
            Ok("b"),
        ),
        (
            "one unknown, the rest none",
            vec![host("a", 1, &[]), host("b", 2, &["?"])],
            later("b"),
        ),
        (
            "all none",
            vec![host("a", 1, &[]), host("b", 2, &[])],
            never(),
        ),
        (
            "useless addresses",
            vec![host("a", 1, &["0.0.0.0", "::", "224.0.0.1", "ff02::1"])],
            never(),
        ),
        (
            "we are second, by name",
            vec![host("a", 1, &["192.0.2.1"]), host("ME.example", 2, &[])],
            Ok("a"),
        ),
        (
            "our equals are left out",
            vec![host("a", 2, &["192.0.2.1"]), host("me.example", 2, &[])],
            mail_loop(),
        ),
        (
            "we are first, by address",
            vec![host("b", 1, &["192.0.2.9"]), host("c", 2, &["192.0.2.3"])],
            mail_loop(),
        ),
        (
            "mapped",
            vec![host("b", 1, &["::ffff:192.0.2.9"])],
            mail_loop(),
        ),
        (
            "better, but unknown",
            vec![host("a", 1, &["?"]), host("me.example", 2, &[])],
            later("a"),
        ),
        (
            "another loopback is another host",
            vec![host("a", 1, &["127.0.0.2"])],
            Ok("a"),
        ),
    ];
    for (what, hosts, expected) in table {
        let got = choose("d", hosts, 25, &me).map(names);
        assert_eq!(got, expected.map(str::to_owned), "{what}");
    }
}

#[test]
fn a_listener_on_every_address_is_every_address_of_this_machine() {
    let all = me("me.example", &["0.0.0.0:25", "[::]:25"]);
    for ip in ["127.0.0.1", "127.8.8.8", "::1"] {
        assert!(all.is_at(ip.parse().unwrap(), 25), "{ip}");
        assert!(
            !all.is_at(ip.parse().unwrap(), 26),
            "{ip}: another port is another daemon"
        );
    }
    assert!(!all.is_at("192.0.2.1".parse().unwrap(), 25));
    let v6_only = me("me.example", &["[::]:25"]);
    assert!(!v6_only.is_at("127.0.0.1".parse().unwrap(), 25));
}

#[test]
fn the_literal_that_we_go_by_is_ours() {
    let me = me("[192.0.2.7]", &["10.0.0.1:25"]);
    assert!(me.is_at("192.0.2.7".parse().unwrap(), 25));
    assert!(!me.is_at("192.0.2.7".parse().unwrap(), 26));
}

#[test]
fn both_kinds_of_address_take_turns_and_five_are_enough() {
    let me = me("me.example", &[]);
    let many = [
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8::3",
        "2001:db8::4",
        "192.0.2.1",
        "192.0.2.2",
    ];
    let targets = choose("d", vec![host("a", 1, &many)], 25, &me).unwrap();
    let kinds: Vec<bool> = targets.iter().map(|target| target.addr.is_ipv6()).collect();
    assert_eq!(kinds, [true, false, true, false, true]);
}

#[test]
fn a_literal_is_that_address_alone() {
    let me = me("me.example", &["127.0.0.1:25"]);
    let one = |ip: &str| literal(ip.parse().unwrap(), 25, &me);
    assert_eq!(
        one("2001:db8::1").unwrap(),
        [Target {
            name: "[IPv6:2001:db8::1]".into(),
            addr: "[2001:db8::1]:25".parse().unwrap()
        }]
    );
    for ip in [
        "127.0.0.1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "ff02::1",
    ] {
        assert!(matches!(one(ip), Err(RouteError::Never(_))), "{ip}");
    }
}
