//! What `-t`, a start and a reload find before any mail comes, and that all three find the same.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal::SIGHUP;
use nix::unistd::{Uid, User};

use super::service::activated;
use crate::common::daemon::{Daemon, Setup};

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// What `-t` and a start say and end with; a start that succeeds is stopped.
fn both(setup: &Setup) -> [(Option<i32>, String); 2] {
    let said = |output: Output| (output.status.code(), text(&output.stderr));
    let tested = said(setup.command().arg("-t").output().unwrap());
    // What would start ends here instead: its log's lines are the warnings.
    if tested.0 == Some(0) {
        let folder = std::sync::Arc::clone(&setup.folder);
        let (status, log) = Daemon::run(setup.command(), folder).stop();
        return [tested, (status.code(), log.join("\n"))];
    }
    [tested, said(setup.command().output().unwrap())]
}

/// A test is skipped without root.
fn nobody() -> Option<User> {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("skipped: not root");
    }
    User::from_name("nobody").unwrap().filter(|_| root)
}

fn with_run_as() -> Setup {
    let setup = Setup::with("RUN_AS = nobody\n");
    fs::set_permissions(setup.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    setup
}

#[test]
fn a_folder_that_cannot_be_made_is_a_fault_of_its_line() {
    for folder in [
        "/proc/foo",
        "/proc/self/fd/x/y",
        "/sys/foo/bar",
        "{dir}/mail.conf/x",
    ] {
        let setup =
            Setup::default().users(&format!("# x\njohn:{{dir}}/john/\njack:{folder}/mbox\n"));
        for (status, said) in both(&setup) {
            assert_eq!(status, Some(78), "{folder}: {said}");
            assert!(said.contains("user.conf:3: "), "{said}");
            let errors = said.lines().filter(|line| !line.starts_with("warning: "));
            assert_eq!(errors.count(), 1, "{said}");
        }
        assert!(!setup.folder.path().join("john").exists());
    }
}

#[test]
fn a_spool_that_cannot_be_made_or_used_is_refused_at_its_line() {
    for dir in [
        "/proc/spool",
        "{dir}/mail.conf",
        "{dir}/user.conf/spool",
        "{dir}/open",
    ] {
        let mut setup = Setup::default();
        setup.mail = setup.mail.replace("{dir}/spool", dir);
        let open = setup.folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        for (status, said) in both(&setup) {
            assert_eq!(status, Some(71), "{dir}: {said}");
            assert!(said.contains("mail.conf:3: SPOOL_DIR: "), "{said}");
        }
    }
}

#[test]
fn a_working_directory_that_is_gone_is_told() {
    let rows = [
        ("spool", "{dir}/john/", 71),
        ("spool/deep", "{dir}/john/", 71),
        ("{dir}/spool", "mbox/john/", 78),
        ("spool", "john", 78),
    ];
    for (spool, mailbox, status) in rows {
        let mut setup = Setup::default().users(&format!("john:{mailbox}\n"));
        setup.mail = setup.mail.replace("{dir}/spool", spool);
        for option in [None, Some("-t")] {
            let script = "d=$PWD; p=$1; shift 3; mkdir gone && cd gone && rmdir ../gone && \
                          exec \"$p\" \"$@\" \"$d/mail.conf\" \"$d/user.conf\"";
            let mut command = setup.command_after(&["sh", "-c", script, "sh"]);
            let output = command.args(option).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(status), "{said}");
            for (relative, place) in [
                (!spool.starts_with('{'), "mail.conf:3: SPOOL_DIR: "),
                (!mailbox.starts_with('{'), "user.conf:1: "),
            ] {
                assert_eq!(said.contains(place), relative, "{said}");
            }
            assert!(
                said.contains("the working directory cannot be used"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_test_says_where_relative_paths_begin() {
    let rows = [
        ("{dir}/spool", "john:{dir}/john/\n", false),
        ("spool", "john:{dir}/john/\n", true),
        ("{dir}/spool", "john:mbox/john/\n", true),
    ];
    for (spool, users, told) in rows {
        let mut setup = Setup::default().users(users);
        setup.mail = setup.mail.replace("{dir}/spool", spool);
        let output = setup.command().arg("-t").output().unwrap();
        let here = format!(
            "relative paths are taken from {}",
            setup.folder.path().display()
        );
        assert_eq!(
            text(&output.stderr).contains(&here),
            told,
            "{spool} {users}"
        );
        assert_eq!(text(&output.stdout), "configuration OK\n");
    }
}

#[test]
fn warnings_are_those_of_a_start() {
    let setup = Setup::with("RELAY_FROM = 0.0.0.0/0\n").users("john:{dir}/link\n");
    symlink("target", setup.folder.path().join("link")).unwrap();
    let mut expected = vec!["an open relay", "a symbolic link"];
    if Uid::effective().is_root() {
        expected.push("the daemon runs as root");
    }
    for (status, said) in both(&setup) {
        assert_eq!(status, Some(0));
        for what in &expected {
            assert!(said.contains(what), "{what}: {said}");
        }
    }
    for (status, said) in both(&Setup::default().users("# nobody\n")) {
        assert_eq!(status, Some(0));
        assert!(said.contains("user.conf names no users"), "{said}");
    }
}

/// Sends SIGHUP with these files, and waits for `answer` in the log.
fn reload(daemon: &Daemon, [mail, users]: [&str; 2], answer: &str) {
    fs::write(daemon.path("mail.conf"), mail).unwrap();
    fs::write(daemon.path("user.conf"), users).unwrap();
    daemon.signal(SIGHUP);
    daemon.wait_for(answer);
}

#[test]
fn a_reload_refuses_what_a_start_would_refuse() {
    let daemon = Setup::default().start();
    let dir = daemon.folder.path().display().to_string();
    let mail = fs::read_to_string(daemon.path("mail.conf")).unwrap();
    let users = fs::read_to_string(daemon.path("user.conf")).unwrap();
    fs::write(daemon.path("file"), "").unwrap();
    let anna = format!("{users}anna:{dir}/anna/\n");
    let rows = [
        (
            mail.clone(),
            format!("{anna}bert:/proc/foo/\n"),
            "user.conf:4: ",
        ),
        (
            mail.clone(),
            format!("{anna}bert:{dir}/file/x/\n"),
            "user.conf:4: ",
        ),
        (
            mail.clone(),
            format!("bert:{dir}/john/mbox/in\n{anna}"),
            "user.conf:1: ",
        ),
        (
            mail.replace("/spool", "/file/spool"),
            anna.clone(),
            "mail.conf:3: ",
        ),
        (
            mail.replace("/spool", "/file"),
            anna.clone(),
            "mail.conf:3: ",
        ),
    ];
    for (number, (mail, users, place)) in (1..).zip(&rows) {
        fs::write(daemon.path("mail.conf"), mail).unwrap();
        fs::write(daemon.path("user.conf"), users).unwrap();
        daemon.signal(SIGHUP);
        let told = daemon
            .wait_for_count("the old settings stay: ", number)
            .remove(number - 1);
        assert!(told.contains("ERROR") && told.contains(place), "{told}");
        let mut client = daemon.greeted();
        client.command("MAIL FROM:<a@b>", "250");
        client.command("RCPT TO:<anna@mail.example>", "550");
        client.command("RCPT TO:<john@mail.example>", "250");
    }
    assert!(daemon.matching(" reloaded").is_empty());
    reload(&daemon, [&mail, &anna], " reloaded");
    assert!(daemon.path("anna").is_dir());
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<anna@mail.example>", "250");
}

#[test]
fn a_reload_gives_the_warnings_of_a_start() {
    let daemon = Setup::default().start();
    let mail = fs::read_to_string(daemon.path("mail.conf")).unwrap();
    let dir = daemon.folder.path().display().to_string();
    symlink("target", daemon.path("link")).unwrap();
    assert!(daemon.matching("names no users").is_empty());
    let open = format!("{mail}RELAY_FROM = ::/0\n");
    reload(&daemon, [&open, &format!("john:{dir}/link\n")], " reloaded");
    daemon.wait_for("an open relay");
    daemon.wait_for("is a symbolic link");
    reload(&daemon, [&mail, ""], "names no users");
    daemon.wait_for_count(" reloaded", 2);
}

#[test]
#[ignore = "needs root"]
fn a_test_judges_as_the_user_that_the_daemon_becomes() {
    let Some(nobody) = nobody() else { return };
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    // Owner and mode of the spool: whether it can be used.
    let rows = [
        (0, 0, 0o700, false),
        (0, 0, 0o755, false),
        (0, gid, 0o770, true),
        (4242, gid, 0o770, false),
        (uid, gid, 0o700, true),
        (uid, gid, 0o500, false),
        (uid, gid, 0o702, false),
    ];
    for (uid, gid, mode, good) in rows {
        let setup = with_run_as();
        let spool = setup.folder.path().join("spool");
        fs::create_dir(&spool).unwrap();
        chown(&spool, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&spool, fs::Permissions::from_mode(mode)).unwrap();
        let [tested, started] = both(&setup);
        assert_eq!(
            tested.0,
            Some(if good { 0 } else { 71 }),
            "{uid} {gid} {mode:o}: {}",
            tested.1
        );
        assert_eq!(tested.0, started.0, "{}", started.1);
        assert!(
            good || tested.1.contains("mail.conf:3: SPOOL_DIR: "),
            "{}",
            tested.1
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_mailbox_that_cannot_be_written_is_warned_about() {
    let Some(nobody) = nobody() else { return };
    for (uid, mode, good) in [
        (nobody.uid.as_raw(), 0o600, true),
        (nobody.uid.as_raw(), 0o400, false),
        (0, 0o600, false),
        (4242, 0o644, false),
    ] {
        let setup = with_run_as();
        let folder = setup.folder.path().join("john");
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(nobody.uid.as_raw()), None).unwrap();
        let mbox = folder.join("mbox");
        fs::write(&mbox, "").unwrap();
        chown(&mbox, Some(uid), None).unwrap();
        fs::set_permissions(&mbox, fs::Permissions::from_mode(mode)).unwrap();
        for (status, said) in both(&setup) {
            assert_eq!(status, Some(0), "{said}");
            let warned = said.contains(&format!("mailbox {} ", mbox.display()));
            assert_eq!(warned, !good, "{uid} {mode:o}: {said}");
        }
    }
}

/// A mount that ends with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
#[ignore = "needs root and mount (Debian package mount)"]
fn a_full_disk_is_named() {
    let setup = Setup::default();
    for spool in ["disk/spool", "disk/spool/deep/er"] {
        let disk = setup.folder.path().join("disk");
        fs::create_dir_all(&disk).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(&disk);
        assert!(mount.status().unwrap().success());
        let mounted = Mounted(&disk);
        fs::create_dir(disk.join("spool")).unwrap();
        let full = Setup {
            mail: setup.mail.replace("/spool", &format!("/{spool}")),
            folder: std::sync::Arc::clone(&setup.folder),
            ..Setup::default()
        };
        let [tested, _] = both(&full);
        assert_eq!(tested.0, Some(0), "{}", tested.1);
        // As much as there is.
        let _ = std::io::copy(
            &mut std::io::repeat(0),
            &mut fs::File::create(disk.join("all")).unwrap(),
        );
        for (status, said) in both(&full) {
            assert_eq!(status, Some(71), "{said}");
            let disk = disk.display();
            let full = format!("mail.conf:3: SPOOL_DIR: {disk}");
            assert!(said.contains(&full), "{said}");
            assert!(said.contains(" a disk that has no space left"), "{said}");
        }
        drop(mounted);
    }
}

#[test]
#[ignore = "needs root and setpriv (Debian package util-linux)"]
fn capabilities_that_outlive_the_change_of_user_are_refused() {
    let Some(_) = nobody() else { return };
    for securebits in [
        "+no_setuid_fixup",
        "+no_setuid_fixup,+no_setuid_fixup_locked",
    ] {
        let setup = with_run_as();
        for option in [None, Some("-t")] {
            let mut command = setup.command_after(&["setpriv", "--securebits", securebits, "--"]);
            let output = command.args(option).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(71), "{said}");
            assert!(said.contains("RUN_AS"), "{said}");
        }
    }
}

#[test]
fn a_socket_that_does_not_listen_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound
        .bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        )
        .unwrap();
    for socket in [
        OwnedFd::from(accepted),
        OwnedFd::from(client),
        OwnedFd::from(bound),
    ] {
        let copy = TcpListener::from(socket.try_clone().unwrap());
        let refused = smtpd788::server::Server::start(vec![copy], std::sync::mpsc::channel().0);
        assert_eq!(
            refused.unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
        let setup = Setup::default();
        let output = activated(&setup, &listener, "$$")
            .stdin(socket)
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(71), "{said}");
        assert!(said.contains("does not listen"), "{said}");
        assert!(!text(&output.stdout).contains("listening on"));
    }
}

#[test]
#[ignore = "needs strace (Debian package strace)"]
fn a_host_without_ipv6_listens_on_the_rest() {
    for error in ["socket:error=EAFNOSUPPORT", "bind:error=EADDRNOTAVAIL"] {
        for (addrs, second, good) in [
            ("0.0.0.0, ::", 2, true),
            ("::, 127.0.0.1", 1, true),
            ("::", 1, false),
            ("0.0.0.0, ::1", 2, false),
        ] {
            let setup = Setup::with(&format!("LISTEN_ADDR = {addrs}\n"));
            let inject = format!("inject={error}:when={second}");
            let words = [
                "strace",
                "-D",
                "-qqq",
                "-o",
                "/dev/null",
                "-e",
                &inject,
                "--",
            ];
            let mut command = setup.command_after(&words);
            if good {
                let daemon = Daemon::run(command, std::sync::Arc::clone(&setup.folder));
                assert_eq!(daemon.addrs().len(), 1);
                assert!(daemon.addr().is_ipv4());
                daemon.wait_for("WARN  cannot listen on [::]:0: ");
                assert_eq!(daemon.stop().0.code(), Some(0));
            } else {
                let output = command.output().unwrap();
                let said = text(&output.stderr);
                assert_eq!(output.status.code(), Some(71), "{said}");
                assert!(said.contains("smtpd788: cannot listen on [::"), "{said}");
            }
        }
    }
}
