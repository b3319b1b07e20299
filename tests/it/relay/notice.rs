//! Undeliverable-mail reports, whole and under hostile input.

use smtpd788::message::Id;
use smtpd788::relay::bounce::{Failure, Reason, Report, compose};
use std::time::{Duration, UNIX_EPOCH};

const ORIGINAL: &[u8] = b"Received: from x\nSubject: =_=_ hello\n\nbody: secret\n";

fn failure(reason: Reason, diagnostic: &str, remote: Option<&str>) -> Failure {
    Failure {
        to: "<john@example.org>".parse().unwrap(),
        forwarded_to: None,
        reason,
        diagnostic: diagnostic.to_owned(),
        remote: remote.map(str::to_owned),
    }
}

fn report(hostname: &str, failures: &[Failure], original: &[u8]) -> String {
    let received = UNIX_EPOCH + Duration::from_secs(1_795_300_000);
    let content = compose(&Report {
        hostname: &hostname.parse().unwrap(),
        to: &"mary@example.com".parse().unwrap(),
        id: Id::parse("00000000deadbeef").unwrap(),
        received,
        now: received + Duration::from_secs(60),
        failures,
        original,
    });
    String::from_utf8(content).unwrap()
}

fn refused() -> Failure {
    let said = "mx.example.org[192.0.2.1]:25 said: 550 5.1.1 No such user here";
    failure(Reason::Refused, said, Some("mx.example.org"))
}

#[test]
fn a_whole_report() {
    let expected = "\
Date: Sat, 21 Nov 2026 22:27:40 +0000
From: \"Mail Delivery System\" <MAILER-DAEMON@mail.example.com>
To: <mary@example.com>
Subject: Undeliverable mail: returned to sender
Message-ID: <00000000deadbeef.1795300060000000000@mail.example.com>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=\"delivery-status\";
 boundary=\"=_00000000deadbeef.1795300060000000000\"

--=_00000000deadbeef.1795300060000000000
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

This is the mail system at mail.example.com. I am sorry to have to tell you
that the message which you sent, and which was accepted here on Sat, 21 Nov
2026 22:26:40 +0000, could not be delivered to the recipient below. No
further attempt will be made.

<john@example.org>
    mx.example.org[192.0.2.1]:25 said: 550 5.1.1 No such user here

If you need help, show this report to your postmaster. The headers of your
message are attached; its name here was 00000000deadbeef.

--=_00000000deadbeef.1795300060000000000
Content-Type: message/delivery-status
Content-Transfer-Encoding: 7bit

Reporting-MTA: dns; mail.example.com
Arrival-Date: Sat, 21 Nov 2026 22:26:40 +0000

Final-Recipient: rfc822; john@example.org
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.example.org
Diagnostic-Code: smtp; 550 5.1.1 No such user here

--=_00000000deadbeef.1795300060000000000
Content-Type: text/rfc822-headers
Content-Transfer-Encoding: 7bit

Received: from x
Subject: =_=_ hello

--=_00000000deadbeef.1795300060000000000--
";
    let got = report("mail.example.com", &[refused()], ORIGINAL);
    assert_eq!(got, expected);
}

#[test]
fn each_reason_has_its_status() {
    use Reason::{Expired, Refused, Unroutable};
    let table = [
        (
            Refused,
            "mx said: 550 No such user",
            "5.0.0",
            "smtp; 550 No such user",
        ),
        (
            Refused,
            "mx said: 552 5.2.2 Full",
            "5.2.2",
            "smtp; 552 5.2.2 Full",
        ),
        (
            Refused,
            "mx said: 550 4.1.1 Odd",
            "5.0.0",
            "smtp; 550 4.1.1 Odd",
        ),
        (
            Refused,
            "mx said: 550 5.1.1.1 Odd",
            "5.0.0",
            "smtp; 550 5.1.1.1 Odd",
        ),
        (Refused, "mx said: 550", "5.0.0", "smtp; 550"),
        (
            Refused,
            "mx said: \u{e9}\u{e9}",
            "5.0.0",
            "x-smtpd788; mx said: ??",
        ),
        (
            Unroutable,
            "x.test does not exist",
            "5.4.4",
            "x-smtpd788; x.test does not exist",
        ),
        (Expired, "mx said: 450 Busy", "4.4.7", "smtp; 450 Busy"),
    ];
    for (reason, diagnostic, status, code) in table {
        let got = report("h.test", &[failure(reason, diagnostic, None)], ORIGINAL);
        let expected = format!("Action: failed\nStatus: {status}\nDiagnostic-Code: {code}\n");
        assert!(got.contains(&expected), "{diagnostic}: {got}");
    }
}

#[test]
fn every_recipient_has_a_block() {
    let expired = failure(Reason::Expired, "connection failed", Some("mx2.test"));
    let got = report("[192.0.2.9]", &[refused(), expired], ORIGINAL);
    assert_eq!(
        got.matches("\n\nFinal-Recipient: rfc822; john@example.org\n")
            .count(),
        2
    );
    for part in [
        "From: \"Mail Delivery System\" <MAILER-DAEMON@[192.0.2.9]>\n",
        "Reporting-MTA: dns; [192.0.2.9]\n",
        "Remote-MTA: dns; mx2.test\n",
        "the recipients below",
        "    Tried again and again",
    ] {
        assert!(got.contains(part), "{part}: {got}");
    }
}

#[test]
fn what_only_our_postmaster_may_know_is_not_told() {
    for diagnostic in [
        "/home/john/mail/mbox: Permission denied",
        "/srv/mbox: locked by process 4711 (/srv/mbox.lock)",
        "mailbox busy",
    ] {
        let got = report(
            "h.test",
            &[failure(Reason::Mailbox, diagnostic, None)],
            ORIGINAL,
        );
        let words = "    Tried again and again, and given up. The last result was:\n    the mailbox could not be written\n";
        assert!(got.contains(words), "{got}");
        let status =
            "Status: 4.4.7\nDiagnostic-Code: x-smtpd788; the mailbox could not be written\n";
        assert!(got.contains(status), "{got}");
        assert!(!got.contains(diagnostic), "{got}");
    }
    for forwarded_to in [None, Some("<hidden@home.example>".parse().unwrap())] {
        let unknown = "DNS lookup of b.example failed: /etc/resolv.conf: No such file or directory";
        let expired = Failure {
            forwarded_to,
            ..failure(Reason::Expired, unknown, None)
        };
        let got = report("h.test", &[expired], ORIGINAL);
        let words = "x-smtpd788; DNS lookup of b.example failed: No such file or directory\n";
        assert!(got.contains(words) && !got.contains("/etc"), "{got}");
    }
    let said = "mx.b.example[192.0.2.1]:25 said at RCPT: 550 see /help here";
    let got = report("h.test", &[failure(Reason::Refused, said, None)], ORIGINAL);
    assert!(got.contains("smtp; 550 see /help here\n"), "{got}");
    let forwarded = Failure {
        forwarded_to: Some("<hidden@home.example>".parse().unwrap()),
        ..failure(
            Reason::Refused,
            "mx.home.example[192.0.2.1]:25 said at RCPT: 550 <hidden@home.example>: no hidden@home.example",
            None,
        )
    };
    let got = report("h.test", &[forwarded], ORIGINAL);
    assert!(!got.contains("hidden@"), "{got}");
    assert!(
        got.contains("550 <john@example.org>: no john@example.org"),
        "{got}"
    );
}

#[test]
fn nobody_puts_lines_of_his_own_into_it() {
    let words = "mx said: 550 no\r\nX-Evil: yes\n\n--=_00000000deadbeef\n\u{1b}[2J";
    let evil = failure(Reason::Refused, words, Some("mx\nX-Evil: yes"));
    let got = report("h.test", &[evil], ORIGINAL);
    assert!(got.lines().all(|line| !line.starts_with("X-Evil")), "{got}");
    assert!(
        got.bytes()
            .all(|octet| octet == b'\n' || (b' '..=b'~').contains(&octet))
    );
    assert_eq!(got.lines().filter(|line| line.starts_with("--")).count(), 4);
}

#[test]
fn headers_of_any_kind_are_returned_whole_lines_and_bounded() {
    let boundary = "--=_00000000deadbeef.1795300060000000000";
    let long = format!("X: {}\n\nbody", "y".repeat(2000));
    let many = "X-Line: of some forty characters, or so\n".repeat(3000);
    let huge = format!("X: {}", "y".repeat(200_000));
    let table: [(&[u8], usize, &str); 7] = [
        (b"Subject: caf\xc3\xa9\n\nbody", 40, "Subject: caf=C3=A9\n"),
        (
            b"Subject: \xff\xfe\x00\n",
            40,
            "Content-Transfer-Encoding: ",
        ),
        (
            long.as_bytes(),
            3000,
            "Content-Transfer-Encoding: quoted-printable\n",
        ),
        (many.as_bytes(), 50 * 1024, "forty characters, or so\n\n--="),
        (huge.as_bytes(), 10, "7bit\n\n\n--="),
        (b"", 10, "7bit\n\n\n--="),
        (
            boundary.as_bytes(),
            100,
            "boundary=\"=_00000000deadbeef.1795300060000000000_\"",
        ),
    ];
    for (original, most, part) in table {
        let got = report("h.test", &[refused()], original);
        assert!(got.is_ascii() && !got.contains('\r'), "{got}");
        let (_, headers) = got
            .split_once("Content-Type: text/rfc822-headers\n")
            .unwrap();
        assert!(headers.len() < most + 150, "{}", headers.len());
        assert!(got.contains(part), "{part}: {got}");
        assert!(!got.contains("body"), "{got}");
        assert!(got.lines().all(|line| line.len() <= 998), "{got}");
    }
}
