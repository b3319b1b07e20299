//! The queue at work, with real threads and a real spool; the neighbours are played.

use super::bench::Bench;
use super::fakes::Script;
use crate::relay::client::Fate;
use crate::relay::mx::RouteError;
use crate::relay::queue::Route;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

#[test]
fn what_is_submitted_and_what_was_left_arrive() {
    let mut bench = Bench::new();
    let now = SystemTime::now();
    let old = bench.stored("<sender@example.org>", &["<old@a>"], now, now);
    let later = bench.stored(
        "<sender@example.org>",
        &["<later@a>"],
        now,
        now + Duration::from_secs(500),
    );
    let early = bench.mail(&["<early@a>"]);
    bench.start();
    let new = bench.mail(&["<new@a>", "<new@b>", "<other@b>"]);
    [old, early, new].into_iter().for_each(|id| bench.gone(id));
    let mut taken = bench.world.state().taken.clone();
    taken.sort();
    assert_eq!(
        taken,
        [
            "a <early@a>",
            "a <new@a>",
            "a <old@a>",
            "b <new@b>,<other@b>"
        ]
    );
    assert!(bench.spool.load(later).unwrap().is_some());
    bench.gone_by_retry(later);
}

#[test]
fn messages_for_one_host_share_a_connection() {
    let mut bench = Bench::new();
    let ids: Vec<_> = (0..20)
        .map(|n| bench.mail(&[&format!("<u{n}@a>")]))
        .collect();
    bench.start();
    ids.into_iter().for_each(|id| bench.gone(id));
    let state = bench
        .world
        .until("all connections quit", |s| s.open["a"] == 0);
    assert!(
        state.calls.iter().filter(|c| *c == "open a").count() <= 2,
        "{:?}",
        state.calls
    );
    assert_eq!(state.taken.len(), 20);
}

#[test]
fn each_recipient_has_a_fate_of_his_own() {
    let bench = Bench::started();
    let says = HashMap::from([
        ("later", Fate::Later("a said: 451 later".into())),
        ("never", Fate::Never("a said: 550 no such user".into())),
    ]);
    bench.world.script(
        "a",
        Script {
            says,
            ..Script::default()
        },
    );
    let id = bench.mail(&["<ok@a>", "<later@a>", "<never@a>", "<ok@b>"]);
    bench.deferred(id, 1);
    let queued = bench.spool.load(id).unwrap().unwrap();
    let states: Vec<_> = queued
        .recipients
        .iter()
        .map(|r| (r.state, r.last_answer.as_str()))
        .collect();
    use crate::store::spool::State::{Done, Waiting};
    assert_eq!(
        states[1..3],
        [
            (Waiting, "a said: 451 later"),
            (Done, "a said: 550 no such user")
        ]
    );
    assert_eq!((states[0].0, states[3].0), (Done, Done));
    let state = bench.world.state();
    assert_eq!(state.reports.len(), 1);
    assert_eq!(state.reports[0].0, "<sender@example.org>");
}

#[test]
fn a_dead_host_is_called_once_and_delays_nobody_else() {
    let bench = Bench::started();
    bench.world.script(
        "dead",
        Script {
            dead: Some("connection refused"),
            ..Script::default()
        },
    );
    let dead: Vec<_> = (0..30)
        .map(|n| bench.mail(&[&format!("<u{n}@dead>")]))
        .collect();
    let both = bench.mail(&["<x@dead>", "<x@alive>"]);
    bench.gone(bench.mail(&["<y@alive>"]));
    dead.iter().for_each(|id| {
        bench.file("next try set", *id, |q| {
            q.is_some_and(|q| q.next_try > SystemTime::now())
        });
    });
    bench.file("half done", both, |q| {
        q.is_some_and(|q| q.recipients[1].state == crate::store::spool::State::Done)
    });
    let calls = bench
        .world
        .state()
        .calls
        .iter()
        .filter(|c| *c == "open dead")
        .count();
    assert_eq!(calls, 1);
    bench.world.script("dead", Script::default());
    dead.into_iter()
        .chain([both])
        .for_each(|id| bench.gone_by_retry(id));
}

#[test]
fn a_hanging_host_has_a_fifth_of_the_connections() {
    let mut bench = Bench::new();
    bench.world.state().max_relays = 10;
    bench.start();
    bench.world.script(
        "slow",
        Script {
            hangs: true,
            ..Script::default()
        },
    );
    let slow: Vec<_> = (0..50)
        .map(|n| bench.mail(&[&format!("<u{n}@slow>")]))
        .collect();
    drop(bench.world.until("two hang", |s| {
        s.calls.iter().filter(|c| *c == "hang slow").count() == 2
    }));
    for n in 0..20 {
        bench.gone(bench.mail(&[&format!("<u@h{n}>")]));
    }
    assert_eq!(bench.world.state().open["slow"], 2);
    assert!(bench.world.state().most_open <= 10);
    bench.world.script("slow", Script::default());
    slow.into_iter().for_each(|id| bench.gone(id));
}

#[test]
fn a_connection_lost_after_some_messages_is_replaced() {
    let mut bench = Bench::new();
    bench.world.script(
        "a",
        Script {
            lost_at: Some(3),
            ..Script::default()
        },
    );
    let ids: Vec<_> = (0..9)
        .map(|n| bench.mail(&[&format!("<u{n}@a>")]))
        .collect();
    bench.start();
    ids.into_iter().for_each(|id| bench.gone(id));
    assert_eq!(bench.world.state().taken.len(), 9);
}

#[test]
fn connections_lost_at_once_make_a_host_dead() {
    let mut bench = Bench::new();
    bench.world.script(
        "a",
        Script {
            lost_at: Some(1),
            ..Script::default()
        },
    );
    let ids: Vec<_> = (0..40)
        .map(|n| bench.mail(&[&format!("<u{n}@a>")]))
        .collect();
    bench.start();
    ids.iter().for_each(|id| {
        bench.file("next try set", *id, |q| {
            q.is_some_and(|q| q.next_try > SystemTime::now())
        });
    });
    let calls = bench.world.state().calls.len();
    assert!((3..=6).contains(&calls), "{calls}");
}

#[test]
fn no_route_is_final_or_not() {
    let bench = Bench::started();
    let never = Some(RouteError::Never("no such domain".into()));
    bench.world.script(
        "none",
        Script {
            no_route: never,
            ..Script::default()
        },
    );
    let later = Some(RouteError::Later("no nameserver answers".into()));
    bench.world.script(
        "dns",
        Script {
            no_route: later,
            ..Script::default()
        },
    );
    bench.gone(bench.mail(&["<x@none>", "<y@none>"]));
    bench.deferred(bench.mail(&["<x@dns>"]), 1);
    assert_eq!(bench.world.state().reports.len(), 1);
}

#[test]
fn nothing_is_finished_before_its_report_is_safe() {
    let bench = Bench::started();
    bench.world.change(|s| s.no_reports = true);
    let never = Some(RouteError::Never("no such domain".into()));
    bench.world.script(
        "none",
        Script {
            no_route: never,
            ..Script::default()
        },
    );
    let id = bench.mail(&["<x@none>"]);
    bench.deferred(id, 1);
    bench.world.change(|s| s.no_reports = false);
    bench.gone_by_retry(id);
    assert_eq!(bench.world.state().reports.len(), 1);
}

#[test]
fn local_copies_wait_for_their_mailbox_alone() {
    let bench = Bench::started();
    bench.world.change(|s| {
        for (to, mbox) in [
            ("<a@here>", "/mail/a"),
            ("<alias@here>", "/mail/a"),
            ("<b@here>", "/mail/b"),
        ] {
            s.routes.insert(to.into(), Route::Mailbox(mbox.into()));
        }
        s.routes.insert("<gone@here>".into(), Route::NoSuchUser);
        s.routes.insert(
            "<moved@here>".into(),
            Route::Forward("<moved@there>".parse().unwrap()),
        );
        s.locked.insert("/mail/b".into());
    });
    let id = bench.mail(&[
        "<a@here>",
        "<alias@here>",
        "<b@here>",
        "<gone@here>",
        "<moved@here>",
    ]);
    bench.deferred(id, 1);
    bench.world.change(|s| s.locked.clear());
    bench.gone_by_retry(id);
    let mut state = bench.world.state();
    state.taken.sort();
    assert_eq!(
        state.taken,
        ["mbox /mail/a", "mbox /mail/b", "there <moved@there>"]
    );
    assert_eq!(state.reports.len(), 1);
}

#[test]
fn files_that_went_away_or_broke_are_dropped() {
    let mut bench = Bench::new();
    let (now, from) = (SystemTime::now(), "<sender@example.org>");
    let gone = bench.mail(&["<x@a>"]);
    let broken = bench.stored(from, &["<y@a>"], now, now);
    std::fs::remove_file(bench.spool.dir().join(gone.to_string())).unwrap();
    std::fs::write(bench.spool.dir().join(broken.to_string()), "x").unwrap();
    bench.start();
    bench.gone(bench.mail(&["<z@a>"]));
    let moved = bench.spool.dir().join("corrupt").join(broken.to_string());
    bench.wait("it is moved aside", || moved.exists());
    assert_eq!(bench.world.state().taken, ["a <z@a>"]);
}

#[test]
fn a_reload_while_the_scheduler_looks_around_is_seen() {
    let bench = Bench::started();
    let relays = || {
        bench
            .handle
            .pool
            .lock()
            .destinations
            .addresses
            .limits
            .relays
    };
    for number in 11..15 {
        bench.world.change(|s| s.reload_to = Some(number));
        bench.queue.as_ref().unwrap().reloaded();
        bench.wait("the limit is the new one", || relays() == number);
    }
}

#[test]
fn stopping_interrupts_and_costs_no_try() {
    let mut bench = Bench::started();
    bench.world.script(
        "slow",
        Script {
            hangs: true,
            ..Script::default()
        },
    );
    let id = bench.mail(&["<x@slow>"]);
    drop(
        bench
            .world
            .until("it hangs", |s| s.calls.contains(&"hang slow".into())),
    );
    bench.queue.take().unwrap().stop(Duration::from_secs(20));
    let queued = bench.spool.load(id).unwrap().unwrap();
    assert_eq!(
        (queued.tries, queued.recipients[0].last_answer.as_str()),
        (0, "")
    );
    assert_eq!(bench.world.state().open["slow"], 0);
}

#[test]
fn a_stop_does_not_part_a_report_from_its_record() {
    let mut bench = Bench::started();
    let script = Script {
        no_route: Some(RouteError::Never("no such domain".into())),
        ..Script::default()
    };
    bench.world.script("nowhere", script);
    bench.world.change(|s| s.slow_reports = true);
    let id = bench.mail(&["<x@nowhere>"]);
    let report = "report".to_owned();
    drop(
        bench
            .world
            .until("it is on its way", |s| s.calls.contains(&report)),
    );
    let queue = bench.queue.take().unwrap();
    let stop = std::thread::spawn(move || {
        queue.stop(Duration::from_secs(20));
    });
    while !bench.handle.pool.lock().stopping {
        std::thread::yield_now();
    }
    assert!(!stop.is_finished());
    bench.world.change(|s| s.slow_reports = false);
    stop.join().unwrap();
    assert!(!bench.spool.dir().join(id.to_string()).exists());
    assert_eq!(bench.world.state().reports.len(), 1);
}

#[test]
fn many_messages_to_many_hosts_all_arrive_once() {
    let mut bench = Bench::new();
    let ids: Vec<_> = (0..300)
        .map(|n| {
            bench.mail(&[
                &format!("<u{n}@h{}>", n % 37),
                &format!("<v{n}@g{}>", n % 11),
            ])
        })
        .collect();
    bench.start();
    ids.into_iter().for_each(|id| bench.gone(id));
    let state = bench.world.state();
    let once: HashSet<_> = state.taken.iter().collect();
    assert_eq!((state.taken.len(), once.len()), (600, 600));
    assert!(state.most_open <= 8, "{}", state.most_open);
}
