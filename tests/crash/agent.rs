//! A second delivery agent beside the daemon: it appends to the same mailboxes under the same locks, and syncs. What it
//! has delivered must all be there at the end, whole and once, whatever the daemon's recovery does.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::daemon::wait_until;
use crate::load::Dice;

/// Its numbers are none of a letter's.
const FIRST: u64 = 1 << 40;
const FROM: &str = "From agent@other.test ";

/// A mailbox by the path of its mail, and the number of a message.
pub type Delivered = (&'static str, u64);

/// It runs until it is stopped.
pub struct Agent {
    stop: Arc<AtomicBool>,
    delivered: Arc<Mutex<Vec<Delivered>>>,
    thread: JoinHandle<()>,
}

impl Agent {
    /// Its first message has the number `number`, counted from 0.
    pub fn start(mailboxes: [(&'static str, PathBuf); 2], number: u64, mut dice: Dice) -> Agent {
        let stop = Arc::new(AtomicBool::new(false));
        let delivered = Arc::default();
        let (stopped, list) = (Arc::clone(&stop), Arc::clone(&delivered));
        let thread = thread::spawn(move || {
            for id in FIRST + number.. {
                let (path, file) = &mailboxes[dice.below(2) as usize];
                if !deliver(file, &message(id), &stopped) {
                    return;
                }
                let list: &Mutex<Vec<Delivered>> = &list;
                list.lock().unwrap().push((path, id));
                thread::sleep(Duration::from_millis(dice.below(100)));
            }
        });
        Agent {
            stop,
            delivered,
            thread,
        }
    }

    /// Waits for a few more of its messages.
    pub fn wait_for_some(&self) {
        let count = || self.delivered.lock().unwrap().len();
        let before = count();
        wait_until("the other agent delivers", || count() >= before + 4);
    }

    /// What it has delivered.
    pub fn stop(self) -> Vec<Delivered> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        std::mem::take(&mut *self.delivered.lock().unwrap())
    }
}

/// Of a few octets, or of several pages.
fn message(id: u64) -> String {
    let line = format!("line of message {id} of the other agent\n");
    let lines = if id.is_multiple_of(3) { 1000 } else { 1 };
    format!(
        "{FROM}Mon Nov 30 21:00:00 2026\nX-Number: {id}\n\n{}\n",
        line.repeat(lines)
    )
}

/// Appends as it is, whatever is before it. False: stopped, and nothing is done.
fn deliver(mbox: &Path, message: &str, stop: &AtomicBool) -> bool {
    let mut file = (OpenOptions::new().append(true).create(true).open(mbox)).unwrap();
    let dotlock = mbox.with_file_name(format!("{}.lock", mbox.file_name().unwrap().display()));
    loop {
        if stop.load(Ordering::SeqCst) {
            return false;
        }
        if lock(&file, &dotlock) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    file.write_all(message.as_bytes()).unwrap();
    file.sync_data().unwrap();
    fs::remove_file(&dotlock).unwrap();
    true
}

/// The fcntl lock, which ends with `file`, and the dotlock.
fn lock(file: &File, dotlock: &Path) -> bool {
    let set = |kind| {
        let whole = libc::flock {
            l_type: kind as i16,
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).is_ok()
    };
    if !set(libc::F_WRLCK) {
        return false;
    }
    let is_stale = || {
        let holder = fs::read_to_string(dotlock).ok()?.trim().parse().ok()?;
        kill(Pid::from_raw(holder), None).err()
    };
    if is_stale().is_some() {
        let _ = fs::remove_file(dotlock);
    }
    let mut new = OpenOptions::new();
    match new.write(true).create_new(true).open(dotlock) {
        Ok(mut made) => {
            made.write_all(std::process::id().to_string().as_bytes())
                .unwrap();
            true
        }
        Err(_) => {
            set(libc::F_UNLCK);
            false
        }
    }
}

/// The parts of an mbox that are not the agent's, in order, and the agent's messages, which must be whole. Only the last
/// part has nothing of the agent's behind it.
pub fn apart(mbox: &str) -> (Vec<&str>, Vec<u64>) {
    let (mut parts, mut ids, mut rest) = (Vec::new(), Vec::new(), mbox);
    while let Some(at) = memchr::memmem::find(rest.as_bytes(), FROM.as_bytes()) {
        let (before, after) = rest.split_at(at);
        let number = after
            .lines()
            .nth(1)
            .and_then(|l| l.strip_prefix("X-Number: "));
        let id = number.and_then(|number| number.parse().ok());
        let id = id.expect("the other agent's header is torn");
        rest = (after.strip_prefix(&*message(id)))
            .unwrap_or_else(|| panic!("message {id} of the other agent is torn"));
        parts.push(before);
        ids.push(id);
    }
    parts.push(rest);
    (parts, ids)
}

#[test]
fn the_other_agents_mail_is_told_apart_and_a_torn_one_is_seen() {
    let (one, two) = (message(FIRST), message(FIRST + 1));
    let mbox = format!("a{one}{two}b");
    assert_eq!(apart(&mbox), (vec!["a", "", "b"], vec![FIRST, FIRST + 1]));
    for cut in [1, 30, two.len() - FROM.len()] {
        let torn = format!("{one}{}", &two[..two.len() - cut]);
        assert!(std::panic::catch_unwind(|| apart(&torn)).is_err(), "{cut}");
    }
}
