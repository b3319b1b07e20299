//! What others on the machine have done: links, locks and files in a mailbox's way, a mailbox that was removed.

use crate::common::daemon::{Daemon, Setup, messages, wait_until};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

/// Of no account.
const MALLORY: u32 = 54_321;

fn is_root() -> bool {
    Uid::effective().is_root()
}

struct Running(Child);

impl Running {
    fn begin() -> Running {
        Running(Command::new("sleep").arg("600").spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lock(path: &Path, text: &str, date: SystemTime) {
    fs::write(path, text).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(date).unwrap();
}

fn count(daemon: &Daemon, mbox: &str) -> usize {
    messages(&daemon.read(mbox)).len()
}

#[test]
fn a_lock_that_outlived_a_power_cut_holds_no_mail() {
    let daemon = Setup::default().start();
    let recycled = Running::begin().0.id().to_string();
    let sleep = Running::begin();
    let day = Duration::from_secs(86_400);
    let mut client = daemon.greeted();
    let ages = [
        SystemTime::UNIX_EPOCH,
        SystemTime::UNIX_EPOCH + day,
        SystemTime::now() - 3 * day,
    ];
    let texts = [
        "",
        "1\n",
        &format!("{}\n", sleep.0.id()),
        &format!("{recycled}\nhost"),
        "somebody",
    ];
    let mut mails = 0;
    for date in ages {
        for text in texts {
            lock(&daemon.path("jack.lock"), text, date);
            client.mail("a@b", "jack@mail.example", "x\r\n");
            mails += 1;
            assert_eq!(count(&daemon, "jack"), mails, "{text:?} {date:?}");
            assert!(!daemon.path("jack.lock").exists());
        }
    }
    assert_eq!(daemon.matching("deferred"), [""; 0]);
}

#[test]
fn a_lock_of_a_living_process_holds_mail_and_the_log_names_it() {
    let sleep = Running::begin();
    let setup = Setup::default();
    let path = setup.folder.path().join("jack.lock");
    let daemon = setup.start();
    lock(&path, &format!("{}\n", sleep.0.id()), SystemTime::now());
    let id = daemon.greeted().mail("a@b", "jack@mail.example", "x\r\n");
    assert!(!id.is_empty());
    let said = daemon.wait_for("is locked");
    let pid = sleep.0.id();
    assert!(
        said.contains(&format!("jack.lock is held by process {pid}")),
        "{said}"
    );
    assert_eq!(count(&daemon, "jack"), 0);
    // Once a wait, not once a look.
    assert_eq!(daemon.matching("is locked").len(), 1);
    drop(sleep);
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for("delivered id=");
    assert_eq!(count(&daemon, "jack"), 1);
}

#[test]
fn a_mailbox_that_was_removed_is_made_again_if_its_parent_is_there() {
    let setup = Setup::default().users("john:{dir}/mbox/john/\nann:{dir}/mbox/a/b/ann\n");
    let daemon = setup.start();
    let mut client = daemon.greeted();
    for turn in 0..3 {
        client.mail("a@b", "john@mail.example", "x\r\n");
        assert_eq!(count(&daemon, "mbox/john/mbox"), 1, "turn {turn}");
        fs::remove_dir_all(daemon.path("mbox/john")).unwrap();
    }
    assert_eq!(daemon.matching("deferred"), [""; 0]);
    // Of what is gone in several steps, something else is wrong: a disk that is not mounted, say.
    fs::remove_dir_all(daemon.path("mbox/a")).unwrap();
    client.mail("a@b", "ann@mail.example", "x\r\n");
    daemon.wait_for("deferred id=");
    assert!(!daemon.path("mbox/a").exists());
    fs::create_dir(daemon.path("mbox/a")).unwrap();
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_count("delivered id=", 4);
    assert_eq!(count(&daemon, "mbox/a/b/ann"), 1);
}

/// As root: john owns what is his, and swaps his folder for a link.
#[test]
fn a_users_link_leads_nobody_into_the_folders_of_others() {
    if !is_root() {
        return; // cannot give a link away
    }
    let setup = Setup::default().users("john:{dir}/home/mail/inbox\n");
    let dir = setup.folder.path().to_owned();
    fs::create_dir_all(dir.join("home/mail")).unwrap();
    fs::create_dir(dir.join("secret")).unwrap();
    fs::write(dir.join("secret/inbox"), "hers\n\n").unwrap();
    let daemon = setup.start();
    let mut client = daemon.greeted();
    client.mail("a@b", "john@mail.example", "x\r\n");
    let swap = |target: &str| {
        fs::rename(dir.join("home/mail"), dir.join("home/kept")).unwrap();
        symlink(target, dir.join("home/mail")).unwrap();
    };
    let back = || {
        fs::remove_file(dir.join("home/mail")).unwrap();
        fs::rename(dir.join("home/kept"), dir.join("home/mail")).unwrap();
    };
    let whole = dir.join("secret").to_str().unwrap().to_owned();
    for (turn, target) in [&*whole, "../secret", "../home/../secret/"]
        .into_iter()
        .enumerate()
    {
        swap(target);
        lchown(dir.join("home/mail"), Some(MALLORY), None).unwrap();
        client.mail("a@b", "john@mail.example", "x\r\n");
        let said = daemon.wait_for_count("is a link of user 54321", turn + 1);
        assert!(said[turn].contains("deferred id="), "{said:?}");
        assert_eq!(
            fs::read_to_string(dir.join("secret/inbox")).unwrap(),
            "hers\n\n"
        );
        assert_eq!(fs::read_dir(dir.join("secret")).unwrap().count(), 1);
        back();
    }
    // Root's own link is followed.
    swap("../secret");
    client.mail("a@b", "john@mail.example", "x\r\n");
    assert!(daemon.read("secret/inbox").starts_with("hers\n\nFrom a@b "));
}

#[test]
fn in_a_folder_for_all_nobody_gets_or_holds_the_mail_of_another() {
    if !is_root() {
        return; // cannot give files away
    }
    // An account that every system has, for the good case.
    let daemon_user = User::from_name("daemon").unwrap().unwrap().uid.as_raw();
    for mode in [0o1777, 0o777] {
        let users = "ann:{dir}/all/ann\nbob:{dir}/all/bob/\ndaemon:{dir}/all/daemon\n";
        let setup = Setup::default().users(users);
        let all = setup.folder.path().join("all");
        fs::create_dir(&all).unwrap();
        fs::set_permissions(&all, Permissions::from_mode(mode)).unwrap();
        let sleep = Running::begin();
        let daemon = setup.start();
        let mut client = daemon.greeted();
        // Somebody's lock does not count.
        lock(
            &all.join("ann.lock"),
            &sleep.0.id().to_string(),
            SystemTime::now(),
        );
        chown(all.join("ann.lock"), Some(MALLORY), None).unwrap();
        client.mail("a@b", "ann@mail.example", "x\r\n");
        assert_eq!(count(&daemon, "all/ann"), 1);
        daemon.wait_for("user 54321 has no business with this mailbox");
        // Nor is somebody's file or folder written to.
        fs::remove_file(all.join("ann")).unwrap();
        fs::write(all.join("ann"), "").unwrap();
        chown(all.join("ann"), Some(MALLORY), None).unwrap();
        client.mail("a@b", "ann@mail.example", "x\r\n");
        daemon.wait_for("a file of user 54321 where everybody may write");
        assert_eq!(daemon.read("all/ann"), "");
        chown(all.join("bob"), Some(MALLORY), None).unwrap();
        client.mail("a@b", "bob@mail.example", "x\r\n");
        daemon.wait_for("bob on the way lies where everybody may write");
        assert!(!all.join("bob/mbox").exists());
        // The account's own file and lock are.
        fs::write(all.join("daemon"), "").unwrap();
        chown(all.join("daemon"), Some(daemon_user), None).unwrap();
        client.mail("a@b", "daemon@mail.example", "x\r\n");
        assert_eq!(count(&daemon, "all/daemon"), 1);
    }
}

/// RUN_AS: the daemon gives away the folders that it makes, and nothing that a link leads to.
#[test]
fn folders_for_run_as_are_made_through_no_link_of_others() {
    if !is_root() {
        return; // cannot become somebody else
    }
    let users = "john:{dir}/home/a/b/inbox\nann:{dir}/home/ann/\n";
    let setup = Setup::with("RUN_AS = nobody\n").users(users);
    let dir = setup.folder.path().to_owned();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.join("target")).unwrap();
    fs::create_dir(dir.join("home")).unwrap();
    symlink("../target", dir.join("home/a")).unwrap();
    lchown(dir.join("home/a"), Some(MALLORY), None).unwrap();
    // A user cannot stop the mail of all others with it.
    let daemon = setup.start();
    daemon.wait_for("is a link of user 54321");
    daemon.greeted().mail("a@b", "ann@mail.example", "x\r\n");
    assert_eq!(count(&daemon, "home/ann/mbox"), 1);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for("reloaded");
    assert_eq!(fs::read_dir(dir.join("target")).unwrap().count(), 0);
    let folder = daemon.kill();
    // Without it they are made and given to the user.
    fs::remove_file(dir.join("home/a")).unwrap();
    let daemon = Setup {
        folder,
        ..Setup::with("RUN_AS = nobody\n").users(users)
    }
    .start();
    daemon.greeted().mail("a@b", "john@mail.example", "x\r\n");
    wait_until("it is there", || count(&daemon, "home/a/b/inbox") == 1);
}

/// What cannot be read cannot be synced, and without a sync there is no 250.
#[test]
fn a_folder_that_may_be_written_but_not_read_gets_no_mail() {
    if !is_root() {
        return; // cannot become somebody else
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let setup = Setup::with("RUN_AS = nobody\n").users("john:{dir}/blind/john\nann:{dir}/ann/\n");
    let dir = setup.folder.path().to_owned();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    let blind = dir.join("blind");
    fs::create_dir(&blind).unwrap();
    chown(&blind, Some(nobody.uid.as_raw()), None).unwrap();
    fs::set_permissions(&blind, Permissions::from_mode(0o300)).unwrap();
    let daemon = setup.start();
    daemon.wait_for("may write but not read");
    let mut client = daemon.greeted();
    client.mail("a@b", "john@mail.example", "x\r\n");
    let said = daemon.wait_for("deferred id=");
    assert!(said.contains("may be written but not read"), "{said}");
    assert_eq!(count(&daemon, "blind/john"), 0);
    client.mail("a@b", "ann@mail.example", "x\r\n");
    assert_eq!(count(&daemon, "ann/mbox"), 1);
    fs::set_permissions(&blind, Permissions::from_mode(0o700)).unwrap();
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for_count("delivered id=", 2);
    assert_eq!(count(&daemon, "blind/john"), 1);
}
