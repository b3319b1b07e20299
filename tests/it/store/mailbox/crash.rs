//! Writes that fail or are cut short, and what the next start makes of them.

use super::place::{Place, copy, expected, spilled};
use crate::again;
use smtpd788::mailbox::{MailboxError, MailboxMessage, Mailboxes};
use smtpd788::message::Body;
use std::fs::{self, OpenOptions};
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
    assert!(!place.noted() && !place.lock().exists());
    mailboxes.deliver(&place.mbox, copy("two\n")).unwrap();
    assert_eq!(place.content(), expected(&["one\n", "two\n"]));
}

#[test]
fn the_next_start_cuts_exactly_what_a_killed_process_tore() {
    let whole = expected(&["1\n"]);
    let from = whole.len() as u64;
    let to = from + 500;
    // (size at the start, whether the note is of this file, size afterwards)
    let table = [
        (from, true, from),
        (from + 1, true, from),
        (from + 499, true, from),
        (to, true, to),
        (to + 1, true, to + 1),
        (from - 1, true, from - 1),
        (from + 1, false, from + 1),
    ];
    for (size, same, after) in table {
        let place = Place::new();
        fs::write(&place.mbox, &whole).unwrap();
        let file = OpenOptions::new().write(true).open(&place.mbox).unwrap();
        if size > from {
            file.write_all_at(&vec![b'x'; (size - from) as usize], from)
                .unwrap();
        }
        file.set_len(size).unwrap();
        place.note(file.metadata().unwrap().ino() + u64::from(!same), from, to);
        let (mailboxes, lines) = place.recover();
        assert_eq!(
            fs::metadata(&place.mbox).unwrap().len(),
            after,
            "{size} {same}"
        );
        assert_eq!(lines.len(), usize::from(size != after), "{lines:?}");
        assert!(!place.noted() && !place.lock().exists());
        if let [line] = &lines[..] {
            assert_eq!(
                *line,
                format!(
                    "recovered mailbox={} cut={} size={from}",
                    place.mbox.display(),
                    size - from
                )
            );
            mailboxes.deliver(&place.mbox, copy("2\n")).unwrap();
            assert_eq!(place.content(), expected(&["1\n", "2\n"]));
        }
    }
}

#[test]
fn a_note_of_a_file_that_is_gone_or_is_none_is_struck_out() {
    let place = Place::new();
    place.note(1, 10, 20);
    place.open();
    assert!(!place.noted() && !place.mbox.exists());
    std::os::unix::fs::symlink("/etc/passwd", &place.mbox).unwrap();
    place.note(1, 10, 20);
    place.open();
    assert!(!place.noted());
    fs::write(place.spool.join("appending"), "+ no note at all\n").unwrap();
    place.open();
}

#[test]
fn a_mailbox_locked_at_the_start_is_cut_before_its_next_message() {
    let place = Place::new();
    let whole = expected(&["1\n"]);
    fs::write(&place.mbox, format!("{whole}From torn")).unwrap();
    let len = whole.len() as u64;
    place.note(fs::metadata(&place.mbox).unwrap().ino(), len, len + 100);
    fs::write(place.lock(), "1\n").unwrap();
    let (mailboxes, lines) = place.recover();
    assert!(lines.len() == 1 && lines[0].contains("waits"), "{lines:?}");
    assert!(place.noted());
    assert!(matches!(
        mailboxes.deliver(&place.mbox, copy("2\n")),
        Err(MailboxError::Busy)
    ));
    // Another mailbox's note doesn't take its slot, and another start finds it still.
    mailboxes
        .deliver(&place.folder.path().join("other"), copy("x\n"))
        .unwrap();
    drop(mailboxes);
    let (mailboxes, lines) = place.recover();
    assert_eq!(lines.len(), 1);
    fs::remove_file(place.lock()).unwrap();
    mailboxes.deliver(&place.mbox, copy("2\n")).unwrap();
    assert_eq!(place.content(), expected(&["1\n", "2\n"]));
    assert!(!place.noted());
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
    assert!(!place.noted() && !place.lock().exists());
}

/// A process that is killed in the middle of a large write, as the test catches it by the file's
/// length.
#[test]
fn a_killed_process_leaves_whole_messages_only() {
    const NAME: &str = "a_killed_process_leaves_whole_messages_only";
    let line = "a line of text, the same again and again, with no end in sight\n";
    let body = line.repeat((8 << 20) / line.len());
    if let Some(folder) = std::env::var_os("MAILBOX_TEST_KILLED") {
        let folder = PathBuf::from(folder);
        let (mailboxes, _) = Mailboxes::open(Some(&folder.join("spool"))).unwrap();
        let copies = [copy(&body), spilled(body.as_bytes())];
        for copy in copies.iter().cycle() {
            mailboxes
                .deliver(&folder.join("mbox"), copy.clone())
                .unwrap();
        }
    }
    let place = Place::new();
    let whole = expected(&[&body]).len() as u64;
    let mut cuts = 0;
    for _ in 0..10 {
        let mut child = again(module_path!(), NAME)
            .env("MAILBOX_TEST_KILLED", place.folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while fs::metadata(&place.mbox)
            .map_or(0, |found| found.len())
            .is_multiple_of(whole)
        {
            assert!(child.try_wait().unwrap().is_none());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        cuts += place.recover().1.len();
        let len = fs::metadata(&place.mbox).unwrap().len();
        assert_eq!(len % whole, 0);
        let (mailboxes, lines) = place.recover();
        assert_eq!(lines, [""; 0]);
        mailboxes.deliver(&place.mbox, copy(&body)).unwrap();
        assert!(place.content() == expected(&[body.as_str()]).repeat((len / whole) as usize + 1));
        fs::write(&place.mbox, "").unwrap();
    }
    println!("{cuts} of 10 were torn");
}
