//! A process that accepts and finishes mail is killed with SIGKILL at any moment: what it acknowledged is there.

use crate::again;
use smtpd788::message::{Body, Id};
use smtpd788::smtp::address::ForwardPath;
use smtpd788::spool::{NewEntry, Origin, Spool};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

const FOLDER: &str = "SMTPD788_TEST_SPOOL";

/// The process to be killed: says `ok ID` after an acceptance, `going ID` before a removal.
#[test]
#[ignore = "started by the other test"]
fn victim() {
    let Some(dir) = std::env::var_os(FOLDER) else {
        return;
    };
    let spool = Spool::open(Path::new(&dir)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let spool = &spool;
            scope.spawn(move || {
                for n in 1u64.. {
                    live(
                        spool,
                        Id::parse(&format!("{:016x}", n * 4 + thread)).unwrap(),
                        n,
                    );
                }
            });
        }
    });
}

fn live(spool: &Spool, id: Id, n: u64) {
    // Some larger than a page or two, so that a kill can tear them.
    let body = Body::from_bytes(vec![b'x'; if n.is_multiple_of(3) { 300_000 } else { 700 }]);
    let (from, to) = (
        "<>".parse().unwrap(),
        ["<a@example.net>", "<b@example.net>"].map(|s| s.parse::<ForwardPath>().unwrap().into()),
    );
    let (received, next_try) = (SystemTime::now(), SystemTime::now());
    spool
        .accept(&NewEntry {
            id,
            of: None,
            from: &from,
            received,
            origin: Origin::Inside,
            to: &to,
            heading: b"H: x\n",
            body: &body,
            next_try,
        })
        .unwrap();
    say("ok", id);
    if n.is_multiple_of(2) {
        let mut queued = spool.load(id).unwrap().unwrap();
        queued.finish_recipient(0, "250 OK").unwrap();
        say("half", id);
        if n.is_multiple_of(4) {
            say("going", id);
            queued.remove().unwrap();
        }
    }
}

fn say(what: &str, id: Id) {
    let line = format!("@{what} {id}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

#[test]
fn nothing_acknowledged_is_lost() {
    for round in 0..12usize {
        let temp = tempfile::tempdir().unwrap();
        let mut victim = again(module_path!(), "victim")
            .args(["--ignored", "--nocapture"])
            .env(FOLDER, temp.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        while said.len() < 20 + 17 * round {
            said.extend(
                lines
                    .next()
                    .unwrap()
                    .unwrap()
                    .strip_prefix('@')
                    .map(str::to_owned),
            );
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        said.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|l| Some(l.strip_prefix('@')?.to_owned())),
        );
        let all = |what: &str| -> BTreeSet<Id> {
            said.iter()
                .filter_map(|l| Id::parse(l.strip_prefix(what)?.trim()))
                .collect()
        };
        let (accepted, half, going) = (all("ok "), all("half "), all("going "));
        assert!(!accepted.is_empty());

        let spool = Spool::open(temp.path()).unwrap();
        let mut found = BTreeSet::new();
        spool.scan(&mut |id, _| assert!(found.insert(id))).unwrap();
        for id in accepted.difference(&going) {
            assert!(found.contains(id), "round {round}: {id} is lost");
        }
        for id in &found {
            let queued = spool.load(*id).unwrap().expect("whole");
            let states: Vec<_> = queued
                .recipients
                .iter()
                .map(|r| format!("{:?}", r.state))
                .collect();
            assert_eq!(states[1], "Waiting");
            assert!(
                states[0] == "Done" || !half.contains(id),
                "round {round}: {id} forgot a record"
            );
        }
        let left = fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(
            left,
            found.len() + 1,
            "round {round}: only the lock and messages are left"
        );
    }
}
