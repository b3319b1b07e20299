//! Starting, stopping, reloading; what the command line says and with which status it ends.

use std::fs;
use std::io::BufRead;
use std::process::Output;
use std::time::Duration;

use crate::common::daemon::{Client, Setup, command, program, wait_until};
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn sigterm_tells_waiting_clients_and_ends_with_0() {
    for signal in [SIGTERM, SIGINT] {
        let mut daemon = Setup::default().start();
        let mut clients = [daemon.connect(), daemon.greeted()];
        clients[0].expect("220");
        daemon.signal(signal);
        for client in &mut clients {
            client.expect("421 mail.example ");
            assert!(client.is_closed());
        }
        assert_eq!(daemon.wait().code(), Some(0));
        daemon.wait_for(" stopping");
        daemon.wait_for(" stopped");
    }
}

#[test]
fn a_message_under_way_may_end_after_sigterm() {
    let mut daemon = Setup::default().start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    client.send("half\r\n");
    daemon.signal(SIGTERM);
    daemon.wait_for(" stopping");
    wait_until("nobody is let in", || {
        std::net::TcpStream::connect(daemon.addr()).is_err()
    });
    client.send("whole\r\n.\r\n");
    client.expect("250 OK id=");
    client.expect("421 mail.example ");
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(daemon.read("john/mbox").ends_with("\nhalf\nwhole\n\n"));
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let mut daemon = Setup::default().start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<john@mail.example>", "250");
    client.command("DATA", "354");
    daemon.signal(SIGTERM);
    daemon.wait_for(" stopping");
    let begun = std::time::Instant::now();
    daemon.signal(SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
    daemon.wait_for(" stopped");
}

#[test]
fn a_stop_waits_for_the_log_but_not_for_a_reader_that_stalls() {
    let setup = Setup::default().rust_log("trace");
    let mut command = setup.command();
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop((command, writer));
    let mut addr = None;
    let mut lines = std::io::BufReader::new(&mut reader)
        .lines()
        .map_while(Result::ok);
    while addr.is_none() {
        let line = lines.next().expect("it listens");
        addr = line
            .split_once("listening on ")
            .map(|(_, addr)| addr.parse().unwrap());
    }
    // More than a pipe takes.
    let mut client = Client::connect(addr.unwrap());
    client.expect("220");
    let nonsense = format!("{}\r\n", "x".repeat(500));
    for turn in 0..50 {
        if turn > 0 {
            client = Client::connect(addr.unwrap());
            client.expect("220");
        }
        for _ in 0..19 {
            client.command(nonsense.trim_end(), "500");
        }
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let rest: Vec<_> = lines.collect();
    assert!(rest.len() > 100 && !rest.iter().any(|line| line.ends_with(" stopped")));
}

#[test]
fn sighup_puts_new_users_and_limits_in_force() {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<anna@mail.example>", "550");
    let users = fs::read_to_string(daemon.path("user.conf")).unwrap();
    let anna = format!("{users}anna:{}\n", daemon.path("new/anna/").display());
    fs::write(daemon.path("user.conf"), anna + "/\n").unwrap(); // a line that is no user
    daemon.signal(SIGHUP);
    let error = daemon.wait_for("user.conf:4: ");
    assert!(error.contains("ERROR"), "{error}");
    client.command("RSET", "250");
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<anna@mail.example>", "550");
    let anna = format!("{users}anna:{}/\n", daemon.path("new/anna").display());
    fs::write(daemon.path("user.conf"), anna).unwrap();
    let mail = fs::read_to_string(daemon.path("mail.conf")).unwrap();
    fs::write(
        daemon.path("mail.conf"),
        mail + "MAX_RECIPIENTS = 1\nLISTEN_ADDR = 127.0.0.9\n",
    )
    .unwrap();
    daemon.signal(SIGHUP);
    daemon.wait_for(" reloaded");
    assert!(daemon.wait_for("LISTEN_ADDR").contains("restart"));
    client.command("RCPT TO:<anna@mail.example>", "550"); // this transaction began before
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<anna@mail.example>", "250");
    client.command("RCPT TO:<john@mail.example>", "552");
    client.command("DATA", "354");
    client.send("x\r\n.\r\n");
    client.expect("250");
    assert!(daemon.read("new/anna/mbox").ends_with("\nx\n\n"));
}

#[test]
fn two_daemons_do_not_share_a_spool() {
    let daemon = Setup::default().start();
    let output = command(&daemon.folder, "info").output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    let error = text(&output.stderr);
    assert!(
        error.contains("spool") && error.contains(&daemon.child.id().to_string()),
        "{error}"
    );
}

#[test]
fn an_address_in_use_is_named_and_ends_with_71() {
    let daemon = Setup::default().start();
    let mut setup = Setup::default();
    setup.mail = setup
        .mail
        .replace("= 0", &format!("= {}", daemon.addr().port()));
    let output = setup.command().output().unwrap();
    assert_eq!(output.status.code(), Some(71));
    let error = text(&output.stderr);
    assert!(error.contains(&daemon.addr().to_string()), "{error}");
}

#[test]
fn every_fault_of_both_files_is_reported_and_nothing_starts() {
    let setup = Setup::with("MAX_CLIENTS = many\nHOSTNAME = again.example\nFOO = 1\n")
        .users("john:{dir}/john/\nnobody\nJOHN:{dir}/john/\n");
    for option in [None, Some("-t")] {
        let output = setup.command().args(option).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        assert_eq!(text(&output.stdout), "");
        let errors = text(&output.stderr);
        for place in [
            "mail.conf:4: ",
            "mail.conf:5: ",
            "mail.conf:6: ",
            "user.conf:2: ",
            "user.conf:3: ",
        ] {
            assert!(errors.contains(place), "{place} {errors}");
        }
        assert_eq!(errors.lines().count(), 5, "{errors}");
    }
    assert!(!setup.folder.path().join("spool").exists());
}

#[test]
fn test_says_ok_and_starts_nothing() {
    let setup = Setup::default();
    let output = setup.command().arg("--test").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "configuration OK\n");
    assert!(!setup.folder.path().join("spool").exists());
    assert!(!setup.folder.path().join("john").exists());
}

#[test]
fn queue_without_a_spool_says_so() {
    for (setup, there) in [("spool", false), ("nowhere/spool", false), ("", true)] {
        let mut setup_with = Setup::default();
        setup_with.mail = setup_with.mail.replace("/spool", &format!("/{setup}"));
        let output = setup_with.command().arg("-q").output().unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        if there {
            assert_eq!(output.status.code(), Some(0));
            assert_eq!((&*stdout, &*stderr), ("queue is empty\n", ""));
        } else {
            assert_eq!(output.status.code(), Some(71));
            let path = setup_with.folder.path().join(setup);
            assert_eq!(stderr, format!("no spool at {}\n", path.display()));
            assert_eq!(stdout, "");
        }
    }
    // A relative one is shown with the directory that it was looked for in.
    let mut setup = Setup::default();
    setup.mail = setup.mail.replace("{dir}/spool", "spool");
    let output = setup.command().arg("-q").output().unwrap();
    let path = setup.folder.path().join("spool");
    assert_eq!(
        text(&output.stderr),
        format!("no spool at {}\n", path.display())
    );
}

#[test]
fn help_version_and_usage() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("MAIL_CONF USER_CONF"));
    let version = run(&["-V"]);
    assert_eq!(
        text(&version.stdout),
        format!("smtpd788 {}\n", env!("CARGO_PKG_VERSION"))
    );
    for wrong in [&["--foo"][..], &["one"], &[], &["a", "b", "c"]] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).contains("MAIL_CONF USER_CONF"));
    }
    let missing = run(&["/nonexistent/mail.conf", "/nonexistent/user.conf"]);
    assert_eq!(missing.status.code(), Some(78));
    assert_eq!(text(&missing.stderr).lines().count(), 2);
}

#[test]
fn all_addresses_of_both_families() {
    let daemon = Setup::with("LISTEN_ADDR = 127.0.0.1, 127.0.0.2, ::1\n").start();
    daemon.wait_for_count("listening on ", 3);
    for addr in daemon.addrs() {
        let mut client = Client::connect(addr);
        client.expect("220 ");
        client.command("HELO c", "250");
        client.command("MAIL FROM:<a@b>", "250");
        let literal = match addr.ip() {
            std::net::IpAddr::V4(ip) => format!("[{ip}]"),
            std::net::IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
        };
        client.command(&format!("RCPT TO:<john@{literal}>"), "250");
    }
}

#[test]
fn swapped_files_get_a_hint() {
    let setup = Setup::default();
    setup.write();
    for option in [Some("-t"), None, Some("-q")] {
        let mut command = program();
        command.current_dir(setup.folder.path()).args(option);
        let output = command.args(["user.conf", "mail.conf"]).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        let errors = text(&output.stderr);
        let hint =
            "user.conf:1: expected KEY = VALUE (name:where belongs in user.conf, the second file)";
        assert!(errors.contains(hint), "{errors}");
        let hint =
            "mail.conf:1: expected name:where (KEY = VALUE belongs in mail.conf, the first file)";
        assert_eq!(errors.contains(hint), option != Some("-q"), "{errors}");
    }
}
