//! What a kill cannot show, since the system's memory survives it: that a `250` comes after the syncs. So strace lists
//! the system calls of each thread, and between a change on the disk and the next word to a peer there must be its sync.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::daemon::Setup;
use crate::faults::send;
use crate::ledger::{next_hop, taken};
use crate::strace::Fault;

const CALLS: &str = "write,writev,pwritev,?pwritev2,pwrite64,rename,renameat,?renameat2,unlinkat,openat,\
                     fsync,fdatasync,sendto";

/// One thread: what it changed and nobody has synced since, and whether anything was synced for it.
#[derive(Default)]
struct Thread {
    unsynced: BTreeSet<String>,
    synced: bool,
    /// The start of a call that others interrupted in the list.
    begun: String,
    /// Whose changes the sync under way covers: those that were made when it began.
    covers: Vec<String>,
}

/// What a list shows of the words to peers: how many were `250 OK id=`, and how many the commands of a client of others.
#[derive(Debug, Default)]
struct Words {
    promises: usize,
    commands: usize,
}

/// The path that strace puts behind the first descriptor: `3</path>`.
fn path(arguments: &str) -> Option<&str> {
    let (_, rest) = arguments.split_once('<')?;
    Some(rest.split_once('>')?.0)
}

/// The list of the calls of a daemon on `folder`, read call by call.
struct Judge<'a> {
    folder: &'a str,
    threads: BTreeMap<String, Thread>,
    words: Words,
}

impl Judge<'_> {
    fn of(list: &str, folder: &str) -> Words {
        let mut judge = Judge {
            folder,
            threads: BTreeMap::new(),
            words: Words::default(),
        };
        for (thread, call) in list.lines().filter_map(|line| line.split_once(' ')) {
            judge.line(thread, call.trim_start());
        }
        let left: Vec<_> = judge.threads.values().flat_map(|t| &t.unsynced).collect();
        assert_eq!(left, [""; 0], "changed and never synced");
        judge.words
    }

    fn line(&mut self, thread: &str, call: &str) {
        if call.ends_with("<detached ...>") {
            // The list ends in the middle of it.
        } else if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            self.thread(thread).begun = begun.to_owned();
            self.begins(thread, begun);
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            let whole = std::mem::take(&mut self.thread(thread).begun) + rest;
            self.ends(thread, &whole);
        } else {
            self.begins(thread, call);
            self.ends(thread, call);
        }
    }

    fn thread(&mut self, name: &str) -> &mut Thread {
        self.threads.entry(name.to_owned()).or_default()
    }

    /// A word to a peer, or a sync, counts from its beginning.
    fn begins(&mut self, thread: &str, call: &str) {
        if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            let at = path(call).unwrap_or_default();
            let changed = self.threads.iter().filter(|t| t.1.unsynced.contains(at));
            let covers = changed.map(|t| t.0.clone()).collect();
            self.thread(thread).covers = covers;
        } else if call.starts_with("sendto(") {
            let promise = call.contains("250 OK id=");
            let command = call.contains("MAIL FROM") || call.contains("QUIT");
            let thread = self.thread(thread);
            if promise || command {
                assert_eq!(thread.unsynced, BTreeSet::new(), "before {call}");
            }
            if promise {
                assert!(std::mem::take(&mut thread.synced), "no sync before {call}");
            }
            self.words.promises += usize::from(promise);
            self.words.commands += usize::from(command);
        }
    }

    /// A change counts from its end, and so does what a sync did.
    fn ends(&mut self, thread: &str, call: &str) {
        let (name, arguments) = call.split_once('(').unwrap_or_default();
        let at = path(arguments).unwrap_or_default();
        // Neither the journal of appends, unsynced on purpose, nor what has no name.
        let ours = at.starts_with(self.folder) && !at.ends_with("/appending") && !at.contains("/#");
        match name {
            "fsync" | "fdatasync" => {
                assert!(call.trim_end().ends_with("= 0"), "{call}");
                for covered in std::mem::take(&mut self.thread(thread).covers) {
                    let covered = self.thread(&covered);
                    covered.synced |= covered.unsynced.remove(at);
                }
            }
            "sendto" => {}
            "openat" if !arguments.contains("O_CREAT") => {}
            // What was never acknowledged, or is finished, durably: it may come back. So may a dotlock: it is stale then.
            "unlinkat"
                if [".new\"", ".lock\""]
                    .iter()
                    .any(|end| arguments.contains(end)) => {}
            _ if ours => drop(self.thread(thread).unsynced.insert(at.to_owned())),
            _ => {}
        }
    }
}

#[test]
#[ignore = "needs strace (Debian package strace)"]
fn a_promise_comes_after_the_syncs_of_what_it_promises() {
    let hop = next_hop();
    let far = format!("mary@[{}]", hop.addr().ip());
    let daemon = Setup::with(&format!("RELAY_PORT = {}\n", hop.addr().port())).start();
    let mut client = daemon.greeted();
    // The first message makes and opens what is made and opened once.
    assert_eq!(send(&mut client, "john@mail.example", 0, 1000), "250");
    let list = daemon.path("calls");
    let trace = Fault::none(&daemon, CALLS, &list);
    let mut expected = 0;
    for (to, size) in [("john@mail.example", 1000), (far.as_str(), 1000)] {
        for size in [size, 1 << 20, size] {
            expected += 1;
            assert_eq!(send(&mut client, to, expected, size), "250", "{to} {size}");
        }
    }
    // A worker says QUIT when it has had no mail for a while: then the last removals too are past their syncs.
    hop.wait_until(|told| {
        let messages: usize = told.iter().map(|told| told.data.len()).sum();
        messages == 3 && told.iter().all(|told| told.ended)
    });
    assert_eq!(taken(&hop).len(), 3);
    drop(client);
    drop(trace);
    let list = fs::read_to_string(list).unwrap();
    let words = Judge::of(&list, daemon.folder.path().to_str().unwrap());
    assert_eq!(words.promises, 6, "{list}");
    assert!(words.commands >= 4, "three MAIL and a QUIT: {list}");
}

#[test]
fn the_judge_sees_what_is_missing() {
    let write = "7 writev(5</d/mbox>, [], 1) = 9";
    let sync = "7 fdatasync(5</d/mbox>) = 0";
    let promise = "7 sendto(4<TCP:[1]>, \"250 OK id=1\", 9, 0, NULL, 0) = 9";
    let other = "8 fdatasync(5</d/mbox>) = 0";
    let judged = |calls: &[&str]| {
        let list = calls.join("\n");
        std::panic::catch_unwind(|| Judge::of(&list, "/d").promises).ok()
    };
    assert_eq!(judged(&[write, sync, promise]), Some(1));
    assert_eq!(judged(&[write, promise, sync]), None);
    assert_eq!(judged(&[write, other, promise]), Some(1), "for both");
    assert_eq!(judged(&[other, write, promise]), None);
    assert_eq!(judged(&[sync, write, promise]), None);
    assert_eq!(judged(&[promise]), None);
    assert_eq!(judged(&[write, sync, promise, write]), None);
    let (begun, ended) = (
        "7 fdatasync(5</d/mbox> <unfinished ...>",
        "7 <... fdatasync resumed>) = 0",
    );
    assert_eq!(judged(&[write, begun, ended, promise]), Some(1));
    assert_eq!(judged(&[write, begun, promise, ended]), None);
    assert_eq!(judged(&[begun, write, ended, promise]), None);
}
