//! Writes that fail or are cut short, and what the next start makes of them.

use super::place::{Place, copy, expected, spilled};
use crate::again;
use smtpd788::mailbox::{MailboxError, MailboxMessage, Mailboxes};
use smtpd788::message::Body;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};

#[test]
fn a_body_that_ends_early_leaves_no_trace() {
    let place = Place::new();
    let mailboxes = place.open();
    mailboxes.deliver(&place.mbox, copy("one\n")).unwrap();
    let short = Body::from_file(tempfile::tempfile().unwrap(), 0, 100_000);
    let short = MailboxMessage {
        body: Arc::new(short),
        ..copy("")
    };
    assert!(matches!(
        mailboxes.deliver(&place.mbox, short),
        Err(MailboxError::Io(_))
    ));
    assert_eq!(place.content(), expected(&["one\n"]));
    assert!(!place.entered() && !place.lock().exists());
    mailboxes.deliver(&place.mbox, copy("two\n")).unwrap();
    assert_eq!(place.content(), expected(&["one\n", "two\n"]));
}

/// A line that pages are full of, so that every page of it is the same.
const LINE: &str = "a line of sixty-four octets, the same again, with no end to it.\n";
const FOLDER: &str = "SMTPD788_TEST_MAILBOX";

/// The process to be killed.
#[test]
#[ignore = "started by the other tests"]
fn victim() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let body = LINE.repeat(LONG);
    let (mailboxes, _) = Mailboxes::open(Some(&folder.join("spool"))).unwrap();
    for copy in [copy(&body), spilled(body.as_bytes())].iter().cycle() {
        (mailboxes.deliver(&folder.join("mbox"), copy.clone())).unwrap();
    }
}

/// How many lines one of its messages has.
const LONG: usize = (8 << 20) / LINE.len();

/// What no other program has to do with: a message before the victim's first.
const BEFORE: &str = "From b\n\nbefore\n\n";

/// Kills the victim in the middle of a write, as the file's length tells; returns the length that the mailbox had
/// before that write began.
fn torn(place: &Place) -> usize {
    let whole = expected(&[&LINE.repeat(LONG)]).len();
    fs::write(&place.mbox, BEFORE).unwrap();
    let len = || fs::metadata(&place.mbox).unwrap().len() as usize - BEFORE.len();
    loop {
        let mut child = again(module_path!(), "victim")
            .arg("--ignored")
            .env(FOLDER, place.folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while len().is_multiple_of(whole) {
            assert!(child.try_wait().unwrap().is_none());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if !len().is_multiple_of(whole) {
            return BEFORE.len() + len() / whole * whole;
        }
    }
}

#[test]
fn a_killed_process_leaves_whole_messages_only() {
    let place = Place::new();
    for _ in 0..10 {
        let from = torn(&place);
        let torn = fs::metadata(&place.mbox).unwrap().len() as usize;
        let (mailboxes, lines) = place.recover();
        let (mbox, cut) = (place.mbox.display(), torn - from);
        assert_eq!(
            lines,
            [format!("recovered mailbox={mbox} cut={cut} size={from}")]
        );
        assert_eq!(fs::metadata(&place.mbox).unwrap().len() as usize, from);
        assert!(!place.entered() && !place.lock().exists());
        drop(mailboxes);
        place.open().deliver(&place.mbox, copy("2\n")).unwrap();
        let content = place.content();
        assert!(content[..from].starts_with(BEFORE));
        assert_eq!(content[from..], expected(&["2\n"]));
    }
}

/// Another program's message.
const FOREIGN: &str = "From c\n\nanother agent's\n\n";

fn append(place: &Place, text: &str) {
    let mut mbox = OpenOptions::new().append(true).open(&place.mbox).unwrap();
    mbox.write_all(text.as_bytes()).unwrap();
}

#[test]
fn what_is_not_shown_to_be_ours_alone_is_not_cut() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let journal = |place: &Place| place.spool.join("appending");
    type Change<'a> = (&'a str, &'a dyn Fn(&Place, usize));
    let changes: [Change; 8] = [
        ("another agent delivers", &|place, _| append(place, FOREIGN)),
        ("and ends where a page of ours would", &|place, _| {
            let len = fs::metadata(&place.mbox).unwrap().len() as usize;
            append(place, FOREIGN);
            append(place, &"\n".repeat(4096 - (len + FOREIGN.len()) % 4096));
        }),
        ("another file has the inode's number", &|place, _| {
            let len = fs::metadata(&place.mbox).unwrap().len() as usize;
            let other = FOREIGN.repeat(len / FOREIGN.len() + 1);
            fs::write(&place.mbox, &other[..len]).unwrap();
        }),
        ("and is longer than the old one was", &|place, from| {
            let other = FOREIGN.repeat(from / FOREIGN.len() + 9);
            fs::write(&place.mbox, other).unwrap();
        }),
        ("a reader changed an octet of it", &|place, from| {
            let mbox = OpenOptions::new().write(true).open(&place.mbox).unwrap();
            mbox.write_all_at(b"X", from as u64 + 5).unwrap();
        }),
        ("the entry outlived a power cut", &|place, _| {
            let text = fs::read(journal(place)).unwrap();
            let text = String::from_utf8(text).unwrap();
            let other = "0f7a9d3c-9f4e-4c1b-8a55-2f1f3f6f9a10";
            fs::write(journal(place), text.replace(boot.trim(), other)).unwrap();
        }),
        ("the entry is one of an older version", &|place, from| {
            let (found, path) = (fs::metadata(&place.mbox).unwrap(), place.mbox.display());
            let (dev, ino, to) = (found.dev(), found.ino(), found.len() + 10);
            let len = path.to_string().len();
            let text = format!("+ {dev} {ino} {from} {to} {len} {path}\n");
            fs::write(journal(place), text).unwrap();
        }),
        ("the entry is none", &|place, _| {
            fs::write(journal(place), "+ no entry at all\n").unwrap();
        }),
    ];
    for (what, change) in changes {
        let place = Place::new();
        change(&place, torn(&place));
        let before = place.content();
        place.open().deliver(&place.mbox, copy("2\n")).unwrap();
        let content = place.content();
        assert!(content.starts_with(&before), "{what}");
        let gap = match before.as_bytes() {
            [.., b'\n', b'\n'] => "",
            [.., b'\n'] => "\n",
            _ => "\n\n",
        };
        let rest = &content[before.len()..];
        assert_eq!(rest, format!("{gap}{}", expected(&["2\n"])), "{what}");
    }
}

#[test]
fn an_entry_of_a_file_that_is_gone_is_cleared() {
    for replace in [
        |_: &Place| {},
        |place: &Place| std::os::unix::fs::symlink("/etc/passwd", &place.mbox).unwrap(),
    ] {
        let place = Place::new();
        torn(&place);
        fs::remove_file(&place.mbox).unwrap();
        replace(&place);
        place.open();
        assert!(!place.entered());
    }
}

#[test]
fn a_mailbox_locked_at_the_start_is_cut_before_its_next_message_unless_another_was_faster() {
    for faster in [false, true] {
        let place = Place::new();
        let from = torn(&place);
        fs::write(place.lock(), "1\n").unwrap();
        let (mailboxes, lines) = place.recover();
        assert!(lines.len() == 1 && lines[0].contains("waits"), "{lines:?}");
        assert!(place.entered());
        assert!(matches!(
            mailboxes.deliver(&place.mbox, copy("2\n")),
            Err(MailboxError::Busy)
        ));
        // Another mailbox's entry doesn't take its slot, and another start finds it still.
        mailboxes
            .deliver(&place.folder.path().join("other"), copy("x\n"))
            .unwrap();
        drop(mailboxes);
        let (mailboxes, lines) = place.recover();
        assert_eq!(lines.len(), 1);
        if faster {
            append(&place, FOREIGN);
        }
        let before = place.content();
        fs::remove_file(place.lock()).unwrap();
        mailboxes.deliver(&place.mbox, copy("2\n")).unwrap();
        let kept = if faster { &before } else { &before[..from] };
        assert!(place.content() == format!("{kept}{}", expected(&["2\n"])));
        assert!(!place.entered());
    }
}

#[test]
fn a_start_that_cannot_use_the_journal_names_it() {
    let place = Place::new();
    let journal = place.spool.join("appending");
    fs::create_dir(&journal).unwrap();
    let error = Mailboxes::open(Some(&place.spool)).err().unwrap();
    assert!(
        error.to_string().starts_with("appending: Is a directory"),
        "{error}"
    );
}

/// The limit is the process's, so the test runs itself again in one of its own.
#[test]
fn a_message_too_large_for_the_file_leaves_no_trace_and_fails_alone() {
    use nix::sys::{resource, signal};
    const LIMIT: u64 = 64 * 1024;
    const NAME: &str = "a_message_too_large_for_the_file_leaves_no_trace_and_fails_alone";
    if std::env::var_os("MAILBOX_TEST_LIMITED").is_none() {
        let mut again = again(module_path!(), NAME);
        let output = again.env("MAILBOX_TEST_LIMITED", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let place = Place::new();
    // The daemon ignores SIGXFSZ; blocked is as good, and the threads inherit it.
    signal::SigSet::from(signal::Signal::SIGXFSZ)
        .thread_block()
        .unwrap();
    resource::setrlimit(resource::Resource::RLIMIT_FSIZE, LIMIT, LIMIT).unwrap();
    let mailboxes = place.open();
    let huge = "x".repeat(LIMIT as usize);
    for _ in 0..20 {
        let start = Barrier::new(9);
        std::thread::scope(|scope| {
            let (mailboxes, start, mbox) = (&mailboxes, &start, &place.mbox);
            for n in 0..9 {
                let huge = &huge;
                scope.spawn(move || {
                    start.wait();
                    match n {
                        0 => assert!(
                            mailboxes
                                .deliver(mbox, copy(huge))
                                .unwrap_err()
                                .is_no_space()
                        ),
                        _ => mailboxes.deliver(mbox, copy("small\n")).unwrap(),
                    }
                });
            }
        });
    }
    assert_eq!(place.content(), expected(&["small\n"; 160]));
    assert!(!place.entered() && !place.lock().exists());
}
