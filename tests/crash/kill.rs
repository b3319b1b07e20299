//! SIGKILL, at random moments and at chosen system calls, under load; the audit after the next start.
//!
//! A start after a kill that is itself killed (recovery interrupted) is among them. Each kill is one point.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::daemon::{Daemon, Folder, Setup};
use crate::hop::Hop;
use crate::ledger::{self, Ledger};
use crate::load::{self, Dice};
use crate::{full, strace};

const CLIENTS: u64 = 6;

/// A folder through many lives of its daemon.
struct Field {
    folder: Arc<Folder>,
    hop: Hop,
    ledger: Mutex<Ledger>,
    dice: Dice,
    twice: usize,
    /// From the first load to the next audit.
    agent: Option<Agent>,
    /// Without an agent: what is torn is cut for certain.
    alone: bool,
}

impl Field {
    fn new(seed: u64) -> Field {
        Field {
            folder: Arc::new(Folder::new()),
            hop: ledger::next_hop(),
            ledger: Mutex::default(),
            dice: Dice(seed | 1),
            twice: 0,
            agent: None,
            alone: false,
        }
    }

    fn setup(&self) -> Setup {
        let port = self.hop.addr().port();
        let mut setup = Setup::with(&format!("RELAY_PORT = {port}\nNAMESERVER = 127.0.0.1:9\n"));
        setup.folder = Arc::clone(&self.folder);
        setup.rust_log = "warn,smtpd788::receive=info,smtpd788::store=info";
        setup
    }

    /// Loads the daemon at `addr` while `watch` runs.
    fn load(&mut self, addr: SocketAddr, watch: impl FnOnce(&mut Dice)) {
        let stop = AtomicBool::new(false);
        if self.agent.is_none() && !self.alone {
            let mailboxes = ledger::mailboxes(self.folder.path());
            let (_, _, number) = self.ledger.lock().unwrap().counts();
            let dice = Dice(self.dice.below(u64::MAX) | 1);
            self.agent = Some(Agent::start(mailboxes, number as u64, dice));
        }
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| self.dice.below(u64::MAX)).collect();
        thread::scope(|scope| {
            for seed in seeds {
                let (ledger, stop) = (&self.ledger, &stop);
                scope.spawn(move || load::client(addr, ledger, seed, stop));
            }
            watch(&mut self.dice);
            stop.store(true, Ordering::SeqCst);
        });
    }

    /// Starts once more, stops in good order, and looks at everything. At times the other agent delivers before that.
    fn audit(&mut self, exactly_once: bool) {
        if self.dice.below(3) == 0
            && let Some(agent) = &self.agent
        {
            agent.wait_for_some();
        }
        let daemon = self.setup().start();
        let cuts = daemon.matching("recovered mailbox=").len();
        let (status, log) = daemon.stop();
        assert!(status.success(), "{status}: {log:?}");
        let mut ledger = self.ledger.lock().unwrap();
        ledger.agent_delivered(self.agent.take().map_or_else(Vec::new, Agent::stop));
        ledger.cuts += cuts;
        let copies = ledger.audit(self.folder.path(), &self.hop, exactly_once);
        self.twice = self.twice.max(copies);
    }

    /// Whether an append of several pieces was begun and not ended.
    fn torn(&self) -> bool {
        let journal = fs::read(self.folder.path().join("spool/appending")).unwrap();
        journal.chunks(4096).any(|slot| {
            let text = String::from_utf8_lossy(slot);
            let words: Vec<_> = text.split(' ').collect();
            // `+ BOOT DEV INODE FROM WHOLE PATH-LENGTH ENDS PATH`
            let [entered, _, _, _, from, whole, len, _, rest, ..] = words[..] else {
                return false;
            };
            let path = &rest[..len.parse().unwrap()];
            entered == "+"
                && whole == "0"
                && fs::metadata(path).unwrap().len() > from.parse().unwrap()
        })
    }

    /// Under strace with `inject`, until it kills the daemon (at its start, or loaded). False: it never did.
    fn killed_at(&mut self, inject: &str) -> bool {
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(4);
        let command = strace::under(&self.setup(), inject);
        let mut daemon = Daemon::launch(command, Arc::clone(&self.folder));
        if daemon.wait_until_it_listens().is_ok() {
            self.load(daemon.addr(), |_| {
                while !daemon.has_ended() && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(2));
                }
                if !daemon.has_ended() {
                    strace::end(&mut daemon.child);
                }
            });
        }
        let status = daemon.wait();
        assert!(
            status.signal().is_some() || status.code() == Some(137),
            "{inject}: ended with {status}"
        );
        Instant::now() < deadline
    }

    fn report(&self, what: &str) {
        let ledger = self.ledger.lock().unwrap();
        let (sent, promised, agents) = ledger.counts();
        let (audits, cuts, left, twice) = (ledger.audits, ledger.cuts, ledger.left, self.twice);
        println!(
            "{what}: {sent} letters, {promised} promised, {agents} of another agent, {audits} audits, none lost, none \
             torn; {cuts} torn ends cut at the next start, up to {left} at a time left before the other agent's mail, \
             {twice} forwarded twice by a kill"
        );
    }
}

#[test]
fn at_random_moments_nothing_promised_is_lost_and_nothing_torn() {
    let points = if full() { 200 } else { 30 };
    let mut field = Field::new(0x788);
    for _ in 0..points {
        let daemon = field.setup().start();
        let addr = daemon.addr();
        let mut daemon = Some(daemon);
        field.load(addr, |dice| {
            thread::sleep(Duration::from_millis(5 + dice.below(300)));
            daemon.take().map(Daemon::kill);
        });
        field.audit(false);
    }
    field.report(&format!("{points} kill points at random moments"));
}

#[test]
fn without_a_kill_everything_is_there_exactly_once() {
    let mut field = Field::new(0x821);
    for _ in 0..if full() { 10 } else { 2 } {
        let daemon = field.setup().start();
        let addr = daemon.addr();
        field.load(addr, |_| thread::sleep(Duration::from_millis(500)));
        let (status, log) = daemon.stop();
        assert!(status.success(), "{status} {log:?}");
        field.audit(true);
    }
    field.report("no kill");
}

/// The calls that a promise hangs on; several names where the C library has a choice.
const CALLS: [&str; 10] = [
    "pwrite64",
    "pwritev,?pwritev2",
    "writev",
    "fdatasync",
    "fsync",
    "rename,renameat,?renameat2",
    "link,linkat",
    "unlink,unlinkat",
    "ftruncate",
    "openat",
];

#[test]
#[ignore = "needs strace (Debian package strace)"]
fn at_chosen_system_calls_nothing_promised_is_lost_and_nothing_torn() {
    let most = if full() { 20 } else { 2 };
    let mut field = Field::new(0x1981);
    let mut total = 0;
    for calls in CALLS {
        let mut reached = 0;
        for when in 1..=most {
            // openat: the early ones are the loader's.
            let when = if calls == "openat" {
                when * 3 + 8
            } else {
                when
            };
            field.alone = calls == "ftruncate";
            if field.alone {
                // Something must be torn for it: one piece of a large message, without the next.
                for write in 2..40 {
                    let killed = field.killed_at(&format!("writev:signal=KILL:when={write}"));
                    total += usize::from(killed);
                    if field.torn() {
                        break;
                    }
                    field.audit(false);
                }
            }
            reached += usize::from(field.killed_at(&format!("{calls}:signal=KILL:when={when}")));
            field.audit(false);
        }
        total += reached;
        println!("{calls}: killed at {reached} of {most}");
    }
    let cuts = field.ledger.lock().unwrap().cuts;
    assert!(cuts > 0, "recovery was killed, and done by the next start");
    field.report(&format!("{total} kill points at system calls"));
}
