//! Real clients against the real daemon: each sends the same hard letter, and the mailbox holds it as it was sent.
//!
//! lettre is not among them: its SMTP connection begins with EHLO and takes the refusal for the end
//! (`SmtpConnection::connect`; it has no HELO at all), so it cannot speak to a server of RFC 788 or of RFC 821.

use crate::common::daemon::{Daemon, Setup, messages};
use crate::common::programs::{crlf, letter, octets, program, run};
use std::fs;
use std::path::PathBuf;

fn start() -> Daemon {
    Setup::default().start()
}

fn file(daemon: &Daemon, name: &str, content: &[u8]) -> PathBuf {
    let file = daemon.path(name);
    fs::write(&file, content).unwrap();
    file
}

fn port(daemon: &Daemon) -> String {
    daemon.addr().port().to_string()
}

/// John's mailbox holds `count` times the letter, octet by octet, under the lines of a delivery; and the
/// client ended in good order.
#[track_caller]
fn assert_arrived(daemon: &Daemon, count: usize) {
    let mbox = octets(&fs::read(daemon.path("john/mbox")).unwrap());
    let messages = messages(&mbox);
    assert_eq!(messages.len(), count, "{mbox}");
    for message in messages {
        let content = message
            .strip_prefix("Return-Path: <mary@example.com>\nDelivered-To: <john@mail.example>\n")
            .unwrap();
        let (trace, content) = content.split_once('\n').unwrap();
        assert!(trace.starts_with("Received: from "), "{trace}");
        assert!(trace.contains(" for <john@mail.example>; "), "{trace}");
        assert_eq!(content, octets(&letter()) + "\n");
    }
    assert_eq!(daemon.wait_for_count(" accepted ", count).len(), count);
}

/// A dialog as a script at netcat writes it, LF-ended.
fn dialog() -> Vec<u8> {
    let doubled = octets(&letter()).replace("\n.", "\n..");
    let text = format!(
        "HELO mary.example\nMAIL FROM:<mary@example.com>\nRCPT TO:<john@mail.example>\nDATA\n{doubled}.\nQUIT\n"
    );
    text.chars().map(|c| c as u8).collect()
}

#[track_caller]
fn netcat(name: &str, options: &[&str], dialog: &[u8]) {
    let daemon = start();
    let dialog = file(&daemon, "dialog", dialog);
    let mut nc = program(name);
    nc.args(options).args(["127.0.0.1", &port(&daemon)]);
    let said = run(&mut nc, Some(&dialog));
    let codes: Vec<&str> = said.lines().map(|line| &line[..3]).collect();
    let expected = ["220", "250", "250", "250", "354", "250", "221"];
    assert_eq!(codes, expected, "{said}");
    assert_arrived(&daemon, 1);
}

#[test]
#[ignore = "needs nc.openbsd (Debian package netcat-openbsd)"]
fn netcat_openbsd() {
    netcat("nc.openbsd", &[], &dialog());
    netcat("nc.openbsd", &["-N"], &dialog());
    netcat("nc.openbsd", &["-C"], &dialog()); // sends CRLF for LF
    netcat("nc.openbsd", &[], &crlf(&dialog()));
}

#[test]
#[ignore = "needs nc.traditional (Debian package netcat-traditional)"]
fn netcat_traditional() {
    netcat("nc.traditional", &[], &dialog());
    netcat("nc.traditional", &["-C"], &dialog()); // sends CRLF for LF
    netcat("nc.traditional", &[], &crlf(&dialog()));
}

#[test]
#[ignore = "needs swaks (Debian package swaks)"]
fn swaks() {
    for (protocol, replies) in [("SMTP", "<-  250 mail.example"), ("ESMTP", "<** 500 ")] {
        let daemon = start();
        let letter = letter();
        let unended = letter.strip_suffix(b"\n").unwrap(); // it ends the last line itself
        let letter = file(&daemon, "letter", unended);
        let mut swaks = program("swaks");
        swaks.args(["--server", "127.0.0.1", "--port", &port(&daemon)]);
        swaks.args(["--protocol", protocol, "--helo", "mary.example"]);
        swaks.args(["--from", "mary@example.com", "--to", "john@mail.example"]);
        swaks.arg("--data").arg(format!("@{}", letter.display()));
        let said = run(&mut swaks, None);
        assert!(said.contains(replies), "{said}");
        assert!(said.contains("-> HELO mary.example"), "{said}");
        assert!(said.contains("<-  221 mail.example"), "{said}");
        assert_arrived(&daemon, 1);
    }
}

#[test]
#[ignore = "needs curl (Debian package curl)"]
fn curl() {
    let daemon = start();
    let letter = file(&daemon, "letter", &crlf(&letter()));
    let mut curl = program("curl");
    let url = format!("smtp://{}/mary.example", daemon.addr());
    curl.args(["--silent", "--show-error", "--verbose", &url]);
    curl.args(["--mail-from", "mary@example.com"]);
    curl.args(["--mail-rcpt", "john@mail.example"]);
    curl.arg("--upload-file").arg(letter);
    let said = run(&mut curl, None);
    for line in ["> EHLO mary.example", "> HELO mary.example", "< 250 OK id="] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_arrived(&daemon, 1);

    // A refusal reaches its user: 55 is "failed sending", and curl names the reply.
    let mut curl = program("curl");
    curl.args([
        "--silent",
        "--show-error",
        &url,
        "--mail-from",
        "mary@example.com",
    ]);
    curl.args([
        "--mail-rcpt",
        "nobody@mail.example",
        "--upload-file",
        "/dev/null",
    ]);
    let output = curl.output().unwrap();
    assert_eq!(output.status.code(), Some(55));
    let said = octets(&output.stderr);
    assert!(said.contains("550"), "{said}");
}

#[test]
#[ignore = "needs msmtp (Debian package msmtp)"]
fn msmtp() {
    let daemon = start();
    let letter = file(&daemon, "letter", &letter());
    let mut msmtp = program("msmtp");
    msmtp.args([
        "--file=/dev/null",
        "--host=127.0.0.1",
        "--tls=off",
        "--auth=off",
    ]);
    msmtp.arg(format!("--port={}", daemon.addr().port()));
    msmtp.args([
        "--domain=mary.example",
        "--from=mary@example.com",
        "--debug",
    ]);
    msmtp.arg("john@mail.example");
    let said = run(&mut msmtp, Some(&letter));
    for line in ["--> EHLO mary.example", "<-- 500 ", "--> HELO mary.example"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(said.contains("<-- 221 "), "{said}");
    assert_arrived(&daemon, 1);
}

#[test]
#[ignore = "needs python3 (Debian package python3)"]
fn python_smtplib() {
    const SCRIPT: &str = "
import smtplib, sys
port, file = int(sys.argv[1]), sys.argv[2]
letter = open(file, 'rb').read()
with smtplib.SMTP('127.0.0.1', port, local_hostname='mary.example') as smtp:
    for _ in range(2):
        assert smtp.sendmail('mary@example.com', ['john@mail.example'], letter) == {}
    assert smtp.helo_resp == b'mail.example', smtp.helo_resp
    assert smtp.noop() == (250, b'OK')
    code, text = smtp.verify('john')
    assert code == 502, code
    refused = smtp.sendmail('mary@example.com', ['nobody@mail.example', 'jack@mail.example'], letter)
    assert refused == {'nobody@mail.example': (550, b'No such user here')}, refused
    try:
        smtp.sendmail('mary@example.com', ['nobody@mail.example'], letter)
        raise SystemExit('a refusal went unseen')
    except smtplib.SMTPRecipientsRefused as error:
        pass
";
    let daemon = start();
    let letter = file(&daemon, "letter", &crlf(&letter())); // octets are sent as they are
    let mut python = program("python3");
    python.args(["-c", SCRIPT, &port(&daemon)]).arg(letter);
    run(&mut python, None);
    fs::remove_file(daemon.path("jack")).unwrap();
    daemon.wait_for_count(" accepted ", 3);
    let mbox = octets(&fs::read(daemon.path("john/mbox")).unwrap());
    assert_eq!(mbox.matches("\nDate: Sat, 21 Nov 2026").count(), 2);
}

#[test]
#[ignore = "needs perl with Net::SMTP (Debian package perl)"]
fn perl_net_smtp() {
    const SCRIPT: &str = "
use strict; use warnings; use Net::SMTP;
my ($port, $file) = @ARGV;
open(my $in, '<:raw', $file) or die; my @letter = <$in>;
my $smtp = Net::SMTP->new('127.0.0.1', Port => $port, Hello => 'mary.example') or die qq(connect: $@);
$smtp->domain eq 'mail.example' or die 'domain: ' . $smtp->domain;
$smtp->mail('mary@example.com') or die 'mail: ' . $smtp->message;
$smtp->to('nobody@mail.example') and die 'a refusal went unseen';
$smtp->code == 550 or die 'code: ' . $smtp->code;
$smtp->to('john@mail.example') or die 'to: ' . $smtp->message;
$smtp->data(\\@letter) or die 'data: ' . $smtp->message;
$smtp->quit or die 'quit';
";
    let daemon = start();
    let letter = file(&daemon, "letter", &letter());
    let mut perl = program("perl");
    perl.args(["-e", &SCRIPT.replace("\\\\", "\\"), &port(&daemon)]);
    run(perl.arg(letter), None);
    assert_arrived(&daemon, 1);
}

#[test]
#[ignore = "needs nodejs and npm (Debian packages of these names), and the npm registry"]
fn nodemailer() {
    const SCRIPT: &str = "
const fs = require('fs'), nodemailer = require('nodemailer');
const [port, file] = process.argv.slice(2);
const transport = nodemailer.createTransport({
    host: '127.0.0.1', port: Number(port), secure: false, name: 'mary.example', ignoreTLS: true });
const letter = (to) => transport.sendMail({
    envelope: { from: 'mary@example.com', to }, raw: fs.readFileSync(file) });
(async () => {
    const info = await letter(['john@mail.example', 'nobody@mail.example']);
    if (info.accepted[0] !== 'john@mail.example' || info.rejected[0] !== 'nobody@mail.example')
        throw new Error(JSON.stringify(info));
    const error = await letter(['nobody@mail.example']).catch((error) => error);
    if (error.responseCode !== 550) throw new Error('a refusal went unseen: ' + JSON.stringify(error));
    transport.close();
})().catch((error) => { console.error(error); process.exit(1); });
";
    let daemon = start();
    let letter = file(&daemon, "letter", &letter());
    let script = file(&daemon, "send.js", SCRIPT.as_bytes());
    let mut npm = program("npm");
    npm.args([
        "install",
        "--no-audit",
        "--no-fund",
        "--no-save",
        "nodemailer",
    ]);
    run(npm.arg("--prefix").arg(daemon.folder.path()), None);
    let mut node = program("node");
    run(node.arg(script).arg(port(&daemon)).arg(letter), None);
    assert_arrived(&daemon, 1);
}
