//! No room: a limit on file sizes, a full file system.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use crate::daemon::{Daemon, Folder, Setup, wait_until};
use crate::faults::{johns, send, spooled, wait_until_delivered};

const LOCAL: &str = "john@mail.example";
const FAR: &str = "mary@far.test";

/// The daemon as `sh` starts it after `words`, for instance `ulimit -n 40`.
pub fn started_after(words: &str, setup: Setup) -> Daemon {
    let script = format!("{words}; exec \"$@\"");
    let command = setup.command_after(&["sh", "-c", &script, "sh"]);
    Daemon::run(command, setup.folder)
}

/// Puts a mailbox in the place of john's, in one step: the daemon may be about to append to the one that is there.
fn put(daemon: &Daemon, mbox: &[u8]) {
    let beside = daemon.path("john/mbox.beside");
    fs::write(&beside, mbox).unwrap();
    fs::rename(&beside, daemon.path("john/mbox")).unwrap();
}

/// `ulimit -f` counts 512 octets in dash and 1024 in bash.
const LIMIT: usize = 200;

#[test]
fn a_limit_on_file_sizes_is_no_room() {
    let setup = Setup::with("NAMESERVER = 127.0.0.1:9\n");
    let daemon = started_after(&format!("ulimit -f {LIMIT}"), setup);
    let mut client = daemon.greeted();
    assert_eq!(send(&mut client, LOCAL, 1, 10_000), "250");
    let before = fs::read(daemon.path("john/mbox")).unwrap();
    for (to, size) in [
        (LOCAL, 250_000),
        (FAR, 250_000),
        (LOCAL, 2 << 20),
        (FAR, 2 << 20),
    ] {
        assert_eq!(send(&mut client, to, 2, size), "452", "{to} {size}");
        assert!(fs::read(daemon.path("john/mbox")).unwrap() == before);
        assert_eq!(spooled(&daemon), [""; 0]);
    }
    // A mailbox that is full already: the message fits the spool.
    let mut full = before.clone();
    let room = LIMIT * 1024 - before.len();
    full.extend_from_slice(&vec![b'\n'; room]);
    put(&daemon, &full);
    assert_eq!(send(&mut client, LOCAL, 3, 5_000), "250");
    wait_until("the mbox is as before", || {
        fs::read(daemon.path("john/mbox")).unwrap() == full
    });
    assert_eq!(spooled(&daemon).len(), 1);
    put(&daemon, &before);
    wait_until_delivered(&daemon);
    assert_eq!(johns(&daemon), [1, 3]);
}

/// Unmounts when dropped.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[test]
#[ignore = "needs root and mount (Debian package mount)"]
fn a_full_disk_is_no_room_until_there_is_some() {
    let folder = Arc::new(Folder::new());
    let at = folder.path().join("disk").to_str().unwrap().to_owned();
    fs::create_dir(&at).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none", &at])
        .status();
    assert!(mount.unwrap().success(), "mount");
    let mounted = Mounted(at);
    let mut setup = Setup {
        folder,
        ..Setup::default().users("john:{dir}/disk/john\n")
    };
    setup.mail =
        setup.mail.replace("{dir}/spool", "{dir}/disk/spool") + "NAMESERVER = 127.0.0.1:9\n";
    let (mail, users) = (setup.mail.clone(), setup.users.clone());
    let daemon = setup.start();
    let mut client = daemon.greeted();
    let mbox = || fs::read_to_string(daemon.path("disk/john")).unwrap();
    let left = || fs::read_dir(daemon.path("disk/spool")).unwrap().count();
    assert_eq!(send(&mut client, LOCAL, 1, 10_000), "250");
    let (before, household) = (mbox(), left());
    for (to, size) in [
        (LOCAL, 2 << 20),
        (FAR, 2 << 20),
        (LOCAL, 900_000),
        (FAR, 900_000),
    ] {
        // 900 kB fit once, but not with the part that was spilled before.
        assert_eq!(send(&mut client, to, 2, size), "452", "{to} {size}");
        assert!(mbox() == before);
        assert_eq!(left(), household);
    }
    let ballast = daemon.path("disk/ballast");
    let _ = fs::write(&ballast, vec![0; 2 << 20]).unwrap_err();
    for to in [LOCAL, FAR] {
        assert_eq!(send(&mut client, to, 3, 20_000), "452", "{to}");
        assert!(mbox() == before);
        assert_eq!(left(), household);
    }
    fs::remove_file(&ballast).unwrap();
    assert_eq!(send(&mut client, LOCAL, 4, 20_000), "250");
    assert_eq!(crate::letter::letters(&mbox()).unwrap(), [1, 4]);
    // A start on a full disk says that it is full.
    let _ = fs::write(&ballast, vec![0; 2 << 20]).unwrap_err();
    let again = Setup {
        mail,
        users,
        folder: daemon.kill(),
        ..Setup::default()
    };
    let ended = again.command().output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(71), "{said}");
    assert!(said.contains("no space left"), "{said}");
    drop(mounted);
}
