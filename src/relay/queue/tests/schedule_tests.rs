//! What is decided about messages.

use super::*;
use crate::relay::bounce::Reason;

fn id(n: u64) -> Id {
    Id::parse(&format!("{n:016x}")).unwrap()
}

fn to(hosts: &[&str]) -> Vec<Routed> {
    let routed = |(index, host): (usize, &&str)| Routed {
        index,
        destination: Destination::Host(host.parse().unwrap()),
        path: None,
    };
    hosts.iter().enumerate().map(routed).collect()
}

/// A schedule in which the attempts of these messages are on.
fn begun(rows: &[(u64, &[&str])]) -> Schedule {
    let mut schedule = Schedule::default();
    for (n, hosts) in rows {
        assert!(schedule.admit(id(*n), 0));
        schedule.begin(id(*n), to(hosts), 0, 0);
    }
    schedule
}

fn outcome(again: Option<Millis>, tried: bool) -> Outcome {
    Outcome {
        failures: Vec::new(),
        again,
        tried,
    }
}

fn failed(index: usize) -> Outcome {
    let failure = Failure {
        to: "<x@a>".parse().unwrap(),
        forwarded_to: None,
        reason: Reason::Refused,
        diagnostic: String::new(),
        remote: None,
    };
    let failed = Failed { index, failure };
    Outcome {
        failures: vec![failed],
        ..Outcome::default()
    }
}

#[test]
fn due_are_the_oldest_first_and_each_once() {
    let mut schedule = Schedule::default();
    assert!(schedule.found(id(1), 50, 0) && schedule.found(id(2), 20, 0));
    // Once is enough, wherever it comes from.
    assert!(!schedule.found(id(1), 0, 0) && !schedule.admit(id(1), 0));
    assert_eq!((schedule.due(19), schedule.next_due()), (None, Some(20)));
    assert_eq!(schedule.due(20), Some(id(2)));
    assert_eq!(schedule.due(1_000), Some(id(1)));
    assert_eq!((schedule.due(1_000), schedule.next_due()), (None, None));
    // In work is still known.
    assert!(!schedule.admit(id(2), 0) && !schedule.found(id(2), 0, 0));
    schedule.forget(id(2));
    assert!(schedule.admit(id(2), 0));
    assert_eq!((schedule.len(), schedule.due(1_000)), (2, None));
}

#[test]
fn a_message_with_several_destinations_is_closed_by_the_last() {
    let mut schedule = begun(&[(1, &["a", "b"]), (2, &["a"])]);
    assert!(!schedule.is_last(id(1)) && schedule.is_last(id(2)));
    let taken = schedule.take(id(1), &to(&["a"])[0].destination).unwrap();
    assert_eq!(
        (taken.routes.len(), taken.routes[0].index, taken.alone),
        (1, 0, false)
    );
    let alone = schedule.take(id(2), &to(&["a"])[0].destination).unwrap();
    assert!(alone.alone && alone.routes.is_empty());
    let first = Outcome {
        again: Some(500),
        tried: true,
        ..failed(7)
    };
    assert!(schedule.end(id(1), first).is_none());
    assert!(schedule.is_last(id(1)));
    let whole = schedule.end(id(1), failed(8)).unwrap();
    let failures: Vec<_> = whole.failures.iter().map(|failed| failed.index).collect();
    assert_eq!(
        (failures, whole.again, whole.tried),
        (vec![7, 8], Some(500), true)
    );
    // Until it is scheduled nothing starts it again.
    assert!(!schedule.admit(id(1), 0) && !schedule.found(id(1), 0, 0));
    assert_eq!(schedule.due(9_999), None);
    schedule.retry(id(1), 500, 0);
    assert_eq!(schedule.due(9_999), Some(id(1)));
}

#[test]
fn a_real_try_decides_the_next_one() {
    // (first delivery: again, tried), (second delivery), what follows
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
        let mut schedule = begun(&[(1, &["a", "b"])]);
        assert!(schedule.end(id(1), outcome(first.0, first.1)).is_none());
        let whole = schedule.end(id(1), outcome(second.0, second.1)).unwrap();
        assert_eq!((whole.again, whole.tried), (again, first.1 || second.1));
    }
}

#[test]
fn what_is_given_back_is_tried_again() {
    // Alone, the only one left, while others last, and while the attempt is being closed.
    let mut schedule = begun(&[(1, &["a"]), (2, &["a", "b"]), (3, &["a", "b"]), (4, &["a"])]);
    schedule.give_back(id(1), 100, 0);
    schedule.end(id(2), outcome(None, false));
    schedule.give_back(id(2), 200, 0);
    schedule.give_back(id(3), 300, 0);
    assert_eq!(
        schedule.end(id(3), outcome(None, false)).unwrap().again,
        Some(300)
    );
    schedule.retry(id(3), 300, 0);
    schedule.end(id(4), outcome(None, false)).unwrap();
    schedule.give_back(id(4), 400, 0);
    assert_eq!(schedule.counts(), (4, 0));
    for n in 1..=4 {
        assert_eq!(schedule.due(n * 100), Some(id(n)));
    }
}

#[test]
fn a_flush_makes_all_due() {
    let mut schedule = begun(&[(1, &["slow"])]);
    schedule.found(id(2), 500, 0);
    assert_eq!(schedule.due(1), None);
    schedule.flush();
    assert_eq!((schedule.due(1), schedule.due(1)), (Some(id(2)), None));
    schedule.retry(id(2), 500, 0);
    assert_eq!(schedule.due(1), None, "it was begun since");
    schedule.retry(id(1), 100_000, 0);
    assert_eq!(schedule.due(1), Some(id(1)), "asked for while it was tried");
    schedule.begin(id(1), to(&["slow"]), 1, 0);
    schedule.retry(id(1), 100_000, 0);
    assert_eq!(schedule.due(1), None, "and not again");
}

#[test]
fn a_message_is_as_old_as_the_queue_has_seen_it() {
    let mut schedule = begun(&[(1, &["a"])]);
    let received = |schedule: &Schedule, n| {
        let host = &to(&["a"])[0].destination;
        schedule.take(id(n), host).unwrap().received
    };
    // The wall clock was set: the file says that it is 50 years old.
    schedule.retry(id(1), 10, 0);
    schedule.begin(id(1), to(&["a"]), 500, 1_577_000_000_000);
    assert_eq!(received(&schedule, 1), 0);
    // One that is found is as old as its file says, also if the machine was booted since.
    schedule.found(id(2), 0, 0);
    schedule.begin(id(2), to(&["a"]), 500, 2_000);
    assert_eq!(received(&schedule, 2), -1_500);
}

#[test]
fn what_is_over_takes_no_room() {
    let mut schedule = begun(&[(1, &["a"]), (2, &["b", "c"])]);
    schedule.flush();
    schedule.end(id(1), outcome(None, false)).unwrap();
    schedule.forget(id(1));
    schedule.end(id(2), outcome(None, false));
    schedule.end(id(2), outcome(None, false)).unwrap();
    schedule.forget(id(2));
    assert_eq!((schedule.counts(), schedule.len()), ((0, 0), 0));
    assert!(schedule.known.is_empty() && schedule.flushed.is_empty());
}

/// `cargo test --release --lib memory_of -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn memory_of_a_hundred_thousand() {
    let resident = || -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut schedule = Schedule::default();
    let before = resident();
    for n in 0..100_000u64 {
        schedule.found(id(n << 20), n.wrapping_mul(2_654_435_761) % 1_000_000, 0);
    }
    let each = |now: usize| (now - before) / 100_000;
    println!("waiting: {} octets a message", each(resident()));
    while let Some(due) = schedule.due(u64::MAX) {
        schedule.begin(due, to(&["dead.example"]), 0, 0);
    }
    println!("all in an attempt: {} octets a message", each(resident()));
}
