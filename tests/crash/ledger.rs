//! What was sent, what was promised, and the audit: is every promise kept, is anything torn or there twice?

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::agent::{self, Delivered};
use crate::hop::Hop;
use crate::letter;

/// A next hop that notes the number of every whole letter before it says `250`. On an address that no daemon of the tests
/// listens on, so that its literal is no local one.
pub fn next_hop() -> Hop {
    Hop::digesting("127.0.0.3:0".parse().unwrap(), |data| {
        // A line that ends in a dot is not the end of the data.
        let whole = data.strip_suffix(b".\r\n");
        match whole.filter(|wire| wire.ends_with(b"\r\n")) {
            Some(wire) => letter::known_on_the_wire(str::from_utf8(wire).unwrap())
                .expect("relayed whole")
                .to_string()
                .into_bytes(),
            None => b"torn".to_vec(),
        }
    })
}

/// The letters that it took.
pub fn taken(hop: &Hop) -> Vec<u64> {
    let told = hop.told();
    let data = told.iter().flat_map(|told| &told.data);
    data.filter_map(|number| str::from_utf8(number).unwrap().parse().ok())
        .collect()
}

/// Where a letter is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    John,
    Jack,
    Both,
    /// A domain whose DNS server is dead: stays in the spool.
    Far,
    /// The next hop.
    Hop,
    /// A mailbox and the next hop.
    Mixed,
}

impl Aim {
    pub const ALL: [Aim; 6] = [
        Aim::John,
        Aim::Jack,
        Aim::Both,
        Aim::Far,
        Aim::Hop,
        Aim::Mixed,
    ];

    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Aim::John => &["john@mail.example"],
            Aim::Jack => &["jack@mail.example"],
            Aim::Both => &["john@mail.example", "jack@mail.example"],
            Aim::Far => &["far@far.test"],
            Aim::Hop => &["hop@[127.0.0.3]"],
            Aim::Mixed => &["jack@mail.example", "hop@[127.0.0.3]"],
        }
    }
}

#[derive(Default)]
pub struct Ledger {
    /// By id.
    aims: Vec<Aim>,
    promised: HashSet<u64>,
    /// (path, id): kept and found at least once.
    kept: HashSet<(&'static str, u64)>,
    /// How often each was found, in a file that is no more or is there now.
    gone: HashMap<(&'static str, u64), usize>,
    spooled_once: HashSet<u64>,
    /// What the other agent delivered.
    of_agent: Vec<Delivered>,
    pub audits: usize,
    pub cuts: usize,
    /// Torn ends that the other agent's mail has followed.
    pub left: usize,
}

/// The mailboxes of a folder, by the path of their mail.
pub fn mailboxes(folder: &Path) -> [(&'static str, PathBuf); 2] {
    [
        ("john@mail.example", folder.join("john/mbox")),
        ("jack@mail.example", folder.join("jack")),
    ]
}

impl Ledger {
    pub fn begin(&mut self, aim: Aim) -> u64 {
        self.aims.push(aim);
        self.aims.len() as u64 - 1
    }

    pub fn promised(&mut self, id: u64) {
        self.promised.insert(id);
    }

    /// Sent, promised, delivered by the other agent.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.aims.len(), self.promised.len(), self.of_agent.len())
    }

    pub fn agent_delivered(&mut self, delivered: Vec<Delivered>) {
        self.of_agent.extend(delivered);
    }

    /// Looks at everything; no daemon may run. `exactly_once`: nothing was ever killed.
    /// How many copies were there more than once.
    pub fn audit(&mut self, folder: &Path, hop: &Hop, exactly_once: bool) -> usize {
        self.audits += 1;
        let mut found = self.gone.clone();
        let mut left = 0;
        let mailboxes = mailboxes(folder);
        for (path, file) in &mailboxes {
            let mbox = fs::read(file).unwrap_or_default();
            // A torn end may end in the middle of a character; a whole letter is still compared octet by octet, since
            // none that was sent holds a replacement character.
            let mbox = String::from_utf8_lossy(&mbox);
            let (parts, mut ids) = agent::apart(&mbox);
            for (at, part) in parts.iter().enumerate() {
                let (whole, rest, torn) = letter::leading_letters(part);
                ids.extend(whole);
                // A torn end stays if the other agent delivered before the next start.
                if let Some(why) = torn {
                    let followed = at + 1 < parts.len() && rest.starts_with("From load@");
                    let torn = format!("{} is torn: {why}", file.display());
                    assert!(followed && !exactly_once, "{torn}");
                    left += 1;
                }
            }
            for id in ids {
                *found.entry((path, id)).or_default() += 1;
            }
        }
        for id in taken(hop) {
            *found.entry(("hop@[127.0.0.3]", id)).or_default() += 1;
        }
        self.left = self.left.max(left);
        for &(path, id) in &self.of_agent {
            let times = found.get(&(path, id)).copied().unwrap_or_default();
            assert_eq!(times, 1, "message {id} of the other agent for {path}");
        }
        let mut waiting = HashSet::new();
        for entry in fs::read_dir(folder.join("spool")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.len() != 16 || !name.bytes().all(|octet| octet.is_ascii_hexdigit()) {
                continue;
            }
            let text = String::from_utf8(fs::read(entry.path()).unwrap()).expect("text");
            let id = letter::known(&text).unwrap_or_else(|why| panic!("spool file {name}: {why}"));
            let head = &text[..letter::find(text.as_bytes(), b"X-Id: ").unwrap()];
            for path in self.aims[id as usize].paths() {
                if head.contains(path) {
                    waiting.insert((*path, id));
                }
            }
            self.spooled_once.insert(id);
        }
        for &id in &self.promised {
            for &path in self.aims[id as usize].paths() {
                let there = found.contains_key(&(path, id)) || waiting.contains(&(path, id));
                assert!(there, "letter {id} for {path} was promised and is lost");
                if found.contains_key(&(path, id)) {
                    self.kept.insert((path, id));
                }
            }
        }
        let mut twice = 0;
        for (&(path, id), &times) in &found {
            let forwarded = path.starts_with("hop") || self.spooled_once.contains(&id);
            assert!(
                times == 1 || forwarded && !exactly_once,
                "letter {id} for {path} is there {times} times"
            );
            twice += times - 1;
            assert!(
                !exactly_once || !waiting.contains(&(path, id)),
                "letter {id} waits and is there"
            );
        }
        self.make_room(&mailboxes, &found);
        twice
    }

    /// What was audited need not be read again and again.
    fn make_room(
        &mut self,
        mailboxes: &[(&'static str, PathBuf)],
        found: &HashMap<(&'static str, u64), usize>,
    ) {
        for (path, file) in mailboxes {
            if fs::metadata(file).is_ok_and(|found| found.len() > 24 << 20) {
                fs::remove_file(file).unwrap();
                let of_this = found.iter().filter(|((at, _), _)| at == path);
                self.gone.extend(of_this.map(|(&key, &times)| (key, times)));
            }
        }
    }
}
