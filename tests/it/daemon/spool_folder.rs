//! SPOOL_DIR: whose it is, who has it, and what happens when it goes away or its disk is full.

use crate::common::daemon::{Daemon, Folder, Setup, messages, program};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const MALLORY: u32 = 54_321;
/// No mail leaves: nobody answers there.
const NOWHERE: &str = "NAMESERVER = 127.0.0.1:9\n";

fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(71), "{said}");
    said
}

#[test]
fn a_folder_that_others_own_or_may_write_in_is_refused() {
    let root = Uid::effective().is_root();
    for (mode, owner, group, why) in [
        (0o777, None, None, Some("can be written to by everybody")),
        (0o1777, None, None, Some("can be written to by everybody")),
        (0o702, None, None, Some("can be written to by everybody")),
        (
            0o770,
            None,
            Some(MALLORY),
            Some("can be written to by group 54321"),
        ),
        (0o700, Some(MALLORY), None, Some("belongs to user 54321")),
        (0o770, None, None, None),
        (0o755, None, Some(MALLORY), None),
    ] {
        if !root && (owner.is_some() || group.is_some()) {
            continue; // cannot give a folder away
        }
        let setup = Setup::default();
        let spool = setup.folder.path().join("spool");
        fs::create_dir(&spool).unwrap();
        chown(&spool, owner, group).unwrap();
        fs::set_permissions(&spool, Permissions::from_mode(mode)).unwrap();
        match why {
            Some(why) => {
                for arguments in [
                    &["mail.conf", "user.conf"][..],
                    &["-t", "mail.conf", "user.conf"],
                ] {
                    setup.write();
                    let mut command = program();
                    command.args(arguments).current_dir(setup.folder.path());
                    let said = refusal(command);
                    assert!(said.contains(why), "{said}");
                }
                assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
            }
            None => drop(setup.start()),
        }
    }
}

#[test]
fn a_planted_file_is_left_alone() {
    if !Uid::effective().is_root() {
        return; // cannot give a file away
    }
    let first = Setup::with(NOWHERE).start();
    let id = first.greeted().mail("a@b", "x@far.example", "ours\r\n");
    let folder = first.kill();
    let ours = folder.path().join("spool").join(&id);
    let planted = folder.path().join("spool/00000000000000aa");
    let text = fs::read_to_string(&ours).unwrap();
    fs::write(&planted, text.replace(&id, "00000000000000aa")).unwrap();
    chown(&planted, Some(MALLORY), None).unwrap();
    let setup = Setup {
        folder,
        ..Setup::with(NOWHERE)
    };
    let daemon = setup.start();
    daemon.wait_for("left alone, not a message of ours: 00000000000000aa");
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_for(&format!("deferred id={id}"));
    assert_eq!(daemon.matching("deferred id=00000000000000aa"), [""; 0]);
    assert!(planted.exists());
}

#[test]
fn a_second_daemon_is_refused_whatever_became_of_the_lock_file() {
    let daemon = Setup::default().start();
    let second = Setup {
        folder: Arc::clone(&daemon.folder),
        ..Setup::default()
    };
    let lock = daemon.path("spool/lock");
    for change in ["as it is", "removed", "replaced"] {
        match change {
            "removed" => fs::remove_file(&lock).unwrap(),
            "replaced" => fs::write(&lock, "nonsense").unwrap(),
            _ => {}
        }
        let said = refusal(second.command());
        assert!(said.contains("is in use by another smtpd788"), "{said}");
        if change != "replaced" {
            let process = format!("process {}", daemon.child.id());
            assert!(said.contains(&process), "{change}: {said}");
        }
    }
}

#[test]
fn a_folder_that_is_replaced_asks_for_a_restart_and_takes_no_mail() {
    for moved in [false, true] {
        let daemon = Setup::with(NOWHERE).start();
        let mut client = daemon.greeted();
        client.mail("a@b", "x@far.example", "x\r\n");
        let spool = daemon.path("spool");
        if moved {
            fs::rename(&spool, daemon.path("elsewhere")).unwrap();
        } else {
            fs::remove_dir_all(&spool).unwrap();
        }
        for made in [false, true] {
            if made {
                fs::create_dir(&spool).unwrap();
            }
            client.command("MAIL FROM:<a@b>", "250");
            client.command("RCPT TO:<x@far.example>", "250");
            client.command("DATA", "354");
            client.command("x\r\n.", "451");
            // Mail that does not need it goes on.
            client.mail("a@b", "john@mail.example", "x\r\n");
        }
        assert_eq!(messages(&daemon.read("john/mbox")).len(), 2);
        daemon.signal(Signal::SIGUSR1);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_for("reloaded");
        assert_eq!(daemon.matching("a restart is needed").len(), 1);
        assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
        // The restart takes it.
        let folder = daemon.kill();
        let again = Setup {
            folder,
            ..Setup::with(NOWHERE)
        };
        let daemon = again.start();
        daemon.greeted().mail("a@b", "x@far.example", "x\r\n");
    }
}

/// Unmounts when dropped.
struct Mounted(String);

impl Mounted {
    /// A small disk at `folder/name`; `None`: this user may not mount.
    fn small(folder: &Path, name: &str) -> Option<Mounted> {
        let at = folder.join(name).to_str().unwrap().to_owned();
        fs::create_dir(&at).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "none", &at])
            .status();
        mount
            .is_ok_and(|status| status.success())
            .then(|| Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[test]
fn when_the_disk_of_the_spool_is_full_mailboxes_elsewhere_take_their_mail() {
    let folder = Arc::new(Folder::new());
    let Some(mounted) = Mounted::small(folder.path(), "disk") else {
        return; // needs root and mount (Debian package mount)
    };
    let users: String = (0..40)
        .map(|n| format!("user{n}:{{dir}}/boxes/{n}\n"))
        .collect();
    let mut setup = Setup {
        folder,
        ..Setup::with(NOWHERE).users(&users)
    };
    setup.mail = setup.mail.replace("{dir}/spool", "{dir}/disk/spool");
    let daemon = setup.start();
    let _ = fs::write(daemon.path("disk/ballast"), vec![0; 2 << 20]).unwrap_err();
    let mut client = daemon.greeted();
    // One, and more at a time than the journal has room for.
    client.mail("a@b", "user0@mail.example", "x\r\n");
    client.command("MAIL FROM:<a@b>", "250");
    for n in 0..40 {
        client.command(&format!("RCPT TO:<user{n}@mail.example>"), "250");
    }
    client.command("DATA", "354");
    client.command("y\r\n.", "250");
    for n in 0..40 {
        let wanted = if n == 0 { 2 } else { 1 };
        let found = messages(&daemon.read(&format!("boxes/{n}"))).len();
        assert_eq!(found, wanted, "{n}");
    }
    // What needs the spool is refused, and the log names the disk.
    for (to, size) in [("x@far.example", 10_000), ("user1@mail.example", 900_000)] {
        client.command("MAIL FROM:<a@b>", "250");
        client.command(&format!("RCPT TO:<{to}>"), "250");
        client.command("DATA", "354");
        client.send(format!("{}\r\n", "x".repeat(70)).repeat(size / 72));
        client.command(".", "452");
    }
    let spool = daemon.path("disk/spool");
    let said = daemon.wait_for_count("No space left", 2);
    let disk = spool.to_str().unwrap();
    assert!(said.iter().all(|line| line.contains(disk)), "{said:#?}");
    assert_eq!(
        fs::metadata(&spool).unwrap().uid(),
        Uid::effective().as_raw()
    );
    drop(daemon);
    drop(mounted);
}

/// The very end of the daemon, to be sure that the lock goes with it.
#[test]
fn the_lock_goes_with_the_daemon() {
    let mut folder = Arc::new(Folder::new());
    for _ in 0..3 {
        let setup = Setup {
            folder,
            ..Setup::default()
        };
        let daemon: Daemon = setup.start();
        folder = daemon.kill();
    }
}
