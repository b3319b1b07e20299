//! Real readers of the mailbox that the daemon writes: all see the same messages, whatever the bodies look like.

use crate::common::daemon::{Daemon, Setup};
use crate::common::programs::{crlf, letter, octets, program, run, run_at_terminal};
use std::fs;
use std::path::PathBuf;

/// Content to tempt a reader into seeing another number of messages.
fn contents() -> Vec<(&'static str, Vec<u8>)> {
    let with = |subject: &str, body: &str| {
        format!("Subject: {subject}\nFrom: <mary@example.com>\n\n{body}").into_bytes()
    };
    let separator = "From mary@example.com Sat Nov 21 22:30:01 2026\n";
    vec![
        ("hard on clients", letter()),
        (
            "whole",
            with("whole", &format!("\n{separator}Subject: not this\n\nx\n")),
        ),
        ("first line", with("first line", separator)),
        (
            "quoted before",
            with("quoted before", &format!("\n>{separator}\n>>{separator}")),
        ),
        ("nothing", with("nothing", "")),
        ("blank lines", with("blank lines", "\n\n\n")),
        (
            "length",
            b"Subject: length\nContent-Length: 30\n\nnot thirty octets\n".to_vec(),
        ),
        ("last", with("last", "no blank line follows\nFrom \n")),
    ]
}

/// A daemon that has taken them all, and a copy of its mailbox for a reader that may write into it.
fn delivered() -> (Daemon, PathBuf) {
    let daemon = Setup::default().start();
    let mut client = daemon.greeted();
    for (_, content) in contents() {
        let dotted = octets(&crlf(&content)).replace("\r\n.", "\r\n..");
        client.command("MAIL FROM:<mary@example.com>", "250");
        client.command("RCPT TO:<john@mail.example>", "250");
        client.command("DATA", "354");
        client.send(dotted.chars().map(|c| c as u8).collect::<Vec<u8>>());
        client.send(".\r\n");
        client.expect("250 OK id=");
    }
    let copy = daemon.path("copy");
    fs::copy(daemon.path("john/mbox"), &copy).unwrap();
    (daemon, copy)
}

fn subjects() -> Vec<&'static str> {
    contents().into_iter().map(|(subject, _)| subject).collect()
}

#[test]
#[ignore = "needs python3 (Debian package python3)"]
fn python_mailbox() {
    // The module leaves the quotes where they are: taken off here, one from every `>+From `.
    const SCRIPT: &str = "
import mailbox, re, sys
box = mailbox.mbox(sys.argv[1], create=False)
for key in box.keys():
    assert box[key].get_from().startswith('mary@example.com '), box[key].get_from()
    raw = box.get_bytes(key)
    content = re.sub(rb'(?m)^>(>*From )', rb'\\1', raw).split(b'\\n', 3)
    assert content[0] == b'Return-Path: <mary@example.com>', content[0]
    assert content[1] == b'Delivered-To: <john@mail.example>', content[1]
    assert content[2].startswith(b'Received: '), content[2]
    with open(f'{sys.argv[1]}.{key}', 'wb') as out:
        out.write(content[3])
print(len(box))
";
    let (daemon, copy) = delivered();
    let script = SCRIPT.replace("\\\\", "\\");
    let said = run(program("python3").args(["-c", &script]).arg(&copy), None);
    assert_eq!(said.trim(), contents().len().to_string());
    for (index, (subject, content)) in contents().into_iter().enumerate() {
        let read = fs::read(daemon.path(&format!("copy.{index}"))).unwrap();
        assert_eq!(octets(&read), octets(&content), "{subject}");
    }
}

#[test]
#[ignore = "needs mutt and script (Debian packages mutt and bsdutils)"]
fn mutt() {
    let (daemon, copy) = delivered();
    let before = fs::read(&copy).unwrap();
    let out = daemon.path("out");
    let pipe = format!("<pipe-message>(cat; echo =====) >>{}<enter>", out.display());
    let keys = vec![pipe; contents().len()].join("<next-entry>");
    let home = daemon.folder.path();
    let settings = format!(
        "set folder=\"{}\" sort=mailbox-order quit=yes copy=no wait_key=no pipe_decode=no pipe_split=yes\n\
         push \"<first-entry>{keys}<exit>\"\n",
        home.display()
    );
    let muttrc = daemon.path("muttrc");
    fs::write(&muttrc, settings).unwrap();
    // It wants a terminal.
    let command = format!("mutt -n -F {} -R -f {}", muttrc.display(), copy.display());
    run_at_terminal(&command, home);
    let read = octets(&fs::read(&out).unwrap());
    let read: Vec<&str> = read.split_terminator("=====\n").collect();
    let found: Vec<&str> = read.iter().map(|message| subject(message)).collect();
    assert_eq!(found, subjects());
    assert_eq!(fs::read(&copy).unwrap(), before, "a reader with -R");
    let letter = octets(&letter())
        .replace("\nFrom ", "\n>From ")
        .replace("\n>From there", "\n>>From there");
    assert!(read[0].contains(&letter), "{}", read[0]);
}

/// The first `Subject:` of a message.
fn subject(message: &str) -> &str {
    let line = message
        .lines()
        .find_map(|line| line.strip_prefix("Subject: "));
    line.unwrap_or_else(|| panic!("no subject: {message}"))
}

#[test]
#[ignore = "needs formail (Debian package procmail)"]
fn formail() {
    let (_daemon, copy) = delivered();
    let mut formail = program("formail");
    let said = run(
        formail.args(["-Y", "-s", "formail", "-zxSubject:"]),
        Some(&copy),
    );
    assert_eq!(said.lines().collect::<Vec<_>>(), subjects());
}

#[test]
#[ignore = "needs messages and frm (Debian package mailutils)"]
fn mailutils() {
    let (_daemon, copy) = delivered();
    // Its exit status says whether mail is new.
    let said = run(
        program("sh").args(["-c", "frm \"$0\"; true"]).arg(&copy),
        None,
    );
    let found: Vec<&str> = said
        .lines()
        .map(|line| line.split_once('\t').unwrap().1.trim())
        .collect();
    assert_eq!(found, subjects());
    let said = run(program("messages").arg(&copy), None);
    assert!(
        said.trim_end()
            .ends_with(&format!(": {}", contents().len())),
        "{said}"
    );
}
