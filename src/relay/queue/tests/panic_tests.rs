//! A worker panics at each step in turn, and what it had in hand is not lost.

use super::bench::Bench;
use super::fakes::Script;
use crate::relay::client::Fate;
use crate::relay::queue::Route;
use std::collections::HashMap;

const STEPS: [&str; 9] = [
    "route", "look-up", "open", "send", "deliver", "record", "report", "defer", "remove",
];

/// A message that goes through every step: somebody is served, somebody later, somebody never, by two destinations.
fn mail(bench: &Bench) -> crate::message::Id {
    let says = HashMap::from([
        ("later", Fate::Later("a said: 451 later".into())),
        ("never", Fate::Never("a said: 550 no such user".into())),
    ]);
    let script = Script {
        says,
        ..Script::default()
    };
    bench.world.script("a", script);
    bench.world.change(|s| {
        let here = Route::Mailbox("/mail/x".into());
        s.routes.insert("<x@here>".into(), here);
    });
    bench.mail(&["<ok@a>", "<later@a>", "<never@a>", "<x@here>"])
}

/// The queue alone, `max_relays` of one: a permit or a place that is not given back would stop it.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.world.state().max_relays = 1;
    bench.start();
    bench
}

#[test]
fn at_each_step_in_turn() {
    for step in STEPS {
        let bench = bench();
        bench.world.state().panics = Some((step, 1));
        let id = mail(&bench);
        // A fresh message is not routed by the queue, and this one is not removed before its second attempt.
        if ["route", "remove"].contains(&step) {
            bench.deferred(id, 1);
        } else {
            let panicked = format!("panic {step}");
            drop(
                bench
                    .world
                    .until(&panicked, |s| s.calls.contains(&panicked)),
            );
        }
        bench.file("it waits", id, |queued| queued.is_some());
        bench.world.script("a", Script::default());
        bench.gone_by_retry(id);
        let state = bench.world.state();
        assert!(state.calls.contains(&format!("panic {step}")), "{step}");
        for user in ["ok", "later"] {
            let to = format!("<{user}@a>");
            assert!(state.taken.iter().any(|t| t.contains(&to)), "{step}: {to}");
        }
        drop(state);
        // And the queue goes on.
        bench.gone(bench.mail(&["<y@b>"]));
        bench.wait("nothing is left over", || {
            bench.handle.pool.lock().schedule.len() == 0
        });
    }
}

#[test]
fn many_times_and_many_messages() {
    for step in STEPS {
        let bench = bench();
        bench.world.state().panics = Some((step, 40));
        let ids: Vec<_> = (0..20).map(|_| mail(&bench)).collect();
        bench.world.script("a", Script::default());
        ids.into_iter().for_each(|id| bench.gone_by_retry(id));
    }
}
