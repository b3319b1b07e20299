//! What a mailbox path may name, and what may become of the file between two messages.

use super::place::{Place, copy, expected};
use smtpd788::mailbox::{MailboxError, Mailboxes};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn what_is_no_plain_file_is_refused_at_once() {
    let place = Place::new();
    let mailboxes = place.open();
    let target = place.folder.path().join("target");
    fs::write(&target, "mine\n\n").unwrap();
    type Make<'a> = (&'a str, &'a dyn Fn(&Path));
    let make: [Make; 5] = [
        ("symbolic link", &|mbox| {
            std::os::unix::fs::symlink(&target, mbox).unwrap();
        }),
        ("symbolic link", &|mbox| {
            std::os::unix::fs::symlink("/nowhere", mbox).unwrap();
        }),
        ("hard links", &|mbox| fs::hard_link(&target, mbox).unwrap()),
        ("FIFO", &|mbox| {
            nix::unistd::mkfifo(mbox, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("socket", &|mbox| {
            drop(std::os::unix::net::UnixListener::bind(mbox).unwrap());
        }),
    ];
    for cached in [false, true] {
        for (what, make) in &make {
            if cached {
                // Swapped between two messages, the old file being kept open.
                mailboxes.deliver(&place.mbox, copy("x\n")).unwrap();
                fs::remove_file(&place.mbox).unwrap();
            }
            make(&place.mbox);
            match mailboxes.deliver(&place.mbox, copy("no\n")) {
                Err(MailboxError::NotAFile(why)) => assert!(why.contains(what), "{why}"),
                other => panic!("{other:?}"),
            }
            fs::remove_file(&place.mbox).unwrap();
        }
    }
    fs::create_dir(&place.mbox).unwrap();
    let refused = mailboxes.deliver(&place.mbox, copy("no\n"));
    assert!(matches!(refused, Err(MailboxError::NotAFile(why)) if why.contains("directory")));
    assert_eq!(fs::read(&target).unwrap(), b"mine\n\n");
    assert!(!place.lock().exists());
}

#[test]
fn a_file_replaced_or_removed_or_emptied_between_two_messages() {
    let place = Place::new();
    let mailboxes = place.open();
    mailboxes.deliver(&place.mbox, copy("1\n")).unwrap();
    let old = File::open(&place.mbox).unwrap();
    let new = place.folder.path().join("new");
    fs::write(&new, "kept\n\n").unwrap();
    fs::rename(&new, &place.mbox).unwrap();
    mailboxes.deliver(&place.mbox, copy("2\n")).unwrap();
    assert_eq!(place.content(), format!("kept\n\n{}", expected(&["2\n"])));
    assert_eq!(
        old.metadata().unwrap().len(),
        expected(&["1\n"]).len() as u64
    );
    fs::remove_file(&place.mbox).unwrap();
    mailboxes.deliver(&place.mbox, copy("3\n")).unwrap();
    assert_eq!(place.content(), expected(&["3\n"]));
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&place.mbox)
        .unwrap();
    mailboxes.deliver(&place.mbox, copy("4\n")).unwrap();
    assert_eq!(place.content(), expected(&["4\n"]));
}

#[test]
fn two_names_of_one_mailbox_share_it_and_a_moved_directory_is_found_again() {
    let place = Place::new();
    let mailboxes = place.open();
    let (one, two, link) = (
        place.folder.path().join("one"),
        place.folder.path().join("two"),
        place.folder.path().join("link"),
    );
    mailboxes.prepare(&one.join("mbox")).unwrap();
    std::os::unix::fs::symlink(&one, &link).unwrap();
    std::thread::scope(|scope| {
        for name in [
            one.join("mbox"),
            link.join("mbox"),
            one.join("../link/mbox"),
            one.join("./mbox"),
        ] {
            let mailboxes = &mailboxes;
            scope.spawn(move || {
                (0..20).for_each(|_| mailboxes.deliver(&name, copy("x\n")).unwrap());
            });
        }
    });
    assert_eq!(
        fs::read_to_string(one.join("mbox")).unwrap(),
        expected(&["x\n"; 80])
    );
    fs::rename(&one, &two).unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&two, &link).unwrap();
    // Looked at anew for each message.
    mailboxes.deliver(&link.join("mbox"), copy("y\n")).unwrap();
    let all = [&["x\n"; 80][..], &["y\n"]].concat();
    assert_eq!(
        fs::read_to_string(two.join("mbox")).unwrap(),
        expected(&all)
    );
}

#[test]
fn more_mailboxes_than_are_kept_open() {
    let place = Place::new();
    let mailboxes = place.open();
    // Those of this mailbox's folder: other tests of this process have files of their own open.
    let descriptors = || {
        let all = fs::read_dir("/proc/self/fd").unwrap();
        all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|file| file.starts_with(place.folder.path()))
            .count()
    };
    let before = descriptors();
    for round in 0..2 {
        for n in 0..400 {
            mailboxes
                .deliver(
                    &place.folder.path().join(format!("m{n}")),
                    copy(format!("{round}\n")),
                )
                .unwrap();
        }
    }
    let after = descriptors();
    assert!(
        before < after && after <= before + 256,
        "{after} from {before}"
    );
    for n in 0..400 {
        let content = fs::read_to_string(place.folder.path().join(format!("m{n}"))).unwrap();
        assert_eq!(content, expected(&["0\n", "1\n"]));
    }
}

#[test]
fn missing_directories_are_made_private() {
    let place = Place::new();
    let mailboxes = place.open();
    let mbox = place.folder.path().join("a/b/c/mbox");
    assert!(mailboxes.deliver(&mbox, copy("x\n")).is_err());
    mailboxes.prepare(&mbox).unwrap();
    mailboxes.prepare(&mbox).unwrap();
    mailboxes.deliver(&mbox, copy("x\n")).unwrap();
    for directory in ["a", "a/b", "a/b/c"] {
        let mode = fs::metadata(place.folder.path().join(directory))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    mailboxes.prepare(Path::new("mbox")).unwrap();
    fs::write(place.folder.path().join("file"), "").unwrap();
    mailboxes
        .prepare(&place.folder.path().join("file/mbox"))
        .unwrap_err();
}

#[test]
fn without_a_spool_it_works_and_leaves_nothing_but_the_mailbox() {
    let folder = tempfile::tempdir().unwrap();
    let (mailboxes, _) = Mailboxes::open(None).unwrap();
    mailboxes
        .deliver(&folder.path().join("mbox"), copy("x\n"))
        .unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
