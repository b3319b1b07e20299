//! What lies in the mbox file, octet by octet, and how many syncs it took.

use super::place::{HEADING, Place, copy, expected, received, spilled};
use smtpd788::mailbox::{MailboxError, MailboxMessage};
use smtpd788::message::Body;
use std::fs::{self};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Barrier};

#[test]
fn messages_lie_in_the_file_quoted_and_each_ended_by_an_empty_line() {
    let place = Place::new();
    let mailboxes = place.open();
    let bodies = [
        "Subject: x\n\nhello\n",
        "",
        "no end",
        "\n\n",
        "From x\n>From y\n From z\n\nFrom\nFrom me ",
        &"From a\nb\n".repeat(2000),
    ];
    for body in bodies {
        mailboxes.deliver(&place.mbox, copy(body)).unwrap();
        assert!(!place.entered() && !place.lock().exists());
    }
    assert_eq!(place.content(), expected(&bodies));
    assert_eq!(
        fs::metadata(&place.mbox).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_body_in_a_file_gives_the_same_octets() {
    let big = "a line of some length, as they are\n".repeat(8 << 20 >> 5);
    let quoted = format!(
        "From the start\n{}>From x\n",
        "From a\nab\n>From b\nFro\n>>>\n".repeat(40_000)
    );
    for body in [
        "",
        "x",
        "Subject: x\n\nhello\n",
        "From a\n",
        "a\n>>From ",
        "a\nFrom",
        big.as_str(),
        big.strip_suffix('\n').unwrap(),
        quoted.as_str(),
    ] {
        let place = Place::new();
        let mailboxes = place.open();
        mailboxes
            .deliver(&place.mbox, spilled(body.as_bytes()))
            .unwrap();
        mailboxes
            .deliver(&place.mbox, received(body.as_bytes()))
            .unwrap();
        mailboxes.deliver(&place.mbox, copy("after")).unwrap();
        assert!(
            place.content() == expected(&[body, body, "after"]),
            "{} octets",
            body.len()
        );
        assert!(!place.entered());
    }
}

#[test]
fn forty_at_once_share_syncs_and_one_bad_message_fails_alone() {
    const THREADS: usize = 40;
    const EACH: usize = 25;
    let place = Place::new();
    let mailboxes = place.open();
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (mailboxes, start, mbox) = (&mailboxes, &start, &place.mbox);
            scope.spawn(move || {
                start.wait();
                for n in 0..EACH {
                    let body = format!(
                        "X-Id: {thread}-{n}\n\n{}From x\n",
                        "text\n".repeat(thread * 10)
                    );
                    mailboxes.deliver(mbox, copy(body)).unwrap();
                    if n == EACH / 2 {
                        let short = Body::from_file(tempfile::tempfile().unwrap(), 0, 5000);
                        mailboxes
                            .deliver(
                                mbox,
                                MailboxMessage {
                                    body: Arc::new(short),
                                    ..copy("")
                                },
                            )
                            .unwrap_err();
                    }
                }
            });
        }
    });
    let stats = mailboxes.stats();
    assert_eq!(stats.messages, (THREADS * EACH) as u64);
    assert!(stats.batches * 3 <= stats.messages, "{stats:?}");
    let content = place.content();
    let mut found: Vec<&str> = content.split_inclusive(HEADING).collect();
    assert_eq!(found.remove(0), HEADING);
    let mut ids: Vec<String> = found
        .iter()
        .map(|message| {
            let message = message.strip_suffix(HEADING).unwrap_or(message);
            let (id, rest) = message
                .strip_prefix("X-Id: ")
                .unwrap()
                .split_once("\n\n")
                .unwrap();
            let thread: usize = id.split('-').next().unwrap().parse().unwrap();
            assert_eq!(rest, format!("{}>From x\n\n", "text\n".repeat(thread * 10)));
            id.to_string()
        })
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), THREADS * EACH);
}

#[test]
fn a_torn_end_of_unknown_origin_is_ended_first() {
    for (before, gap) in [
        ("", ""),
        ("\n", ""),
        ("x", "\n\n"),
        ("From a\n\nhalf", "\n\n"),
        ("From a\n\nx\n", "\n"),
        ("x\n\n", ""),
    ] {
        let place = Place::new();
        fs::write(&place.mbox, before).unwrap();
        place.open().deliver(&place.mbox, copy("m\n")).unwrap();
        assert_eq!(
            place.content(),
            format!("{before}{gap}{}", expected(&["m\n"]))
        );
    }
}

#[test]
fn errors_that_mean_no_space() {
    for (code, no_space) in [
        (nix::libc::ENOSPC, true),
        (nix::libc::EDQUOT, true),
        (nix::libc::EFBIG, true),
        (nix::libc::EIO, false),
    ] {
        let error = MailboxError::from(std::io::Error::from_raw_os_error(code));
        assert_eq!(error.is_no_space(), no_space);
    }
    assert!(!MailboxError::Busy.is_no_space());
}

#[test]
#[ignore = "a measurement: cargo test --release --test mailbox measure -- --ignored --nocapture"]
fn measure() {
    const SECONDS: f64 = 3.0;
    let body = "a line of a message of about a kilobyte\n".repeat(25);
    for threads in [1, 2, 20] {
        let place = Place::new();
        let mailboxes = place.open();
        let begin = std::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while begin.elapsed().as_secs_f64() < SECONDS {
                        mailboxes.deliver(&place.mbox, copy(&body)).unwrap();
                    }
                });
            }
        });
        let (stats, seconds) = (mailboxes.stats(), begin.elapsed().as_secs_f64());
        let rate = stats.messages as f64 / seconds;
        println!(
            "{threads} threads: {rate:.0} messages/s, {:.1} a sync",
            stats.messages as f64 / stats.batches as f64
        );
    }
}
