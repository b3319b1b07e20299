//! How old a message is, and when it is due, whatever the clocks say.

use super::bench::Bench;
use super::fakes::Script;
use std::time::{Duration, SystemTime};

#[test]
fn old_mail_is_returned_and_reports_are_not() {
    let bench = Bench::started();
    bench.world.script(
        "dead",
        Script {
            dead: Some("connection refused"),
            ..Script::default()
        },
    );
    let now = SystemTime::now();
    let long_ago = now - Duration::from_secs(200_000);
    let old = bench.stored("<sender@example.org>", &["<x@dead>"], long_ago, now);
    bench.submit(old);
    bench.gone_by_retry(old);
    assert_eq!(bench.world.state().reports.len(), 1);
    // Nothing expires before it was tried three times.
    let calls = bench.world.state().calls.clone();
    assert!(calls.iter().filter(|c| *c == "open dead").count() >= 3);
    let report = bench.stored("<>", &["<x@dead>"], long_ago, now);
    bench.submit(report);
    bench.gone_by_retry(report);
    assert_eq!(bench.world.state().reports.len(), 1);
}

/// A board without a clock of its own, from its first message until it has asked for the time.
#[test]
fn a_clock_that_is_set_bounces_nothing_and_the_files_follow_it() {
    let years = Duration::from_secs(50 * 365 * 86_400);
    let bench = Bench::started();
    let script = Script {
        dead: Some("connection refused"),
        ..Script::default()
    };
    bench.world.script("dead", script);
    let id = bench.mail(&["<x@dead>"]);
    bench.deferred(id, 1);
    bench.world.change(|s| s.leap = years);
    bench.queue.as_ref().unwrap().reloaded();
    // `--queue` goes by the file, and must not say `now` while the wait goes on.
    let is_later = |q: Option<crate::store::spool::Queued>, tries| {
        let due = SystemTime::now() + years + Duration::from_secs(800);
        q.is_some_and(|q| q.next_try > due && q.tries >= tries)
    };
    bench.file("the file has followed", id, |q| is_later(q, 1));
    for tries in 2..6 {
        // The file tells of a try before the queue can be asked for the next one.
        bench.file("tried again", id, |q| {
            bench.handle.flush();
            is_later(q, tries)
        });
    }
    assert!(bench.world.state().reports.is_empty());
}
