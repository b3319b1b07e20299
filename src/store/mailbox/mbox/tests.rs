//! What an append leaves behind when it fails, and who may cut it: the inside of one mbox. The whole of it, with
//! processes that are killed, is in `tests/it/store/mailbox`.

use super::*;
use crate::message::Body;
use crate::store::mailbox::mbox::journal::Sum;
use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const BEFORE: &str = "From b\n\nbefore\n\n";
const HEADING: &str = "From a\n";
const PAGE: usize = 4096;

fn message(body: &str) -> MailboxMessage {
    MailboxMessage {
        heading: Arc::from(HEADING.as_bytes()),
        body: Arc::new(Body::from_bytes(body.as_bytes().to_vec())),
    }
}

fn written(body: &str) -> String {
    format!("{HEADING}{body}\n")
}

/// A mailbox that holds [`BEFORE`].
struct Room {
    _folder: tempfile::TempDir,
    path: PathBuf,
    mbox: Arc<Mbox>,
}

impl Room {
    fn new() -> Room {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("mbox");
        fs::write(&path, BEFORE).unwrap();
        let shared = Shared::new(None, Dotlocks::new(None), Duration::from_millis(50));
        let key = Place::find(&path, false).unwrap().key();
        let mbox = Mbox::new(Arc::new(shared), key);
        Room {
            _folder: folder,
            path,
            mbox,
        }
    }

    fn content(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    fn deliver(&self, body: &str) -> Result<(), MailboxError> {
        let place = Place::find(&self.path, false).unwrap();
        self.mbox.append(&place, &[message(body)]).remove(0)
    }

    fn open(&self) -> Open {
        let place = Place::find(&self.path, false).unwrap();
        place.open(false).unwrap().unwrap()
    }

    /// An append that begins at the mailbox's end.
    fn pending(&self, ours: bool) -> PendingAppend {
        let found = fs::metadata(&self.path).unwrap();
        let entry = Entry {
            path: self.path.clone(),
            id: (found.dev(), found.ino()),
            from: found.len(),
            ends: Vec::new(),
            whole: false,
        };
        PendingAppend {
            slot: None,
            entry,
            ours,
        }
    }

    /// Writes a message of ours and leaves it pending, as when it can be neither synced nor cut.
    fn leave_pending(&self, body: &str) {
        let mut pending = self.pending(true);
        let open = self.open();
        let mut append = Append::new(&open.file, &mut pending, b"");
        append.write(&[message(body)], true).unwrap();
        self.mbox.state().pending = Some(pending);
    }
}

#[test]
fn what_could_not_be_cut_is_cut_before_the_next_message() {
    let room = Room::new();
    room.leave_pending("nobody was told\n");
    room.deliver("1\n").unwrap();
    assert_eq!(room.content(), format!("{BEFORE}{}", written("1\n")));
}

#[test]
fn what_could_not_be_cut_stays_if_others_have_written_since() {
    type Change<'a> = (&'a str, &'a dyn Fn(&Path, usize));
    let all = written(&"long\n".repeat(PAGE));
    let changes: [Change; 5] = [
        ("a reader shortened the file", &|path, len| {
            fs::write(path, &all[..len - 100]).unwrap();
        }),
        ("to where a page of ours ends", &|path, len| {
            fs::write(path, &all[..len / PAGE * PAGE]).unwrap();
        }),
        ("and it has the old length again", &|path, len| {
            fs::write(path, &all[..len]).unwrap();
        }),
        ("somebody emptied it", &|path, _| {
            fs::write(path, "").unwrap();
        }),
        ("another agent delivered", &|path, _| {
            let mut mbox = OpenOptions::new().append(true).open(path).unwrap();
            mbox.write_all(b"From c\n\nx\n\n").unwrap();
        }),
    ];
    for (what, change) in changes {
        let room = Room::new();
        room.leave_pending(&"not told\n".repeat(1000));
        change(&room.path, room.content().len());
        let before = room.content();
        room.deliver("1\n").unwrap();
        let content = room.content();
        assert!(content.starts_with(&before), "{what}");
        let rest = content[before.len()..].trim_start_matches('\n');
        assert_eq!(rest, written("1\n"), "{what}");
    }
}

#[test]
fn an_entry_explains_exactly_what_a_killed_write_can_leave() {
    let room = Room::new();
    let (from, body) = (BEFORE.len(), "x".repeat(3 * PAGE));
    let mut pending = room.pending(false);
    let open = room.open();
    let mut append = Append::new(&open.file, &mut pending, b"");
    append.write(&[message(&body)], true).unwrap();
    let (content, to) = (room.content(), room.content().len());
    let mbox = OpenOptions::new().write(true).open(&room.path).unwrap();
    mbox.write_all_at(b"y", to as u64).unwrap();
    for size in (from - 1..=to + 1).rev() {
        // The end of the last page and the whole are the file's own, the others are cut from it.
        let torn = size > from && size < to && size.is_multiple_of(PAGE);
        mbox.set_len(size as u64).unwrap();
        let explains = |id, torn| {
            (pending.entry)
                .explains(&open.file, id, size as u64, torn)
                .unwrap()
        };
        assert_eq!(explains(open.id, true), torn, "{size}");
        assert_eq!(explains(open.id, false), torn || size == to, "{size}");
        assert!(!explains((open.id.0, open.id.1 + 1), false));
        if torn {
            for at in [from, size - 1] {
                mbox.write_all_at(b"z", at as u64).unwrap();
                assert!(!explains(open.id, true), "{size} {at}");
                let octet = &content.as_bytes()[at..=at];
                mbox.write_all_at(octet, at as u64).unwrap();
            }
        }
    }
}

#[test]
fn a_checksum_is_the_same_however_the_octets_are_split() {
    let text = b"0123456789".repeat(2000);
    let mut whole = Sum::new(7);
    whole.advance(&[IoSlice::new(&text)], usize::MAX);
    for size in [1, 3, 8, 63, PAGE - 7, PAGE, 10_000] {
        let parts: Vec<_> = text.chunks(size).map(IoSlice::new).collect();
        let mut split = Sum::new(7);
        split.advance(&parts, usize::MAX);
        assert_eq!(split.end(), whole.end());
        // A write that was cut short, and its rest.
        let mut short = Sum::new(7);
        short.advance(&parts, 12_345);
        assert_eq!(short.at, 7 + 12_345);
        short.advance(&[IoSlice::new(&text[12_345..])], usize::MAX);
        assert_eq!(short.end(), whole.end());
    }
}

#[test]
fn a_file_changed_between_two_writes_gets_no_hole_and_is_never_made_longer() {
    for left in ["", "From c\n\nx\n\n", BEFORE] {
        let room = Room::new();
        let mut pending = room.pending(true);
        let open = room.open();
        let mut append = Append::new(&open.file, &mut pending, b"");
        let start = append.mark();
        let first = message(&"1\n".repeat(50));
        append.write(std::slice::from_ref(&first), false).unwrap();
        // As `> mbox` in a shell.
        fs::write(&room.path, left).unwrap();
        append.write(&[message("2\n")], true).unwrap_err();
        let content = room.content();
        assert_eq!(content, format!("{left}{}", written("2\n")));
        assert!(!append.back_to(start).unwrap());
        assert_eq!(room.content(), content);
    }
}

#[test]
fn a_message_that_lost_its_head_meanwhile_is_not_called_delivered() {
    let body = "a line of a long message\n".repeat(200_000);
    let whole = written(&body);
    let spoiled = (0..500).any(|_| {
        let room = Room::new();
        fs::write(&room.path, "").unwrap();
        let outcome = std::thread::scope(|scope| {
            let delivery = scope.spawn(|| room.deliver(&body));
            // As `> mbox` in a shell, without a lock, once the beginning is there.
            while fs::metadata(&room.path).unwrap().len() == 0 && !delivery.is_finished() {}
            fs::write(&room.path, "").unwrap();
            delivery.join().unwrap()
        });
        let content = room.content();
        assert!(!content.contains('\0'));
        match outcome {
            // It was emptied after all of it had been there, or before any of it.
            Ok(()) => assert!(content.is_empty() || content == whole, "{}", content.len()),
            Err(_) => room.deliver(&body).unwrap(),
        }
        outcome.is_err() && room.content().ends_with(&whole)
    });
    assert!(spoiled);
}

#[test]
fn a_descriptor_whose_lock_failed_is_not_used_again() {
    let room = Room::new();
    let open = room.open();
    // fcntl_locking(2): a write lock wants a file open for writing, EBADF else.
    let read_only = Open {
        file: Arc::new(File::open(&room.path).unwrap()),
        ..open
    };
    room.mbox.state().open = Some(read_only);
    room.deliver("1\n").unwrap_err();
    room.deliver("2\n").unwrap();
    assert_eq!(room.content(), format!("{BEFORE}{}", written("2\n")));
}

#[test]
fn entries_that_were_not_cleared_are_found_again_in_their_slots() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, found) = Journal::open(folder.path()).unwrap();
    assert!(found.is_empty());
    let all = ["/a very much longer path", "/b b\n\u{e9}", "/c"].map(|path| Entry {
        path: path.into(),
        id: (7, u64::MAX),
        from: path.len() as u64,
        ends: (0..path.len() as u64).map(|n| (n, u64::MAX - n)).collect(),
        whole: path.len() == 2,
    });
    let slots: Vec<_> = all.iter().map(|_| journal.slot()).collect();
    for (slot, entry) in slots.iter().zip(&all) {
        slot.write(entry).unwrap();
    }
    slots[0].clear().unwrap();
    drop((slots, journal));
    let (journal, found) = Journal::open(folder.path()).unwrap();
    assert!(found.iter().map(|(_, entry)| entry).eq(&all[1..]));
    // The slot that was cleared is taken before a new one, and a shorter path leaves no
    // trace of the longer.
    let slots = [journal.slot(), journal.slot()];
    slots[0].write(&all[2]).unwrap();
    slots[1].write(&all[1]).unwrap();
    drop((slots, found, journal));
    let (_, found) = Journal::open(folder.path()).unwrap();
    let found: Vec<_> = found.iter().map(|(_, entry)| entry).collect();
    assert_eq!(found, [&all[2], &all[1], &all[2], &all[1]]);
}

#[test]
fn a_path_that_does_not_fit_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(folder.path()).unwrap();
    let entry = Entry {
        path: "/".repeat(PAGE).into(),
        id: (1, 2),
        from: 3,
        ends: Vec::new(),
        whole: false,
    };
    journal.slot().write(&entry).unwrap_err();
}

/// On NFS a descriptor can be broken for good (ESTALE); one that may not be locked stands for it.
#[test]
fn a_descriptor_whose_lock_call_fails_is_not_used_again() {
    let room = Room::new();
    room.deliver("1\n").unwrap();
    for turn in ["2\n", "3\n"] {
        let broken = Arc::new(File::open(&room.path).unwrap());
        room.mbox.state().open.as_mut().unwrap().file = broken;
        let error = room.deliver("no\n").unwrap_err();
        assert!(matches!(&error, MailboxError::Io(_)), "{error}");
        room.deliver(turn).unwrap();
    }
    let all = ["1\n", "2\n", "3\n"].map(written).concat();
    assert_eq!(room.content(), format!("{BEFORE}{all}"));
}

#[test]
fn files_that_could_not_be_closed_while_in_use_are_closed_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut shared = Shared::new(None, Dotlocks::new(None), Duration::ZERO);
    shared.kept_open = 2;
    let shared = Arc::new(shared);
    let boxes: Vec<_> = (0..7)
        .map(|n| {
            let path = folder.path().join(n.to_string());
            let place = Place::find(&path, false).unwrap();
            let mbox = Mbox::new(Arc::clone(&shared), place.key());
            (place, mbox)
        })
        .collect();
    let deliver = |n: usize| {
        let (place, mbox) = &boxes[n];
        assert!(mbox.append(place, &[message("new\n")])[0].is_ok());
    };
    let open = || boxes.iter().filter(|b| b.1.state().open.is_some()).count();
    let mut at_work = Vec::new();
    for (n, (_, mbox)) in boxes[..5].iter().enumerate() {
        deliver(n);
        at_work.push(mbox.state());
    }
    drop(at_work);
    assert_eq!(open(), 5);
    deliver(5);
    assert_eq!(open(), 2);
    deliver(6);
    assert_eq!(open(), 2);
}
