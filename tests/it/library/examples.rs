//! The examples, run as the README has them.

use crate::common::daemon::{Client, Folder, Setup, messages, wait_until};
use crate::common::hop::nobody;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The program that `cargo test` has built beside the tests.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let program = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        program.exists(),
        "cargo build --examples builds {}",
        program.display()
    );
    Command::new(program)
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[test]
fn channel_ends_by_itself() {
    let output = example("channel").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(
        said.starts_with("220 localhost ") && said.ends_with("\nreceived as sent\n"),
        "{said}"
    );
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn console_prints_every_mail() {
    let mut console = example("console");
    let mut console = Killed(
        console
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut printed = BufReader::new(console.0.stdout.take().unwrap());
    let mut line = String::new();
    printed.read_line(&mut line).unwrap();
    let addr = line.split([' ', ',']).nth(3).unwrap().parse().unwrap();
    let mut client = Client::connect(addr);
    client.expect("220");
    client.command("HELO me", "250");
    client.command("MAIL FROM:<a@b>", "250");
    client.command("RCPT TO:<nobody@b>", "550");
    for to in ["ann", "bob"] {
        client.command(&format!("RCPT TO:<{to}@b>"), "250");
    }
    client.command("DATA", "354");
    client.send(b"Subject: caf\xe9\r\n\r\nlatin-1 is fine\r\n.\r\n");
    client.expect("250 OK id=");
    let mut shown = Vec::new();
    while !shown.ends_with(b"fine\n") {
        let read = printed.read_until(b'\n', &mut shown).unwrap();
        assert!(read > 0, "{}", text(&shown));
    }
    let ending = b"\nfrom <a@b> to <ann@b> <bob@b>\n\nSubject: caf\xe9\n\nlatin-1 is fine\n";
    assert!(shown.ends_with(ending), "{}", text(&shown));
}

fn send(arguments: &[&str]) -> Output {
    let stdin = fs::File::open(arguments.last().unwrap_or(&"/dev/null"));
    let stdin = stdin.map_or_else(|_| Stdio::null(), Stdio::from);
    example("send")
        .args(arguments)
        .stdin(stdin)
        .output()
        .unwrap()
}

#[test]
fn send_says_how_it_is_used() {
    let help = send(&["--help"]);
    assert!(help.status.success());
    assert!(text(&help.stdout).starts_with("Usage: send ADDR:PORT FROM TO FILE\n"));
    for wrong in [&[][..], &["127.0.0.1:25", "a@b", "c@d"]] {
        let output = send(wrong);
        assert_eq!(output.status.code(), Some(64));
        assert!(text(&output.stderr).starts_with("Usage: "));
    }
}

#[test]
fn send_sends_files_of_both_line_ends_and_tells_their_fate() {
    let daemon = Setup::with("RELAY_FROM = none\n").start();
    let addr = daemon.addr().to_string();
    let file = |name: &str, content: &[u8]| -> String {
        fs::write(daemon.path(name), content).unwrap();
        daemon.path(name).to_str().unwrap().to_owned()
    };
    let crlf = file("crlf", b"Subject: one\r\n\r\n.\r\n..x\r\nno end");
    let lf = file("lf", b"Subject: two\n\n\xff\n");
    let bare = file("bare", b"Subject: three\rfour\n");
    for (to, file, status, words) in [
        ("john@mail.example", &crlf, 0, " said: 250 OK id="),
        ("<john@mail.example>", &lf, 0, " said: 250 OK id="),
        ("anna@mail.example", &lf, 69, " said at RCPT: 550 "),
        ("john@other.example", &lf, 69, " said at RCPT: 550 "),
        ("john@mail.example", &bare, 1, "line 1 "),
        ("john", &lf, 1, "no host"),
        (
            "john@mail.example",
            &"/nonexistent".to_owned(),
            1,
            "No such file",
        ),
    ] {
        let output = send(&[&addr, "<>", to, file]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{to} {file}: {said}");
        assert!(said.contains(words), "{said}");
    }
    let mbox = fs::read(daemon.path("john/mbox")).unwrap();
    let messages = messages(&text(&mbox));
    assert!(
        messages[0].ends_with("Subject: one\n\n.\n..x\nno end\n\n"),
        "{messages:?}"
    );
    assert!(mbox.ends_with(b"Subject: two\n\n\xff\n\n"));
    let output = send(&[&nobody().to_string(), "a@b", "c@d", &lf]);
    assert_eq!(output.status.code(), Some(75), "{}", text(&output.stderr));
}

fn netcat_script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/netcat.sh")
}

/// Runs the script, by a shell of one's choice, with a netcat of one's choice.
fn netcat(nc: &str, arguments: &[&str], message: &str) -> Output {
    let mut child = Command::new("sh")
        .arg(netcat_script())
        .args(arguments)
        .env("NC", nc)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(message.as_bytes());
    child.wait_with_output().unwrap()
}

fn netcat_delivers(nc: &str) {
    let daemon = Setup::default().start();
    let port = daemon.addr().port().to_string();
    let message = "Subject: hello\r\n\n.\n..dots\nHELO me\nno end";
    let output = netcat(
        nc,
        &["127.0.0.1", &port, "me@here", "john@mail.example"],
        message,
    );
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said} {}", text(&output.stderr));
    assert!(said.contains("221 mail.example "), "{said}");
    wait_until("delivered", || !daemon.read("john/mbox").is_empty());
    let messages = messages(&daemon.read("john/mbox"));
    let [one] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert!(one.starts_with("Return-Path: <me@here>\n"), "{one}");
    assert!(
        one.ends_with("\nSubject: hello\n\n.\n..dots\nHELO me\nno end\n\n"),
        "{one}"
    );
    let output = netcat(
        nc,
        &["127.0.0.1", &port, "me@here", "anna@mail.example"],
        "x\n",
    );
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("\n550 "));
    drop(daemon);
    let output = netcat(nc, &["127.0.0.1", &port], "x\n");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("the connection was refused"), "{said}");
}

/// A netcat whose connection does `what`, in a folder that is to be kept.
fn netcat_that(what: &str) -> (Folder, String) {
    let folder = Folder::new();
    let nc = folder.path().join("nc");
    let script = format!("#!/bin/sh\ncase $1 in -h) ;; *) {what};; esac\n");
    fs::write(&nc, script).unwrap();
    fs::set_permissions(&nc, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let nc = nc.to_str().unwrap().to_owned();
    (folder, nc)
}

#[test]
fn the_script_puts_an_empty_line_before_a_text_without_a_header() {
    let (_folder, echo) = netcat_that("cat");
    for (message, sent) in [
        ("Hello, John.\n", "\nHello, John.\n"),
        (" x: y\n", "\n x: y\n"),
        (".\n", "\n..\n"),
        ("From me x:y\n", "\nFrom me x:y\n"),
        ("Subject: hello\n\nHello\n", "Subject: hello\n\nHello\n"),
        ("Subject : hello\r\n", "Subject : hello\n"),
        ("\nHello\n", "\nHello\n"),
    ] {
        let said = text(&netcat(&echo, &[], message).stdout);
        let data = said.split_once("DATA\n").unwrap().1;
        assert_eq!(data, format!("{sent}.\nQUIT\n"), "{message:?}");
    }
}

#[test]
fn the_script_says_when_nobody_answers() {
    let (_folder, refused) = netcat_that("cat >/dev/null; exit 1");
    let output = netcat(&refused, &["192.0.2.1", "2525"], "x\n");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("no answer from 192.0.2.1 port 2525: "),
        "{said}"
    );
    assert_eq!(text(&output.stdout), "");
}

#[test]
#[ignore = "needs nc.openbsd (Debian package netcat-openbsd)"]
fn netcat_of_openbsd() {
    netcat_delivers("nc.openbsd");
}

#[test]
#[ignore = "needs nc.traditional (Debian package netcat-traditional)"]
fn netcat_of_old() {
    netcat_delivers("nc.traditional");
}

#[test]
#[ignore = "needs nc.traditional (Debian package netcat-traditional)"]
fn a_netcat_without_an_option_for_crlf() {
    let (_folder, nc) = netcat_that("exec nc.traditional \"$@\"");
    netcat_delivers(&nc);
}

#[test]
fn the_script_says_how_it_is_used() {
    let help = netcat("nc", &["--help"], "");
    assert!(help.status.success() && text(&help.stdout).contains("netcat.sh [ADDR "));
    assert_eq!(netcat("nc", &["-x"], "").status.code(), Some(64));
}

fn checked_by(checker: &[&str]) {
    let mut command = Command::new(checker[0]);
    let output = command
        .args(&checker[1..])
        .arg(netcat_script())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
#[ignore = "needs dash (Debian package dash)"]
fn the_script_is_posix() {
    checked_by(&["dash", "-n"]);
}

#[test]
#[ignore = "needs shellcheck (Debian package shellcheck)"]
fn the_script_is_clean() {
    checked_by(&["shellcheck", "--shell=sh"]);
}

#[test]
fn every_example_is_short() {
    for entry in fs::read_dir(netcat_script().parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let mut lines = String::new();
        fs::File::open(&path)
            .unwrap()
            .read_to_string(&mut lines)
            .unwrap();
        assert!(lines.lines().count() < 60, "{}", path.display());
    }
}
