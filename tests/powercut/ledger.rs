//! What was sent, what was promised, what was read and taken; and the audit of what a cut has left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::letter;

/// Where a letter is to go; `report`: back to its sender, since the next hop refuses it.
pub type Target = &'static str;

/// The mailboxes by user, and their files below the disk.
pub const MAILBOXES: [(Target, &str); 4] = [
    ("john", "john/mbox"),
    ("jack", "mail/jack"),
    ("carl", "made/carl/mbox"),
    ("ann", "mail/ann"),
];
/// The next hops by user: one takes all, one says 451, one 550. Their order is that of their addresses.
pub const HOPS: [Target; 3] = ["hop", "far", "bad"];

#[derive(Clone, Copy, Default)]
struct Read {
    /// How often, with the mailbox emptied durably after it.
    settled: usize,
    unsettled: usize,
}

#[derive(Clone, Copy, Default)]
struct Taken {
    times: usize,
    /// The daemon has gone on: it must have recorded durably that this one is done.
    settled: bool,
}

/// One line of a world; a cut makes another of it.
#[derive(Clone, Default)]
pub struct Ledger {
    /// By id.
    aims: Vec<&'static [Target]>,
    promised: BTreeSet<u64>,
    /// Of those, what another delivery agent has put into a mailbox.
    others: BTreeSet<u64>,
    read: BTreeMap<(Target, u64), Read>,
    taken: BTreeMap<u64, Taken>,
    /// Seen in the spool: a cut may repeat them.
    spooled: BTreeSet<u64>,
    pub faults: Vec<String>,
}

/// What the audits of one file system came to.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub cuts: usize,
    /// Letters answered 250 before the cuts, each counted at each cut that it was still on the disk at.
    pub promised: usize,
    pub others: usize,
    /// Ends of mailboxes that no one was told were safe.
    pub torn_ends: usize,
    /// Ends cut off by the daemon's start.
    pub recovered: usize,
    pub relayed_twice: usize,
    pub lost: usize,
    pub others_lost: usize,
    pub shut: usize,
    pub odd: usize,
    /// Cuts that the file system has lost files at by itself.
    pub damaged: usize,
}

/// What a message in a mailbox or in the spool is.
enum Found {
    Letter(u64),
    Report(u64),
    Torn(String),
}

impl Ledger {
    pub fn begin(&mut self, aim: &'static [Target]) -> u64 {
        self.aims.push(aim);
        self.aims.len() as u64 - 1
    }

    pub fn promised(&mut self, id: u64) {
        self.promised.insert(id);
    }

    pub fn others(&mut self, id: u64) {
        self.others.insert(id);
        self.promised.insert(id);
    }

    /// A reader has this mailbox before it and is about to empty it; which of it is to be [`settled`](Ledger::settled).
    pub fn reading(&mut self, user: Target, mbox: &[u8]) -> Vec<(Target, u64)> {
        let key = |found| match found {
            Found::Letter(id) => Some((user, id)),
            Found::Report(id) => Some(("report", id)),
            Found::Torn(_) => None,
        };
        let keys: Vec<_> = messages(mbox).into_iter().filter_map(key).collect();
        for key in &keys {
            self.read.entry(*key).or_default().unsettled += 1;
        }
        keys
    }

    /// The mailbox was emptied durably.
    pub fn settled(&mut self, keys: Vec<(Target, u64)>) {
        for key in keys {
            let read = self.read.entry(key).or_default();
            read.unsettled -= 1;
            read.settled += 1;
        }
    }

    /// The next hop has taken this letter, and may say 250.
    pub fn taken(&mut self, known: Result<u64, String>, for_users: &[String]) {
        let id = match known {
            Ok(id) => id,
            Err(why) => return self.faults.push(format!("odd: relayed: {why}")),
        };
        let aim = self.aims.get(id as usize).copied().unwrap_or_default();
        if !for_users.iter().all(|user| aim.contains(&user.as_str())) {
            let text = format!("odd: letter {id} for {aim:?} was relayed for {for_users:?}");
            self.faults.push(text);
        }
        let taken = self.taken.entry(id).or_default();
        taken.times += 1;
        if taken.settled {
            self.faults
                .push(format!("odd: letter {id} was relayed again after its end"));
        }
    }

    /// The daemon has gone on after the next hop's 250.
    pub fn gone_on(&mut self, id: u64) {
        self.taken.entry(id).or_default().settled = true;
    }

    /// An operator has removed it from the spool.
    fn forget(&mut self, id: u64) {
        self.promised.remove(&id);
    }

    /// Removes from the spool what waits for the next hop that never takes it.
    pub fn tidy(&mut self, spool: &Path) {
        for (path, text) in spooled(spool) {
            if let Found::Letter(id) = what(&text)
                && waits(&text) == ["far"]
            {
                fs::remove_file(path).unwrap();
                self.forget(id);
            }
        }
    }

    /// Looks at all that is on the disk; no daemon may run. What is among `lost` is told of no more.
    pub fn audit(&mut self, disk: &Path, counts: &mut Counts, lost: &mut BTreeSet<u64>) {
        let mut found: BTreeMap<(Target, u64), usize> = BTreeMap::new();
        let mut pieces = 0;
        for (user, file) in MAILBOXES {
            for message in messages(&fs::read(disk.join(file)).unwrap_or_default()) {
                match message {
                    Found::Letter(id) => {
                        *found.entry((user, id)).or_default() += 1;
                        if !self.aim(id).contains(&user) {
                            self.faults
                                .push(format!("odd: letter {id} is in {user}'s mailbox"));
                        }
                    }
                    Found::Report(id) => *found.entry(("report", id)).or_default() += 1,
                    Found::Torn(_) => pieces += 1,
                }
            }
        }
        counts.torn_ends += pieces;
        let mut waiting = BTreeSet::new();
        for (path, text) in spooled(&disk.join("spool")) {
            match what(&text) {
                Found::Letter(id) => {
                    let users = waits(&text);
                    waiting.extend(users.iter().map(|user| (*user, id)));
                    self.spooled.insert(id);
                    let done = self.taken.get(&id).is_some_and(|taken| taken.settled);
                    if done && users.contains(&"hop") {
                        let text = format!("odd: letter {id} waits again after its end");
                        self.faults.push(text);
                    }
                }
                Found::Report(id) => drop(waiting.insert(("report", id))),
                Found::Torn(why) => {
                    let text = format!("odd: {} in the spool: {why}", path.display());
                    self.faults.push(text);
                }
            }
        }
        for entry in fs::read_dir(disk.join("spool/corrupt"))
            .into_iter()
            .flatten()
        {
            let text = format!("odd: {:?} is damaged", entry.unwrap().file_name());
            self.faults.push(text);
        }
        for &id in self.promised.difference(&lost.clone()) {
            let other = self.others.contains(&id);
            *(if other {
                &mut counts.others
            } else {
                &mut counts.promised
            }) += 1;
            for &target in self.aims[id as usize] {
                let at = |target| {
                    found.contains_key(&(target, id))
                        || self.read.contains_key(&(target, id))
                        || waiting.contains(&(target, id))
                };
                let there = match target {
                    "hop" => self.taken.contains_key(&id) || at(target),
                    "bad" => at("bad") || at("report"),
                    _ => at(target),
                };
                if !there {
                    lost.insert(id);
                    let whose = if other { "others' lost" } else { "lost" };
                    self.faults
                        .push(format!("{whose}: letter {id} for {target}"));
                }
            }
        }
        for (&(target, id), &now) in &found {
            let before = self.read.get(&(target, id)).map_or(0, |read| read.settled);
            if now + before > 1 && target != "report" && !self.spooled.contains(&id) {
                let text = format!(
                    "odd: letter {id} is in {target}'s mailbox {now} times and was read {before} times"
                );
                self.faults.push(text);
            }
        }
        counts.relayed_twice += self.taken.values().filter(|taken| taken.times > 1).count();
        for fault in &self.faults {
            match fault.split_once(':').unwrap_or_default().0 {
                "lost" => counts.lost += 1,
                "others' lost" => counts.others_lost += 1,
                "shut" => counts.shut += 1,
                _ => counts.odd += 1,
            }
        }
    }

    fn aim(&self, id: u64) -> &'static [Target] {
        self.aims.get(id as usize).copied().unwrap_or_default()
    }
}

/// The users that a file in the spool still waits for.
fn waits(text: &str) -> Vec<Target> {
    let head = text.split("\n\n").next().unwrap_or_default();
    let waiting = head
        .lines()
        .filter_map(|line| line.strip_prefix("to: waiting <"));
    let users = MAILBOXES.iter().map(|(user, _)| *user).chain(HOPS);
    let users: Vec<Target> = users.collect();
    let target = |path: &str| {
        let user = path.split('@').next().unwrap_or_default();
        users.iter().copied().find(|known| *known == user)
    };
    waiting.filter_map(target).collect()
}

/// The messages of the spool, with their files.
fn spooled(spool: &Path) -> Vec<(std::path::PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(spool).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.len() == 16 && name.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            let text = fs::read(&path).unwrap();
            all.push((path, String::from_utf8_lossy(&text).into_owned()));
        }
    }
    all
}

fn what(text: &str) -> Found {
    // A report encloses the header of what it reports.
    let report = letter::find(text.as_bytes(), b"Content-Type: multipart/report").is_some();
    if !report {
        return letter::known(text).map_or_else(Found::Torn, Found::Letter);
    }
    let id = text.lines().find_map(|line| line.strip_prefix("X-Id: "));
    match id.and_then(|id| id.parse().ok()) {
        Some(id) if text.trim_end().ends_with("--") => Found::Report(id),
        _ => Found::Torn("a report".to_owned()),
    }
}

/// The messages of an mbox file, by an independent reading of the format.
fn messages(mbox: &[u8]) -> Vec<Found> {
    let mbox = String::from_utf8_lossy(mbox);
    let mut messages: Vec<String> = Vec::new();
    for line in mbox.split_inclusive('\n') {
        if line.starts_with("From ") || messages.is_empty() {
            messages.push(String::new());
        }
        let quoted = line.starts_with('>') && line.trim_start_matches('>').starts_with("From ");
        let message = messages.last_mut().unwrap();
        message.push_str(if quoted { &line[1..] } else { line });
    }
    let mut found = Vec::new();
    for message in &messages {
        // What was to follow and has only its length on the disk reads as zeros: the end of the letter before it.
        let (whole, torn) = match message.split_once('\0') {
            Some((whole, zeros)) => (whole, Some(zeros)),
            None => (message.as_str(), None),
        };
        found.push(what(whole.strip_suffix('\n').unwrap_or(whole)));
        found.extend(torn.map(|_| Found::Torn("zeros".to_owned())));
    }
    found
}
