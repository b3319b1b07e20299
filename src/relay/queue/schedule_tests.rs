//! The plan's decisions, without threads or clocks.

use super::*;
use crate::relay::queue::destinations::{Kind, Next};
use crate::relay::queue::retry::BackOff;
use std::time::Duration;

const LIMITS: Limits = Limits {
    relays: 8,
    each: 2,
    local: 2,
};
const BACK_OFF: BackOff = BackOff {
    min: Duration::from_secs(100),
    max: Duration::from_secs(800),
};

fn id(n: u64) -> Id {
    Id::parse(&format!("{n:016x}")).unwrap()
}

fn host(name: &str) -> Destination {
    Destination::Host(name.parse().unwrap())
}

fn mailbox(path: &str) -> Destination {
    Destination::Mailbox(path.into())
}

/// A plan in which these messages stand in the queues of their destinations.
fn begun(rows: &[(u64, &[&str])]) -> Plan<u32> {
    let mut plan = Plan::default();
    for (n, hosts) in rows {
        plan.submit(id(*n));
        let id = plan.due(0).unwrap();
        assert_eq!(
            plan.begin(id, hosts.iter().map(|h| host(h)).collect(), 0, &LIMITS),
            None
        );
    }
    plan
}

fn take(plan: &mut Plan<u32>) -> Option<Destination> {
    plan.sites.take(Kind::Remote, &LIMITS)
}

#[test]
fn due_are_the_fresh_first_then_the_oldest() {
    let mut plan = Plan::<u32>::default();
    plan.found(id(1), 50);
    plan.found(id(2), 20);
    plan.submit(id(3));
    // Once is enough, wherever it comes from.
    plan.submit(id(1));
    plan.found(id(3), 0);
    assert_eq!(plan.next_due(), Some(0));
    assert_eq!(plan.due(0), Some(id(3)));
    assert_eq!((plan.due(19), plan.next_due()), (None, Some(20)));
    assert_eq!(plan.due(20), Some(id(2)));
    assert_eq!(plan.due(1_000), Some(id(1)));
    assert_eq!((plan.due(1_000), plan.next_due()), (None, None));
    // In work is still known.
    plan.submit(id(2));
    assert_eq!(plan.due(1_000), None);
    plan.forget(id(2));
    plan.submit(id(2));
    assert_eq!(plan.due(1_000), Some(id(2)));
}

#[test]
fn a_destination_gets_one_worker_until_it_answers() {
    let mut plan = begun(&[(1, &["a"]), (2, &["a"]), (3, &["a"]), (4, &["a"])]);
    let a = host("a");
    assert_eq!(take(&mut plan), Some(a.clone()));
    assert_eq!(take(&mut plan), None);
    plan.sites.connected(&a);
    assert_eq!(plan.sites.next(&a, 0, false, &LIMITS), Next::Message(id(1)));
    assert_eq!(take(&mut plan), Some(a.clone()));
    // A quarter, no more.
    plan.sites.connected(&a);
    assert_eq!(plan.sites.next(&a, 0, false, &LIMITS), Next::Message(id(2)));
    assert_eq!(take(&mut plan), None);
    plan.sites.leave(&a, false, &LIMITS);
    assert_eq!(take(&mut plan), Some(a));
}

#[test]
fn no_more_workers_open_than_messages_wait() {
    let mut plan = begun(&[(1, &["a"])]);
    let a = host("a");
    assert_eq!(take(&mut plan), Some(a.clone()));
    plan.sites.connected(&a);
    assert_eq!(plan.sites.next(&a, 0, false, &LIMITS), Next::Message(id(1)));
    assert_eq!(take(&mut plan), None);
    // One lingers, one message comes: it is the lingering one's.
    plan.sites.lingers(&a, true);
    plan.submit(id(2));
    let second = plan.due(0).unwrap();
    plan.begin(second, vec![a.clone()], 0, &LIMITS);
    assert!(plan.sites.has_mail(&a));
    assert_eq!(take(&mut plan), None);
}

#[test]
fn destinations_are_served_in_turn_up_to_the_limit() {
    let hosts = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let rows: Vec<(u64, &[&str])> = (0..40)
        .map(|n| (n as u64, std::slice::from_ref(&hosts[n % 10])))
        .collect();
    let mut plan = begun(&rows);
    let first: Vec<_> = std::iter::from_fn(|| take(&mut plan)).collect();
    assert_eq!(
        first,
        hosts[..8].iter().map(|h| host(h)).collect::<Vec<_>>()
    );
    // All are taken, others wait: after ten messages a worker makes room.
    assert_eq!(
        plan.sites.next(&first[0], 9, true, &LIMITS),
        Next::Message(id(0))
    );
    assert_eq!(plan.sites.next(&first[0], 10, true, &LIMITS), Next::Leave);
    plan.sites.leave(&first[0], true, &LIMITS);
    assert_eq!(take(&mut plan), Some(host("i")));
}

#[test]
fn one_flood_leaves_room_for_others() {
    let mut plan = Plan::<u32>::default();
    for n in 0..1_000 {
        plan.begin(id(n), vec![host("flood")], 0, &LIMITS);
    }
    for _ in 0..2 {
        assert_eq!(take(&mut plan), Some(host("flood")));
        plan.sites.connected(&host("flood"));
        assert!(matches!(
            plan.sites.next(&host("flood"), 0, false, &LIMITS),
            Next::Message(_)
        ));
    }
    assert_eq!(take(&mut plan), None);
    plan.begin(id(5_000), vec![host("quiet")], 0, &LIMITS);
    assert_eq!(take(&mut plan), Some(host("quiet")));
    // Without a crowd a connection is kept for a hundred messages.
    assert!(matches!(
        plan.sites.next(&host("flood"), 99, true, &LIMITS),
        Next::Message(_)
    ));
    assert_eq!(
        plan.sites.next(&host("flood"), 100, true, &LIMITS),
        Next::Leave
    );
}

#[test]
fn local_work_has_its_own_workers_one_a_mailbox() {
    let mut plan = Plan::<u32>::default();
    for n in 0..6 {
        plan.begin(
            id(n),
            vec![mailbox(["/a", "/b", "/c"][n as usize % 3])],
            0,
            &LIMITS,
        );
    }
    plan.begin(id(9), vec![host("a")], 0, &LIMITS);
    assert_eq!(plan.sites.take(Kind::Local, &LIMITS), Some(mailbox("/a")));
    plan.sites.connected(&mailbox("/a"));
    assert_eq!(plan.sites.take(Kind::Local, &LIMITS), Some(mailbox("/b")));
    assert_eq!(plan.sites.take(Kind::Local, &LIMITS), None);
    assert_eq!(take(&mut plan), Some(host("a")));
    assert_eq!(
        plan.sites.next(&mailbox("/a"), 0, true, &LIMITS),
        Next::Message(id(0))
    );
    assert_eq!(
        plan.sites.next(&mailbox("/a"), 1, true, &LIMITS),
        Next::Message(id(3))
    );
    assert_eq!(
        plan.sites.next(&mailbox("/a"), 2, true, &LIMITS),
        Next::Leave
    );
}

#[test]
fn a_dead_host_is_left_alone_longer_each_time() {
    let mut plan = begun(&[(1, &["a"]), (2, &["a"])]);
    let a = host("a");
    let mut now = 0;
    for wait in [100_000, 200_000, 400_000, 800_000, 800_000] {
        assert_eq!(take(&mut plan), Some(a.clone()));
        let jitter = if wait == 800_000 { 1_000 } else { 500 };
        assert_eq!(
            plan.sites.failed(&a, now, &BACK_OFF, jitter),
            [id(1), id(2)]
        );
        plan.sites.leave(&a, true, &LIMITS);
        // What comes for it waits for it, and is not tried.
        assert_eq!(
            plan.begin(id(3), vec![a.clone()], now + 1, &LIMITS),
            Some(now + wait)
        );
        assert_eq!((take(&mut plan), plan.next_due()), (None, Some(now + wait)));
        assert_eq!(plan.due(now + wait), Some(id(3)));
        plan.forget(id(3));
        now += wait;
        for n in [1, 2] {
            assert!(plan.end_part(id(n), vec![], Some(now), true).is_some());
            assert_eq!(plan.begin(id(n), vec![a.clone()], now, &LIMITS), None);
        }
    }
    // A success makes it as good as new.
    assert_eq!(take(&mut plan), Some(a.clone()));
    plan.sites.connected(&a);
    assert_eq!(plan.sites.next(&a, 1, true, &LIMITS), Next::Message(id(1)));
    plan.sites.leave(&a, false, &LIMITS);
    assert_eq!(take(&mut plan), Some(a.clone()));
    plan.sites.failed(&a, now, &BACK_OFF, 500);
    assert_eq!(
        plan.begin(id(4), vec![a], now, &LIMITS),
        Some(now + 100_000)
    );
}

#[test]
fn a_host_that_takes_few_connections_is_not_dead() {
    let mut plan = begun(&[(1, &["a"]), (2, &["a"]), (3, &["a"])]);
    let a = host("a");
    take(&mut plan);
    plan.sites.connected(&a);
    assert_eq!(plan.sites.next(&a, 0, false, &LIMITS), Next::Message(id(1)));
    assert_eq!(take(&mut plan), Some(a.clone()));
    assert_eq!(plan.sites.failed(&a, 0, &BACK_OFF, 500), []);
    plan.sites.leave(&a, true, &LIMITS);
    // The one that is connected serves them all.
    assert_eq!(take(&mut plan), None);
    for n in 2..=3 {
        assert_eq!(
            plan.sites.next(&a, n as u32, true, &LIMITS),
            Next::Message(id(n))
        );
    }
}

#[test]
fn losses_count_in_a_row() {
    let mut plan = begun(&[(1, &["a"]), (2, &["a"]), (3, &["a"])]);
    let a = host("a");
    for _ in 0..2 {
        take(&mut plan);
        plan.sites.connected(&a);
        plan.sites.next(&a, 0, false, &LIMITS);
    }
    assert_eq!((plan.sites.lost(&a), plan.sites.lost(&a)), (false, false));
    // A message went through, so they start anew.
    plan.sites.next(&a, 1, true, &LIMITS);
    assert_eq!(
        (
            plan.sites.lost(&a),
            plan.sites.lost(&a),
            plan.sites.lost(&a)
        ),
        (false, false, true)
    );
    // Another worker is connected, and has as little luck.
    plan.submit(id(4));
    plan.begin(id(4), vec![a.clone()], 0, &LIMITS);
    plan.sites.reopening(&a);
    assert_eq!(plan.sites.failed(&a, 0, &BACK_OFF, 500), [id(4)]);
}

#[test]
fn a_message_in_parts_is_closed_by_the_last() {
    let mut plan = begun(&[(1, &["a", "b"]), (2, &["a"])]);
    assert!(!plan.is_last_part(id(1)));
    assert_eq!(plan.claim(id(1), vec![0, 1]), [0, 1]);
    assert_eq!(plan.claim(id(1), vec![1, 2]), [2]);
    assert_eq!(plan.end_part(id(1), vec![7], Some(500), true), None);
    assert!(plan.is_last_part(id(1)));
    let closing = plan.end_part(id(1), vec![8], None, false).unwrap();
    assert_eq!(
        closing,
        Closing {
            failures: vec![7, 8],
            again: Some(500),
            tried: true,
            shared: true
        }
    );
    // Until it is scheduled nothing starts it again.
    plan.submit(id(1));
    plan.found(id(1), 0);
    assert_eq!(plan.due(9_999), None);
    plan.schedule(id(1), 500);
    assert_eq!(plan.due(9_999), Some(id(1)));
    let closing = plan.end_part(id(2), vec![], None, false).unwrap();
    assert_eq!(
        closing,
        Closing {
            failures: vec![],
            again: None,
            tried: false,
            shared: false
        }
    );
    assert_eq!(plan.end_part(id(2), vec![], None, false), None);
}

#[test]
fn a_real_try_decides_the_next_one() {
    // (first part: again, tried), (second part), what follows
    let rows = [
        ((None, false), (None, false), None),
        ((Some(9), false), (Some(5), false), Some(5)),
        ((Some(3), false), (Some(5), true), Some(5)),
        ((Some(5), true), (Some(3), false), Some(5)),
        ((Some(8), true), (Some(5), true), Some(5)),
        ((None, false), (Some(5), true), Some(5)),
        ((Some(5), false), (None, false), Some(5)),
    ];
    for (first, second, again) in rows {
        let mut plan = begun(&[(1, &["a", "b"])]);
        assert_eq!(plan.end_part(id(1), vec![], first.0, first.1), None);
        let closing = plan.end_part(id(1), vec![], second.0, second.1).unwrap();
        assert_eq!((closing.again, closing.tried), (again, first.1 || second.1));
    }
}

#[test]
fn a_held_destination_does_not_hold_the_others() {
    let mut plan = begun(&[(1, &["dead"])]);
    take(&mut plan);
    plan.sites.failed(&host("dead"), 0, &BACK_OFF, 500);
    plan.sites.leave(&host("dead"), true, &LIMITS);
    assert_eq!(
        plan.begin(id(2), vec![host("dead"), host("b")], 1, &LIMITS),
        None
    );
    assert_eq!(take(&mut plan), Some(host("b")));
    let closing = plan.end_part(id(2), vec![], None, false).unwrap();
    assert_eq!((closing.again, closing.tried), (Some(100_000), false));
}

#[test]
fn retrying_all_forgets_every_wait() {
    let mut plan = begun(&[(1, &["dead"])]);
    take(&mut plan);
    plan.sites.failed(&host("dead"), 0, &BACK_OFF, 500);
    plan.sites.leave(&host("dead"), true, &LIMITS);
    plan.end_part(id(1), vec![], Some(100_000), true);
    plan.schedule(id(1), 100_000);
    assert_eq!(plan.due(1), None);
    plan.retry_all();
    assert_eq!(plan.due(1), Some(id(1)));
    assert_eq!(plan.begin(id(1), vec![host("dead")], 1, &LIMITS), None);
    assert_eq!(take(&mut plan), Some(host("dead")));
}

#[test]
fn a_retry_of_all_counts_once_for_what_is_under_way() {
    let mut plan = begun(&[(1, &["slow"])]);
    take(&mut plan);
    plan.retry_all();
    plan.sites.leave(&host("slow"), true, &LIMITS);
    plan.end_part(id(1), vec![], Some(100_000), true);
    plan.schedule(id(1), 100_000);
    assert_eq!(plan.due(1), Some(id(1)), "asked for while it was tried");
    assert_eq!(plan.begin(id(1), vec![host("slow")], 1, &LIMITS), None);
    plan.end_part(id(1), vec![], Some(100_000), true);
    plan.schedule(id(1), 100_000);
    assert_eq!(plan.due(1), None, "and not again");
}

#[test]
fn a_retry_of_all_counts_for_what_is_not_found_yet() {
    let mut plan = Plan::<u32>::default();
    plan.found(id(1), 500);
    plan.retry_all();
    plan.found(id(2), 500);
    assert_eq!((plan.due(1), plan.due(1)), (Some(id(1)), Some(id(2))));
    plan.all_found();
    plan.retry_all();
    plan.found(id(3), 500);
    assert_eq!(plan.due(1), None);
}

#[test]
fn a_message_for_nobody_is_forgotten() {
    let mut plan = Plan::<u32>::default();
    plan.submit(id(1));
    let due = plan.due(0).unwrap();
    assert_eq!(plan.begin(due, vec![], 0, &LIMITS), None);
    plan.submit(id(1));
    assert_eq!(plan.due(0), Some(id(1)));
}

#[test]
fn what_is_over_takes_no_room() {
    let mut plan = begun(&[(1, &["a"]), (2, &["b"])]);
    for n in [1, 2] {
        let site = take(&mut plan).unwrap();
        plan.sites.connected(&site);
        assert_eq!(
            plan.sites.next(&site, 0, true, &LIMITS),
            Next::Message(id(n))
        );
        plan.end_part(id(n), vec![], None, false).unwrap();
        plan.forget(id(n));
        plan.sites.leave(&site, false, &LIMITS);
    }
    assert!(plan.sites.is_empty() && plan.known.is_empty() && plan.rounds.is_empty());
    assert_eq!((plan.sites.is_busy(), plan.counts()), (false, (0, 0)));
    // Dead domains are forgotten some time after their back-off.
    for n in 0..10_000u64 {
        let dead = host(&format!("dead{n}"));
        plan.begin(id(n), vec![dead.clone()], n * 60_000, &LIMITS);
        take(&mut plan).unwrap();
        plan.sites.failed(&dead, n * 60_000, &BACK_OFF, 500);
        plan.sites.leave(&dead, true, &LIMITS);
        plan.end_part(id(n), vec![], None, true);
    }
    assert!(plan.sites.len() < 200, "{}", plan.sites.len());
}

/// `cargo test --release --lib memory_of -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn memory_of_a_hundred_thousand() {
    let resident = || -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut plan = Plan::<u32>::default();
    let before = resident();
    for n in 0..100_000u64 {
        plan.found(id(n << 20), n.wrapping_mul(2_654_435_761) % 1_000_000);
    }
    println!(
        "waiting: {} octets a message",
        (resident() - before) / 100_000
    );
    while let Some(due) = plan.due(u64::MAX) {
        plan.begin(due, vec![host("dead.example")], 0, &LIMITS);
    }
    println!(
        "all in a round: {} octets a message",
        (resident() - before) / 100_000
    );
}
