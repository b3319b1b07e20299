//! The spool's folder in every state that a crash can leave, laid out by hand, and its ordinary life.

use crate::common::daemon::wait_until;
use smtpd788::message::{Body, BodyWriter, Id};
use smtpd788::smtp::address::{ForwardPath, ReversePath};
use smtpd788::spool::{self, NewEntry, NewRecipient, Origin, Spool, SpoolError, State};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(super) const HEADING: &[u8] = b"Received: from a ([192.0.2.1]) by b with SMTP id x; now\n";

pub(super) fn paths(to: &[&str]) -> Vec<NewRecipient> {
    let path = |s: &&str| s.parse::<ForwardPath>().unwrap().into();
    to.iter().map(path).collect()
}

pub(super) fn accept(spool: &Spool, id: Id, to: &[&str], body: &Body) -> io::Result<()> {
    let from: ReversePath = "<john@example.org>".parse().unwrap();
    spool
        .accept(&NewEntry {
            id,
            of: None,
            from: &from,
            received: SystemTime::now(),
            origin: Origin::Inside,
            to: &paths(to),
            heading: HEADING,
            body,
            next_try: SystemTime::now(),
        })
        .map(drop)
}

pub(super) fn stored(spool: &Spool, to: &[&str]) -> Id {
    let id = Id::new();
    accept(
        spool,
        id,
        to,
        &Body::from_bytes(b"Subject: x\n\ntext\n".to_vec()),
    )
    .unwrap();
    id
}

pub(super) fn scan(spool: &Spool) -> BTreeMap<Id, SystemTime> {
    let mut found = BTreeMap::new();
    spool
        .scan(&mut |id, next| assert!(found.insert(id, next).is_none()))
        .unwrap();
    found
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|n| n != "lock").collect();
    names.sort();
    names
}

/// Opens a spool that this process had open before. A program that another test starts has our descriptors, and the lock
/// with them, for the moment until it is another program.
fn reopen(dir: &Path) -> Spool {
    let mut opened = None;
    wait_until("the lock is free", || match Spool::open(dir) {
        Err(SpoolError::InUse(..)) => false,
        other => {
            opened = Some(other);
            true
        }
    });
    opened.unwrap().unwrap()
}

pub(super) fn content(body: &Body) -> Vec<u8> {
    let mut bytes = vec![0; body.len() as usize + 1];
    let mut filled = 0;
    loop {
        match body.read_at(filled as u64, &mut bytes[filled..]).unwrap() {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    bytes
}

pub(super) fn file(spool: &Spool, id: Id) -> PathBuf {
    spool.dir().join(id.to_string())
}

#[test]
fn a_message_lives_and_goes() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("var/spool/mail");
    let spool = Spool::open(&dir).unwrap();
    for made in [dir.as_path(), dir.parent().unwrap()] {
        assert_eq!(
            fs::metadata(made).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
    let id = stored(&spool, &["<mary@example.net>", "<fred@example.com>"]);
    assert_eq!(
        fs::metadata(file(&spool, id)).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(names(&dir), [id.to_string()]);

    let mut queued = spool.load(id).unwrap().unwrap();
    assert_eq!(queued.from.to_string(), "<john@example.org>");
    assert_eq!((queued.tries, queued.is_finished()), (0, false));
    assert_eq!(
        content(&queued.body().unwrap()),
        [HEADING, b"Subject: x\n\ntext\n"].concat()
    );

    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    queued.finish_recipient(1, "mx said: 250 OK").unwrap();
    queued.note(0, "mx said: 451 later").unwrap();
    queued.defer(7, later).unwrap();
    queued.note(9, "no such recipient").unwrap();
    queued.finish_recipient(9, "no such recipient").unwrap();
    queued.defer(7, later).unwrap();
    drop(queued);
    assert_eq!(scan(&spool)[&id], later);

    let mut queued = spool.load(id).unwrap().unwrap();
    assert_eq!((queued.tries, queued.next_try), (7, later));
    let states: Vec<_> = queued
        .recipients
        .iter()
        .map(|r| (r.state, r.last_answer.as_str()))
        .collect();
    assert_eq!(
        states,
        [
            (State::Waiting, "mx said: 451 later"),
            (State::Done, "mx said: 250 OK")
        ]
    );
    assert_eq!(
        content(&queued.body().unwrap()),
        [HEADING, b"Subject: x\n\ntext\n"].concat()
    );
    queued.finish_recipient(0, "mx said: 250 OK").unwrap();
    assert!(queued.is_finished());
    queued.remove().unwrap();
    assert_eq!(names(&dir), [""; 0]);
    assert!(spool.load(id).unwrap().is_none());
}

#[test]
fn a_large_body_comes_from_its_file_region() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let mut source = tempfile::tempfile().unwrap();
    let text: Vec<u8> = (0..3_000_000u32)
        .map(|n| {
            if n % 60 == 59 {
                b'\n'
            } else {
                b'a' + (n % 26) as u8
            }
        })
        .collect();
    source.write_all(b"not this").unwrap();
    source.write_all(&text).unwrap();
    source.write_all(b"nor this").unwrap();
    // The copy must not depend on the descriptor's own position.
    source.seek(SeekFrom::Start(3)).unwrap();
    let id = Id::new();
    accept(
        &spool,
        id,
        &["<mary@example.net>"],
        &Body::from_file(source, 8, text.len() as u64),
    )
    .unwrap();
    let body = spool.load(id).unwrap().unwrap().body().unwrap();
    assert!(body.as_bytes().is_none());
    assert_eq!(content(&body), [HEADING, &text].concat());

    // As it is received: the beginning in a file, the rest in memory.
    let mut writer = BodyWriter::new(temp.path());
    writer.push(&text);
    let split = writer.finish().unwrap();
    assert!(split.as_bytes().is_none());
    let id = Id::new();
    accept(&spool, id, &["<mary@example.net>"], &split).unwrap();
    let body = spool.load(id).unwrap().unwrap().body().unwrap();
    assert_eq!(content(&body), [HEADING, &text].concat());
}

#[test]
fn a_long_list_of_recipients_is_read_whole() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let to: Vec<String> = (0..1_000)
        .map(|n| format!("<user{n}@example.net>"))
        .collect();
    let id = stored(&spool, &to.iter().map(String::as_str).collect::<Vec<_>>());
    let queued = spool.load(id).unwrap().unwrap();
    assert_eq!(queued.recipients.len(), 1_000);
    assert_eq!(
        queued.recipients[999].to.to_string(),
        "<user999@example.net>"
    );
    assert_eq!(content(&queued.body().unwrap()).len() as u64, queued.size);
}

#[test]
fn a_failed_acceptance_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    // The file ends before the region does.
    let short = Body::from_file(tempfile::tempfile().unwrap(), 0, 10);
    let error = accept(&spool, Id::new(), &["<mary@example.net>"], &short).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    // Nobody to deliver to.
    accept(&spool, Id::new(), &[], &Body::from_bytes(Vec::new())).unwrap_err();
    assert_eq!(names(temp.path()), [""; 0]);
    // The name is taken: what has it stays as it is.
    let id = stored(&spool, &["<mary@example.net>"]);
    let before = fs::read(file(&spool, id)).unwrap();
    let error = accept(
        &spool,
        id,
        &["<other@example.net>"],
        &Body::from_bytes(Vec::new()),
    )
    .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(file(&spool, id)).unwrap(), before);
    assert_eq!(names(temp.path()), [id.to_string()]);
    // Another's `.new` is not ours to remove.
    let new = temp.path().join("00000000000000ff.new");
    fs::write(&new, "").unwrap();
    let id = Id::parse("00000000000000ff").unwrap();
    accept(
        &spool,
        id,
        &["<mary@example.net>"],
        &Body::from_bytes(Vec::new()),
    )
    .unwrap_err();
    assert!(new.exists());
}

#[test]
fn a_message_that_its_maker_still_has_is_not_found() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let id = Id::new();
    let (from, now) = ("<john@example.org>".parse().unwrap(), SystemTime::now());
    let entry = NewEntry {
        id,
        of: None,
        from: &from,
        received: now,
        origin: Origin::Outside,
        to: &paths(&["<mary@example.net>"]),
        heading: HEADING,
        body: &Body::from_bytes(Vec::new()),
        next_try: now,
    };
    let queued = spool.accept(&entry).unwrap();
    assert!(scan(&spool).is_empty());
    drop(queued);
    assert_eq!(scan(&spool).into_keys().collect::<Vec<_>>(), [id]);
}

#[test]
fn a_message_that_was_just_accepted_is_as_if_it_had_been_read() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let from: ReversePath = "<john@example.org>".parse().unwrap();
    for size in [0, 700, 100_000] {
        let id = Id::new();
        let (now, body) = (SystemTime::now(), Body::from_bytes(vec![b'z'; size]));
        let mut to = paths(&["<mary@example.net>", "<\"a b\"@[192.0.2.1]>"]);
        to[1].orig_to = Some("<ann@example.org>".parse().unwrap());
        let entry = NewEntry {
            id,
            of: None,
            from: &from,
            received: now,
            origin: Origin::Outside,
            to: &to,
            heading: HEADING,
            body: &body,
            next_try: now + Duration::from_secs(60),
        };
        let mut accepted = spool.accept(&entry).unwrap();
        let mut read = spool.load(id).unwrap().unwrap();
        let facts = |q: &spool::Queued| {
            let recipients = format!("{:?}", q.recipients);
            let body = content(&q.body().unwrap());
            (q.id, q.from.clone(), q.tries, q.size, recipients, body)
        };
        assert_eq!(facts(&accepted), facts(&read));
        assert_eq!(read.next_try, accepted.next_try);
        accepted.finish_recipient(1, "mx said: 250 OK").unwrap();
        accepted.defer(3, now).unwrap();
        read = spool.load(id).unwrap().unwrap();
        assert_eq!(facts(&accepted), facts(&read));
    }
}

#[test]
fn a_folder_that_went_away_or_refuses_is_an_error_not_a_panic() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("spool");
    let spool = Spool::open(&dir).unwrap();
    let id = stored(&spool, &["<mary@example.net>"]);
    fs::remove_dir_all(&dir).unwrap();
    accept(
        &spool,
        Id::new(),
        &["<mary@example.net>"],
        &Body::from_bytes(Vec::new()),
    )
    .unwrap_err();
    spool.scan(&mut |_, _| {}).unwrap_err();
    assert!(spool.load(id).unwrap().is_none());

    // Below a plain file no folder can be made.
    let plain = temp.path().join("plain");
    fs::write(&plain, "").unwrap();
    assert!(matches!(
        Spool::open(&plain.join("spool")),
        Err(SpoolError::Io(..))
    ));

    let closed = temp.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(closed.join("probe"), "").is_err() {
        // Not as root, who may write anywhere.
        assert!(matches!(Spool::open(&closed), Err(SpoolError::Io(..))));
    }
}

#[test]
fn only_one_daemon_has_the_lock() {
    let temp = tempfile::tempdir().unwrap();
    let first = Spool::open(temp.path()).unwrap();
    match Spool::open(temp.path()) {
        Err(SpoolError::InUse(path, pid)) => {
            assert_eq!(path, temp.path());
            assert_eq!(pid, std::process::id().to_string());
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    reopen(temp.path());
}

#[test]
fn what_was_never_acknowledged_goes_and_strangers_stay() {
    let temp = tempfile::tempdir().unwrap();
    let id = {
        let spool = Spool::open(temp.path()).unwrap();
        stored(&spool, &["<mary@example.net>"])
    };
    let whole = fs::read(temp.path().join(id.to_string())).unwrap();
    // States 2 and 3: torn, and whole but not renamed.
    fs::write(temp.path().join("00000000000000a1.new"), &whole[..100]).unwrap();
    fs::write(temp.path().join("00000000000000a2.new"), &whole).unwrap();
    // Strangers, one with a name of ours.
    fs::write(temp.path().join("README"), "hello").unwrap();
    fs::write(temp.path().join("00000000000000A3"), &whole).unwrap();
    fs::create_dir(temp.path().join("00000000000000a4")).unwrap();
    std::os::unix::fs::symlink("README", temp.path().join("00000000000000a5")).unwrap();
    fs::write(temp.path().join("appending.1"), "note").unwrap();

    let spool = reopen(temp.path());
    assert_eq!(scan(&spool).into_keys().collect::<Vec<_>>(), [id]);
    scan(&spool);
    let left = [
        "00000000000000A3",
        "00000000000000a4",
        "00000000000000a5",
        "README",
        "appending.1",
    ];
    for name in left {
        assert!(temp.path().join(name).symlink_metadata().is_ok(), "{name}");
    }
    assert_eq!(names(temp.path()).len(), left.len() + 1);
    assert!(spool.load(id).unwrap().is_some());
}

#[test]
fn damaged_files_are_moved_aside() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let whole = fs::read(file(&spool, stored(&spool, &["<mary@example.net>"]))).unwrap();
    let rows: [(&str, Vec<u8>); 8] = [
        ("of zero length", Vec::new()),
        ("cut in the envelope", whole[..150].to_vec()),
        ("cut in the message", whole[..whole.len() - 1].to_vec()),
        ("longer than it says", [&whole[..], b"x"].concat()),
        (
            "garbage",
            (0..20_000u32).map(|n| ((n * 7919) >> 3) as u8).collect(),
        ),
        ("zeroes", vec![0; 5_000]),
        (
            "an envelope without end",
            [b"smtpd788 spool 1\n", &[b'x'; 100_000][..]].concat(),
        ),
        ("another's name", whole.clone()),
    ];
    for (n, (what, bytes)) in rows.iter().enumerate() {
        let id = Id::parse(&format!("{:016x}", 0xb0 + n)).unwrap();
        for again in ["", ".1", ".2"] {
            fs::write(file(&spool, id), bytes).unwrap();
            assert!(spool.load(id).unwrap().is_none(), "{what}");
            assert!(!file(&spool, id).exists(), "{what}");
            let kept = spool.dir().join(format!("corrupt/{id}{again}"));
            assert_eq!(fs::read(kept).unwrap(), *bytes, "{what}");
        }
    }
    assert_eq!(scan(&spool).len(), 1);
}

#[test]
fn a_state_torn_by_a_crash_is_tried_again() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let id = stored(&spool, &["<mary@example.net>"]);
    let bytes = fs::read(file(&spool, id)).unwrap();
    let at = bytes.windows(8).position(|w| w == b"waiting ").unwrap();
    let handle = fs::OpenOptions::new()
        .write(true)
        .open(file(&spool, id))
        .unwrap();
    handle.write_all_at(b"done", at as u64).unwrap();
    let queued = spool.load(id).unwrap().unwrap();
    assert_eq!(queued.recipients[0].state, State::Waiting);
}

#[test]
fn the_table_reads_the_files_alone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("none");
    let missing = spool::table(&dir).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let spool = Spool::open(&dir).unwrap();
    assert_eq!(spool::table(&dir).unwrap(), None);
    let id = stored(&spool, &["<mary@example.net>", "<fred@example.com>"]);
    let mut queued = spool.load(id).unwrap().unwrap();
    queued.finish_recipient(0, "mx said: 250 OK").unwrap();
    queued.note(1, "mx said: 451 later").unwrap();
    fs::write(dir.join("00000000000000aa"), "").unwrap();
    let table = spool::table(&dir).unwrap().unwrap();
    assert!(
        table.contains(&id.to_string()) && table.contains("<fred@example.com>"),
        "{table}"
    );
    assert!(
        table.contains("mx said: 451 later") && !table.contains("mary"),
        "{table}"
    );
    assert!(
        table.ends_with("2 messages, 1 recipient waiting\n"),
        "{table}"
    );
    // Reading changes nothing.
    assert!(dir.join("00000000000000aa").exists());
}
