//! The daemon under a service manager: units, sockets that are handed over, and giving up root.

use crate::common::daemon::{Client, Daemon, Folder, Setup, messages, wait_until};
use nix::unistd::{Uid, User};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf")
        .join(name)
}

fn systemd_analyze(arguments: &[&str], files: &[PathBuf]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).args(files).output().unwrap()
}

#[test]
#[ignore = "needs systemd-analyze (Debian package systemd)"]
fn the_units_are_clean() {
    // It also looks whether the program is there.
    let folder = Folder::new();
    let files = ["smtpd788.service", "smtpd788.socket"].map(|name| {
        let installed = "/usr/local/sbin/smtpd788";
        let unit = fs::read_to_string(unit(name)).unwrap();
        let copy = folder.path().join(name);
        fs::write(
            &copy,
            unit.replace(installed, env!("CARGO_BIN_EXE_smtpd788")),
        )
        .unwrap();
        copy
    });
    let output = systemd_analyze(&["verify", "--man=no"], &files);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
#[ignore = "needs systemd-analyze (Debian package systemd)"]
fn the_service_is_hardened() {
    let arguments = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    let output = systemd_analyze(&arguments, &[unit("smtpd788.service")]);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

/// The daemon with `listener` as descriptor 3, as a service manager hands it over.
pub fn activated(setup: &Setup, listener: &TcpListener, pid: &str) -> Command {
    let script = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID={pid} exec \"$@\"");
    let mut command = setup.command_after(&["sh", "-c", &script, "sh"]);
    command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
    command
}

/// Whether no connection lies in the queue of `listener`.
fn nobody_waits(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    let accepted = listener.accept();
    listener.set_nonblocking(false).unwrap();
    matches!(accepted, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn a_socket_that_is_handed_over_outlives_the_daemon() {
    let manager = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = manager.local_addr().unwrap();
    // Cannot be bound, and need not.
    let setup = Setup::with("LISTEN_ADDR = 192.0.2.1\n");
    for turn in 1..=2 {
        let daemon = Daemon::run(activated(&setup, &manager, "$$"), Arc::clone(&setup.folder));
        assert_eq!(daemon.addrs(), [addr]);
        // At once, so that several threads wait for clients afterwards.
        let mut clients: Vec<_> = (0..8).map(|_| daemon.greeted()).collect();
        clients[0].mail("a@b", "john@mail.example", "x\r\n");
        assert_eq!(messages(&daemon.read("john/mbox")).len(), turn);
        drop(clients);
        let (status, _) = daemon.stop();
        assert_eq!(status.code(), Some(0));
        assert!(nobody_waits(&manager), "a call that nobody made");
        // Nobody accepts, and yet nobody is sent away: the next daemon greets him.
        let mut early = Client::connect(addr);
        let daemon = Daemon::run(activated(&setup, &manager, "$$"), Arc::clone(&setup.folder));
        early.expect("220 mail.example ");
        drop(daemon);
    }
}

#[test]
fn a_listener_that_cannot_be_called_from_here_does_not_hold_up_the_stop() {
    let network = fs::read_dir("/sys/class/net").unwrap();
    let interface = network
        .map(|entry| entry.unwrap().file_name())
        .find(|name| name != "lo");
    let Some(interface) = interface else {
        eprintln!("skipped: no network interface but lo");
        return;
    };
    // Bound to one interface, as a service manager does it; from the machine itself it is called through another.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    if let Err(error) = socket.bind_device(Some(interface.as_encoded_bytes())) {
        eprintln!("skipped: cannot bind to {interface:?}: {error}");
        return;
    }
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(8).unwrap();
    let setup = Setup::default();
    let command = activated(&setup, &socket.into(), "$$");
    let daemon = Daemon::run(command, Arc::clone(&setup.folder));
    let begun = Instant::now();
    let (status, _) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    // A thread for it is waited for, but not for as long as for a client.
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn sockets_for_another_process_are_not_taken() {
    let manager = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::default();
    let command = activated(&setup, &manager, "1");
    let daemon = Daemon::run(command, Arc::clone(&setup.folder));
    assert_ne!(daemon.addr(), manager.local_addr().unwrap());
}

#[test]
fn a_socket_of_another_kind_is_refused() {
    let setup = Setup::default();
    let folder = Folder::new();
    let unix = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = activated(&setup, &listener, "$$");
    let output = command.stdin(OwnedFd::from(unix)).output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    let said = text(&output.stderr);
    assert!(said.contains("LISTEN_FDS"), "{said}");
}

/// With RUN_AS and a port that only root may bind, on an address of its own.
fn as_nobody(addr: &str) -> Setup {
    let mut setup = Setup::default();
    setup.mail = setup.mail.replace("LISTEN_PORT = 0", "LISTEN_PORT = 788");
    setup.mail += &format!("LISTEN_ADDR = {addr}\nRUN_AS = nobody\n");
    fs::set_permissions(setup.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    setup
}

/// The values of a line of /proc/PID/status, of every thread.
fn statuses(pid: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let line = |task: std::io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let words: Vec<_> = line
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        words.join(" ")
    };
    tasks.map(line).collect()
}

#[test]
#[ignore = "needs root"]
fn root_is_given_up_for_good_once_the_port_is_bound() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let mut setup = as_nobody("127.0.88.7");
    setup.mail += "RELAY_PORT = 9\nRETRY_MIN = 1h\n";
    let daemon = setup.start();
    assert_eq!(daemon.addr(), SocketAddr::from(([127, 0, 88, 7], 788)));
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    let pid = daemon.child.id();
    for (field, value) in [
        ("Uid:", [&*uid; 4].join(" ")),
        ("Gid:", [&*gid; 4].join(" ")),
        ("Groups:", gid.clone()),
        ("CapEff:", "0".repeat(16)),
        ("CapPrm:", "0".repeat(16)),
    ] {
        for found in statuses(pid, field) {
            assert_eq!(found, value, "{field}");
        }
    }
    let mut client = daemon.greeted();
    client.mail("a@b", "john@mail.example", "x\r\n");
    client.mail("a@b", "far@[127.0.88.8]", "x\r\n");
    daemon.wait_for(" queued ");
    let spooled = fs::read_dir(daemon.path("spool")).unwrap();
    let mut files: Vec<PathBuf> = spooled.map(|entry| entry.unwrap().path()).collect();
    assert!(
        files.contains(&daemon.path("spool/lock")) && files.len() > 1,
        "{files:?}"
    );
    files.extend(["spool", "john", "john/mbox"].map(|name| daemon.path(name)));
    for file in files {
        let data = fs::symlink_metadata(&file).unwrap();
        let owner = (data.uid(), data.gid());
        assert_eq!(
            owner,
            (nobody.uid.as_raw(), nobody.gid.as_raw()),
            "{}",
            file.display()
        );
        // What becomes a mailbox's dotlock is for mail readers to read.
        let others = if file.ends_with("pid") { 0o044 } else { 0 };
        assert_eq!(data.mode() & 0o077, others, "{}", file.display());
    }
    // As nobody it can still read its files again, lock a mailbox, and end.
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_for(" reloaded");
    daemon.greeted().mail("a@b", "john@mail.example", "y\r\n");
    wait_until("both are there", || {
        messages(&daemon.read("john/mbox")).len() == 2
    });
    assert_eq!(daemon.stop().0.code(), Some(0));
}

#[test]
fn an_unknown_user_is_a_fault_of_its_line() {
    let setup = Setup::with("RUN_AS = nobody-of-this-name\n");
    let output = setup.command().output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    assert!(
        said.contains("mail.conf:4: ") && said.contains("nobody-of-this-name"),
        "{said}"
    );
}

#[test]
fn only_root_can_become_somebody_else() {
    let setup = Setup::with("RUN_AS = root\n");
    let mut command = setup.command();
    if Uid::effective().is_root() {
        // Somebody else's eyes: a copy of the program where he can read it.
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let (folder, own) = (setup.folder.path(), command.get_program());
        let copy = folder.join("smtpd788");
        // By another process: a file that a child of ours still has open for writing cannot be run.
        let copied = Command::new("cp").args([own, copy.as_os_str()]).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        command = Command::new(copy);
        command.args(["mail.conf", "user.conf"]).current_dir(folder);
        command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    }
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("mail.conf:4: RUN_AS: only root "), "{said}");
    assert!(!setup.folder.path().join("spool").exists());
}
