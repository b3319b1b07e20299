//! Locks of other programs, and dotlocks that nobody holds any more.

use super::place::{Place, copy, expected};
use smtpd788::mailbox::MailboxError;
use std::fs::{self, File, OpenOptions};
use std::time::{Duration, SystemTime};

#[test]
fn the_lock_of_another_is_waited_for_and_then_the_mailbox_is_busy() {
    use nix::{
        fcntl::{FcntlArg, fcntl},
        libc,
    };
    let place = Place::new();
    let mailboxes = place.open();
    mailboxes.deliver(&place.mbox, copy("1\n")).unwrap();
    // An OFD lock of another open file excludes as another process's does.
    let other = OpenOptions::new().write(true).open(&place.mbox).unwrap();
    let set = |kind: i32| {
        let lock = libc::flock {
            l_type: kind as i16,
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&other, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    };
    set(libc::F_WRLCK);
    assert!(matches!(
        mailboxes.deliver(&place.mbox, copy("no\n")),
        Err(MailboxError::Busy)
    ));
    // Whoever comes after that has one quick look; after a delivery it is worth waiting again.
    set(libc::F_UNLCK);
    mailboxes.deliver(&place.mbox, copy("free\n")).unwrap();
    set(libc::F_WRLCK);
    mailboxes.set_patience(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mailboxes.deliver(&place.mbox, copy("2\n")));
        set(libc::F_UNLCK);
        waiting.join().unwrap().unwrap();
    });
    let mut live = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    fs::write(place.lock(), live.id().to_string()).unwrap();
    mailboxes.set_patience(Duration::from_millis(50));
    assert!(matches!(
        mailboxes.deliver(&place.mbox, copy("no\n")),
        Err(MailboxError::Busy)
    ));
    live.kill().unwrap();
    live.wait().unwrap();
    mailboxes.deliver(&place.mbox, copy("3\n")).unwrap();
    assert_eq!(place.content(), expected(&["1\n", "free\n", "2\n", "3\n"]));
}

/// Each who waits is a client's thread: they must not gather where one mailbox is locked for long.
#[test]
fn who_finds_a_mailbox_busy_for_long_is_the_last_to_wait() {
    let place = Place::new();
    let mailboxes = place.open();
    let patience = Duration::from_secs(1);
    mailboxes.set_patience(patience);
    fs::write(place.lock(), "1\n").unwrap(); // a process that is there
    let wait = || {
        let begun = std::time::Instant::now();
        let outcome = mailboxes.deliver(&place.mbox, copy("1\n"));
        assert!(matches!(outcome, Err(MailboxError::Busy)));
        begun.elapsed()
    };
    assert!(wait() >= patience);
    for _ in 0..3 {
        assert!(wait() < patience);
    }
    fs::remove_file(place.lock()).unwrap();
    mailboxes.deliver(&place.mbox, copy("1\n")).unwrap();
    fs::write(place.lock(), "1\n").unwrap();
    assert!(wait() >= patience, "it is worth waiting again");
}

#[test]
#[ignore = "needs python3"]
fn a_posix_lock_of_another_process_excludes_us() {
    use std::io::Read;
    let place = Place::new();
    let mailboxes = place.open();
    mailboxes.deliver(&place.mbox, copy("1\n")).unwrap();
    let script = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f,fcntl.LOCK_EX); print('held',flush=True); sys.stdin.read()";
    let mut python = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&place.mbox)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    python
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 5])
        .unwrap();
    assert!(matches!(
        mailboxes.deliver(&place.mbox, copy("no\n")),
        Err(MailboxError::Busy)
    ));
    drop(python.stdin.take());
    python.wait().unwrap();
    mailboxes.deliver(&place.mbox, copy("2\n")).unwrap();
    assert_eq!(place.content(), expected(&["1\n", "2\n"]));
}

#[test]
fn a_stale_dotlock_of_a_killed_process_delays_nobody() {
    let place = Place::new();
    let mailboxes = place.open();
    fs::write(place.lock(), std::process::id().to_string()).unwrap();
    mailboxes.deliver(&place.mbox, copy("1\n")).unwrap();
    File::create(place.lock())
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_secs(400))
        .unwrap();
    mailboxes.deliver(&place.mbox, copy("2\n")).unwrap();
    assert_eq!(place.content(), expected(&["1\n", "2\n"]));
    assert!(!place.lock().exists());
}
