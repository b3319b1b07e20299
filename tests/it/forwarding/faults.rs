//! A next hop that fails at each step in turn, and what becomes of the two recipients of a message: relayed, deferred
//! (still in the spool) or bounced (a report in the sender's mailbox).

use super::world::{mx, queue, relaying, taken, wait_for_empty_spool, waiting};
use crate::common::daemon::{messages, wait_until};
use crate::common::dns::DnsServer;
use crate::common::hop::{Act, Hop, Step};
use Act::{Close, Drip, Flood, Hang, Reset, Say, SayAndClose};
use Step::{Data, Dot, Greeting, Helo, InData, Mail, Quit, Rcpt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

const LATER: Act = Say("451 later\r\n");
const NEVER: Act = Say("554 never\r\n");
const GONE: Act = SayAndClose("421 going down\r\n");
const NONSENSE: Act = Say("hello there\r\n");

type Row = (&'static [(Step, Act)], [&'static str; 2]);

const RELAYED: [&str; 2] = ["relayed"; 2];
const DEFERRED: [&str; 2] = ["deferred"; 2];
const BOUNCED: [&str; 2] = ["bounced"; 2];

const ROWS: &[Row] = &[
    (&[], RELAYED),
    // The site is of no use: that says nothing of the recipients.
    (&[(Greeting, LATER)], DEFERRED),
    (&[(Greeting, NEVER)], DEFERRED),
    (&[(Greeting, GONE)], DEFERRED),
    (&[(Greeting, NONSENSE)], DEFERRED),
    (&[(Greeting, Hang)], DEFERRED),
    (&[(Greeting, Drip(b'2'))], DEFERRED),
    (&[(Greeting, Flood("220-more\r\n"))], DEFERRED),
    (&[(Greeting, Close)], DEFERRED),
    (&[(Greeting, Reset)], DEFERRED),
    (&[(Helo, LATER)], DEFERRED),
    (&[(Helo, NEVER)], DEFERRED),
    (&[(Helo, GONE)], DEFERRED),
    (&[(Helo, Hang)], DEFERRED),
    (&[(Helo, Close)], DEFERRED),
    (&[(Helo, Reset)], DEFERRED),
    (&[(Mail, LATER)], DEFERRED),
    (&[(Mail, NEVER)], BOUNCED),
    (&[(Mail, GONE)], DEFERRED),
    (&[(Mail, NONSENSE)], DEFERRED),
    (&[(Mail, Hang)], DEFERRED),
    (&[(Mail, Close)], DEFERRED),
    (&[(Mail, Reset)], DEFERRED),
    (&[(Rcpt(0), LATER)], ["deferred", "relayed"]),
    (&[(Rcpt(0), NEVER)], ["bounced", "relayed"]),
    (&[(Rcpt(0), GONE)], DEFERRED),
    (&[(Rcpt(0), Hang)], DEFERRED),
    (&[(Rcpt(0), Close)], DEFERRED),
    (&[(Rcpt(1), LATER)], ["relayed", "deferred"]),
    (&[(Rcpt(1), NEVER)], ["relayed", "bounced"]),
    (&[(Rcpt(1), GONE)], DEFERRED),
    (&[(Rcpt(1), Hang)], DEFERRED),
    (&[(Rcpt(1), Close)], DEFERRED),
    (&[(Rcpt(1), Reset)], DEFERRED),
    (
        &[(Rcpt(0), NEVER), (Rcpt(1), LATER)],
        ["bounced", "deferred"],
    ),
    (
        &[(Rcpt(0), NEVER), (Rcpt(1), Close)],
        ["bounced", "deferred"],
    ),
    (&[(Rcpt(0), NEVER), (Data, LATER)], ["bounced", "deferred"]),
    (&[(Rcpt(0), LATER), (Dot, NEVER)], ["deferred", "bounced"]),
    (&[(Data, LATER)], DEFERRED),
    (&[(Data, NEVER)], BOUNCED),
    (&[(Data, GONE)], DEFERRED),
    (&[(Data, Say("250 what?\r\n"))], DEFERRED),
    (&[(Data, Hang)], DEFERRED),
    (&[(Data, Close)], DEFERRED),
    (&[(Data, Reset)], DEFERRED),
    (&[(InData, SayAndClose("552 too much\r\n"))], BOUNCED),
    (&[(InData, GONE)], DEFERRED),
    (&[(InData, Hang)], DEFERRED),
    (&[(InData, Close)], DEFERRED),
    (&[(InData, Reset)], DEFERRED),
    (&[(Dot, LATER)], DEFERRED),
    (&[(Dot, NEVER)], BOUNCED),
    (&[(Dot, GONE)], DEFERRED),
    (&[(Dot, NONSENSE)], DEFERRED),
    (&[(Dot, Hang)], DEFERRED),
    (&[(Dot, Close)], DEFERRED),
    (&[(Dot, Reset)], DEFERRED),
    (&[(Quit, LATER)], RELAYED),
    (&[(Quit, NEVER)], RELAYED),
    (&[(Quit, Hang)], RELAYED),
    (&[(Quit, Close)], RELAYED),
    (&[(Quit, Reset)], RELAYED),
];

#[test]
fn at_every_step() {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || {
            while let Some((script, outcome)) = ROWS.get(next.fetch_add(1, Ordering::SeqCst)) {
                check(script, outcome);
            }
        };
        (0..4).for_each(|_| drop(scope.spawn(work)));
    });
}

fn check(script: &[(Step, Act)], outcome: &[&str; 2]) {
    let (dns, hop) = (DnsServer::start(), Hop::scripted(script.iter().copied()));
    mx(&dns, "b.example", "127.0.0.1");
    // Short only where it has to pass: a slow machine is no fault of the hop.
    let is_silent = |(step, act): &(Step, Act)| *step != Quit && matches!(act, Hang | Drip(_));
    let timeout = if script.iter().any(is_silent) { 1 } else { 30 };
    let lines = format!("RELAY_TIMEOUT = {timeout}\n");
    let daemon = relaying(&dns, hop.addr().port(), &lines).start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<john@mail.example>", "250");
    let whom = ["x@b.example", "y@b.example"];
    for to in whom {
        client.command(&format!("RCPT TO:<{to}>"), "250");
    }
    client.command("DATA", "354");
    client.send(format!(
        "Subject: faults\r\n\r\n{}.\r\n",
        "and so on\r\n".repeat(50_000)
    ));
    client.expect("250 OK id=");
    let events = ["relayed", "deferred", "bounced"];
    let event = |to: &str| {
        let found = events.map(|event| {
            let lines = daemon.matching(&format!(" {event} id="));
            lines
                .iter()
                .any(|line| line.contains(&format!(" to=<{to}>")))
        });
        events
            .into_iter()
            .zip(found)
            .filter_map(|(event, found)| found.then_some(event))
            .collect::<Vec<_>>()
    };
    wait_until("each has a fate", || {
        whom.iter().all(|to| !event(to).is_empty())
    });
    for (to, outcome) in whom.iter().zip(outcome) {
        assert_eq!(event(to), [*outcome], "{script:?} {to}");
    }
    let all = |event: &str| outcome.iter().all(|outcome| *outcome != event);
    let waits = |to: &str| queue(&daemon.folder).contains(&format!("<{to}>"));
    match all("deferred") {
        true => wait_for_empty_spool(&daemon),
        false => assert_eq!(waiting(&daemon.folder).len(), 1, "{script:?}"),
    }
    for (to, outcome) in whom.iter().zip(outcome) {
        wait_until("the spool knows who waits", || {
            waits(to) == (*outcome == "deferred")
        });
    }
    // Only what is at the dot can have arrived and wait all the same.
    let in_doubt = script.iter().any(|(step, _)| *step == Dot);
    let came = taken(&hop.told()).len();
    assert!(
        in_doubt || came == usize::from(!all("relayed")),
        "{script:?}: {came}"
    );
    wait_until("the report has come", || {
        let all = messages(&daemon.read("john/mbox"));
        let bounced = outcome
            .iter()
            .filter(|outcome| **outcome == "bounced")
            .count();
        let named = |to: &&&str| {
            all.iter()
                .any(|m| m.contains(&format!("Final-Recipient: rfc822; {to}\n")))
        };
        all.len() == bounced.min(1) && whom.iter().filter(named).count() == bounced
    });
}

#[test]
fn nobody_listens() {
    let (dns, hop) = (DnsServer::start(), Hop::good());
    mx(&dns, "b.example", "127.0.0.36");
    let daemon = relaying(&dns, hop.addr().port(), "").start();
    daemon
        .greeted()
        .mail("john@mail.example", "x@b.example", "x\r\n");
    assert!(
        daemon
            .wait_for(" deferred id=")
            .contains("Connection refused")
    );
    assert_eq!(waiting(&daemon.folder).len(), 1);
}

/// Eight recipients, and a hop that takes only so many at a time, or nobody.
#[test]
fn too_many_recipients() {
    let full = Say("452 4.5.3 Too many recipients\r\n");
    let nobody = Say("552 no\r\n");
    let table = [
        (vec![(Rcpt(3), full)], "relayed", 3),
        (vec![(Rcpt(3), nobody)], "relayed", 3),
        (vec![(Rcpt(7), nobody)], "relayed", 2),
        ((0..8).map(|n| (Rcpt(n), nobody)).collect(), "bounced", 0),
        (vec![(Rcpt(3), full), (Dot, LATER)], "deferred", 0),
    ];
    for (script, event, messages_there) in table {
        let (dns, hop) = (DnsServer::start(), Hop::scripted(script));
        mx(&dns, "b.example", "127.0.0.1");
        let daemon = relaying(&dns, hop.addr().port(), "").start();
        let mut client = daemon.greeted();
        client.command("MAIL FROM:<john@mail.example>", "250");
        for n in 0..8 {
            client.command(&format!("RCPT TO:<u{n}@b.example>"), "250");
        }
        client.command("DATA", "354");
        client.send("Subject: x\r\n\r\nx\r\n.\r\n");
        client.expect("250 OK id=");
        daemon.wait_for_count(&format!(" {event} id="), 8);
        for other in ["relayed", "bounced", "deferred"] {
            let lines = daemon.matching(&format!(" {other} id=")).len();
            assert_eq!(lines, if other == event { 8 } else { 0 }, "{other}");
        }
        if event != "deferred" {
            wait_for_empty_spool(&daemon);
            assert_eq!(taken(&hop.told()).len(), messages_there);
        }
        let reports = messages(&daemon.read("john/mbox"));
        assert_eq!(reports.len(), usize::from(event == "bounced"));
    }
}
