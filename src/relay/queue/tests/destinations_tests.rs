//! What is decided about destinations and addresses.

use crate::message::{Body, Id};
use crate::relay::client::Fate;
use crate::relay::mx::{RouteError, Target};
use crate::relay::queue::addresses::{Connection, Job, Refusal};
use crate::relay::queue::destinations::Destinations;
use crate::relay::queue::environment::{
    BackOff, Destination, Interrupter, Limits, Link, Millis, millis,
};
use crate::smtp::address::{ForwardPath, ReversePath};
use std::net::SocketAddr;
use std::time::Duration;

const LIMITS: Limits = Limits {
    relays: 8,
    each: 2,
    look_ups: 4,
    local: 2,
    back_off: BACK_OFF,
};
const BACK_OFF: BackOff = BackOff {
    min: Duration::from_secs(100),
    max: Duration::from_secs(800),
};

/// A connection that does nothing.
struct Idle;

impl Link for Idle {
    fn send(&mut self, _: &ReversePath, _: &[ForwardPath], _: &Body) -> Vec<Fate> {
        Vec::new()
    }
    fn is_usable(&self) -> bool {
        true
    }
    fn is_in_doubt(&self) -> bool {
        false
    }
    fn quit(self: Box<Self>) {}
    fn interrupter(&self) -> Interrupter {
        Box::new(|| {})
    }
}

fn id(n: u64) -> Id {
    Id::parse(&format!("{n:016x}")).unwrap()
}

fn host(name: &str) -> Destination {
    Destination::Host(name.parse().unwrap())
}

fn mailbox(path: &str) -> Destination {
    Destination::Mailbox(path.into())
}

/// `127.0.0.N`
fn target(n: u8) -> Target {
    Target::from(SocketAddr::from(([127, 0, 0, n], 25)))
}

/// Destinations in whose queues these messages stand.
fn with(rows: &[(&str, std::ops::Range<u64>)]) -> Destinations {
    let mut all = Destinations::new(LIMITS);
    for (name, ids) in rows {
        ids.clone().for_each(|n| all.push(&host(name), id(n)));
    }
    all
}

/// The next job, after all look-ups have found 127.0.0.N for a name that ends in N.
fn take(all: &mut Destinations, now: Millis) -> Option<(Destination, Job)> {
    loop {
        match all.take(now)? {
            (Destination::Host(name), Job::LookUp(_)) => {
                let number = name.to_string().rsplit('-').next().unwrap().parse();
                let found = vec![target(number.unwrap())];
                all.looked_up(&Destination::Host(name), Ok(found), now);
            }
            other => return Some(other),
        }
    }
}

/// A worker opens a connection.
fn open(all: &mut Destinations, now: Millis) -> Connection {
    let (destination, Job::Open(mut targets)) = take(all, now).unwrap() else {
        panic!("nothing to open");
    };
    let target = targets.remove(0);
    all.opened(&destination, &target);
    Connection {
        link: Box::new(Idle),
        destination,
        target,
        rest: targets,
        carried: 0,
        idle_since: 0,
    }
}

fn close(all: &mut Destinations, connection: Connection) {
    all.closed(&connection.destination, &connection.target);
}

/// The next job is to refuse all mail for this one.
fn refused(all: &mut Destinations, now: Millis) -> (Destination, Refusal, Vec<Id>) {
    let (destination, job) = take(all, now).unwrap();
    let Job::Refuse(refusal, ids) = job else {
        panic!("no refusal");
    };
    (destination, refusal, ids.into())
}

fn fail(all: &mut Destinations, now: Millis) -> Destination {
    let (destination, Job::Open(targets)) = take(all, now).unwrap() else {
        panic!("nothing to open");
    };
    all.open_failed(&destination, targets, "refused", now);
    destination
}

#[test]
fn an_address_gets_one_connection_until_it_answers() {
    let mut all = with(&[("a-1", 1..5)]);
    let (a, job) = take(&mut all, 0).unwrap();
    let Job::Open(targets) = job else { panic!() };
    assert!(take(&mut all, 0).is_none());
    all.opened(&a, &targets[0]);
    let _second = open(&mut all, 0);
    assert!(take(&mut all, 0).is_none(), "a fifth, no more");
}

#[test]
fn no_more_connections_than_messages() {
    let mut all = with(&[("a-1", 1..2)]);
    let mut first = open(&mut all, 0);
    assert_eq!(all.next_message(&first), Some(id(1)));
    first.carried = 1;
    assert!(take(&mut all, 0).is_none());
    // Mail comes for an idle connection: no other is opened.
    assert!(all.park(first, 0).is_none());
    all.push(&host("a-1"), id(2));
    let (_, Job::Relay(first)) = take(&mut all, 0).unwrap() else {
        panic!("it is there");
    };
    assert_eq!(all.next_message(&first), Some(id(2)));
    assert!(take(&mut all, 0).is_none());
}

#[test]
fn an_idle_connection_is_found_by_who_stood_in_line() {
    let mut all = with(&[("a-1", 1..4)]);
    let opened = [open(&mut all, 0), open(&mut all, 0)];
    assert!(take(&mut all, 0).is_none(), "it stands in line for a third");
    for mut connection in opened {
        while all.next_message(&connection).is_some() {
            connection.carried += 1;
        }
        assert!(all.park(connection, 0).is_none());
    }
    all.push(&host("a-1"), id(4));
    assert!(matches!(take(&mut all, 0), Some((_, Job::Relay(_)))));
}

#[test]
fn destinations_are_served_in_turn_up_to_the_limit() {
    let names: Vec<_> = (1..=10).map(|n| format!("h-{n}")).collect();
    let mut all = Destinations::new(LIMITS);
    for n in 0..40 {
        all.push(&host(&names[n % 10]), id(n as u64));
    }
    let opened: Vec<_> = (0..8).map(|_| open(&mut all, 0)).collect();
    assert!(take(&mut all, 0).is_none());
    assert_eq!(all.addresses.connections(), 8);
    let first = opened.into_iter().next().unwrap();
    // All are taken, others wait: after ten messages a connection makes room.
    let carried = |connection: Connection, carried| Connection {
        carried,
        ..connection
    };
    let first = carried(first, 9);
    assert!(all.next_message(&first).is_some());
    let first = carried(first, 10);
    assert!(all.next_message(&first).is_none());
    let first = all.park(first, 0).expect("it is to be closed");
    close(&mut all, first);
    let next = open(&mut all, 0);
    assert!(names[8..].contains(&next.target.name.replace("[127.0.0.", "h-").replace(']', "")));
}

#[test]
fn one_flood_leaves_room_for_others() {
    let mut all = with(&[("flood-1", 0..1_000)]);
    let mut flood = open(&mut all, 0);
    let _second = open(&mut all, 0);
    assert!(take(&mut all, 0).is_none());
    all.push(&host("quiet-2"), id(5_000));
    assert_eq!(open(&mut all, 0).destination, host("quiet-2"));
    // Without a crowd a connection is kept for a hundred messages.
    flood.carried = 99;
    assert!(all.next_message(&flood).is_some());
    flood.carried = 100;
    assert!(all.next_message(&flood).is_none());
    // Another domain at the same address is a crowd.
    all.push(&host("other-1"), id(5_001));
    assert!(take(&mut all, 0).is_none());
    flood.carried = 10;
    assert!(all.next_message(&flood).is_none());
    close(&mut all, flood);
    // In turn: the flood has stood in line before.
    let again = open(&mut all, 0);
    assert_eq!(again.destination, host("flood-1"));
    close(&mut all, again);
    assert_eq!(open(&mut all, 0).destination, host("other-1"));
}

#[test]
fn an_idle_connection_makes_room() {
    let mut all = with(&[("a-1", 1..2)]);
    (all.addresses.limits.relays, all.addresses.limits.each) = (1, 1);
    let connection = open(&mut all, 0);
    assert!(all.next_message(&connection).is_some());
    assert!(all.park(connection, 0).is_none());
    assert!(take(&mut all, 0).is_none(), "it stays a moment");
    assert_eq!(all.addresses.next_expiry(), Some(1_000));
    all.push(&host("b-2"), id(2));
    let (_, Job::Quit(old)) = take(&mut all, 0).unwrap() else {
        panic!()
    };
    assert!(take(&mut all, 0).is_none(), "its permit is not free yet");
    close(&mut all, old);
    assert!(matches!(take(&mut all, 0), Some((_, Job::Open(_)))));
}

#[test]
fn local_work_has_its_own_workers_one_a_mailbox() {
    let mut all = Destinations::new(LIMITS);
    for n in 0..6 {
        all.push(&mailbox(["/a", "/b", "/c"][n as usize % 3]), id(n));
    }
    all.push(&host("a-1"), id(9));
    let _remote = open(&mut all, 0);
    let local: Vec<_> = std::iter::from_fn(|| take(&mut all, 0))
        .map(|(d, _)| d)
        .collect();
    assert_eq!(local, [mailbox("/a"), mailbox("/b")]);
    assert_eq!(all.next_local(&mailbox("/a"), 0), Some(id(0)));
    assert_eq!(all.next_local(&mailbox("/a"), 1), Some(id(3)));
    assert_eq!(all.next_local(&mailbox("/a"), 2), None);
    all.left_local(&mailbox("/a"));
    assert_eq!(take(&mut all, 0).unwrap().0, mailbox("/c"));
    // One that fails is left alone, with all that waits for it.
    let until = all.local_failed(&mailbox("/b"), "locked", 0);
    all.left_local(&mailbox("/b"));
    let (which, refusal, ids) = refused(&mut all, 1);
    assert_eq!(
        (which, refusal.until, ids),
        (mailbox("/b"), until, vec![id(1), id(4)])
    );
}

#[test]
fn a_dead_address_is_left_alone_longer_each_time_by_all_domains() {
    let mut all = with(&[("a-1", 1..3), ("b-1", 3..4)]);
    let mut now = 0;
    for wait in [100, 200, 400, 800, 800].map(|s| s * 1_000) {
        let first = fail(&mut all, now);
        let mut told = [refused(&mut all, now), refused(&mut all, now)];
        told.sort_by_key(|(_, _, ids)| ids.len());
        assert_eq!(told[1].2.len(), 2, "{first:?}");
        for (_, refusal, _) in &told {
            assert_eq!(refusal.fate, Fate::Later("refused".into()));
            let waits = refusal.until - now;
            let most = (wait * 6 / 5).min(millis(BACK_OFF.max));
            assert!((wait.min(640_000)..=most).contains(&waits), "{waits}");
        }
        // What comes meanwhile is not tried, whatever its domain.
        let until = told[0].1.until;
        all.push(&host("c-1"), id(9));
        assert_eq!(refused(&mut all, now + 1).1.until, until);
        now = until;
        for (name, n) in [("a-1", 1), ("a-1", 2), ("b-1", 3)] {
            all.push(&host(name), id(n));
        }
    }
    // A message that goes through makes it as good as new.
    let mut connection = open(&mut all, now);
    assert!(all.next_message(&connection).is_some());
    connection.carried = 1;
    all.next_message(&connection);
    assert!(all.addresses.refusal(connection.target.addr, now).is_none());
}

#[test]
fn the_next_address_follows_and_needs_a_permit_of_its_own() {
    let mut all = with(&[("a-1", 1..2)]);
    let (a, Job::LookUp(_)) = all.take(0).unwrap() else {
        panic!()
    };
    all.looked_up(&a, Ok(vec![target(1), target(2)]), 0);
    fail(&mut all, 0);
    assert_eq!(open(&mut all, 0).target, target(2));
    // Nobody calls the first meanwhile.
    all.push(&host("b-1"), id(2));
    assert!(matches!(take(&mut all, 1), Some((_, Job::Refuse(..)))));
}

#[test]
fn a_host_that_takes_few_connections_is_not_dead() {
    let mut all = with(&[("a-1", 1..4)]);
    let mut first = open(&mut all, 0);
    assert!(all.next_message(&first).is_some());
    fail(&mut all, 0);
    // The one that is connected serves them all.
    assert!(take(&mut all, 0).is_none());
    for n in 2..=3 {
        first.carried += 1;
        assert_eq!(all.next_message(&first), Some(id(n)));
    }
}

#[test]
fn losses_count_in_a_row() {
    let mut all = with(&[("a-1", 1..9)]);
    let (mut first, mut second) = (open(&mut all, 0), open(&mut all, 0));
    let dead = |all: &Destinations| all.addresses.refusal(target(1).addr, 0).is_some();
    for _ in 0..2 {
        assert!(!all.lost(&mut first, id(1), "lost", 0), "no other host");
        assert!(!dead(&all));
    }
    // A message went through, so they start anew.
    second.carried = 1;
    all.next_message(&second);
    for n in 1..=3 {
        all.lost(&mut first, id(1), "lost", 0);
        assert_eq!(dead(&all), n == 3);
    }
    // Another worker is connected; what waits is refused all the same.
    close(&mut all, first);
    assert_eq!(refused(&mut all, 0).1.fate, Fate::Later("lost".into()));
    // With a further host the message goes there.
    let mut all = with(&[("b-1", 1..2)]);
    let mut only = open(&mut all, 0);
    assert_eq!(all.next_message(&only), Some(id(1)));
    only.rest = vec![target(2)];
    assert!(all.lost(&mut only, id(1), "lost", 0));
    close(&mut all, only);
    assert_eq!(open(&mut all, 0).target, target(2));
}

#[test]
fn look_ups_take_no_permit_and_have_a_limit() {
    let names: Vec<_> = (1..=6).map(|n| format!("h-{n}")).collect();
    let mut all = Destinations::new(LIMITS);
    for (n, name) in names.iter().enumerate() {
        all.push(&host(name), id(n as u64));
    }
    let asked: Vec<_> = std::iter::from_fn(|| all.take(0)).collect();
    assert_eq!((asked.len(), all.addresses.connections()), (4, 0));
    let later = Err(RouteError::Later("no answer".into()));
    all.looked_up(&asked[0].0, later, 0);
    let (which, refusal, _) = refused(&mut all, 0);
    assert_eq!(which, asked[0].0);
    assert!(refusal.until >= 100_000);
    let never = Err(RouteError::Never("no such domain".into()));
    all.looked_up(&asked[1].0, never, 0);
    assert_eq!(
        refused(&mut all, 0).1.fate,
        Fate::Never("no such domain".into())
    );
    // A back-off that all forget.
    all.push(&asked[0].0, id(9));
    assert!(matches!(all.take(1), Some((_, Job::Refuse(..)))));
    all.push(&asked[0].0, id(9));
    all.forget_back_offs();
    let next: Vec<_> = std::iter::from_fn(|| all.take(1)).map(|(d, _)| d).collect();
    assert!(next.iter().all(|d| *d != asked[1].0) && next.len() == 2);
}

#[test]
fn what_is_over_takes_no_room() {
    let mut all = with(&[("a-1", 1..2), ("b-2", 2..3)]);
    for _ in 0..2 {
        let connection = open(&mut all, 0);
        assert!(all.next_message(&connection).is_some());
        close(&mut all, connection);
    }
    assert!(take(&mut all, 0).is_none());
    assert_eq!((all.len(), all.addresses.connections()), (0, 0));
    // Dead domains are forgotten some time after their back-off.
    for n in 0..10_000u64 {
        all.push(&host(&format!("dead{n}-{}", n % 250)), id(n));
        let now = n * 60_000;
        fail(&mut all, now);
        refused(&mut all, now);
    }
    assert!(all.len() < 2_000, "{}", all.len());
}
