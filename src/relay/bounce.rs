//! The text of an undeliverable-mail report (RFC 3464 in RFC 6522's multipart/report), with three parts: words for a
//! person, message/delivery-status for a program, and the headers of the message, not its body.
//!
//! Pure: the same [`Report`] gives the same octets. Everything that came from outside is made printable first, so that
//! nobody can put a header or a part of his own into a report. The report itself is seven-bit, also when the headers of
//! the message are not. It goes out from `<>`, so that it is never itself reported on.

use crate::message::Id;
use crate::smtp::address::{ForwardPath, Host, Mailbox};
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::message_id::MessageId;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use std::borrow::Cow;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Original headers that are returned; what is longer is cut at a line end.
const MAX_HEADERS: usize = 50 * 1024;
/// RFC 5322 2.1.1, less a few. A longer line of headers is encoded.
const MAX_LINE: usize = 990;
/// Text is folded at this column where there is a space.
const WIDTH: usize = 76;

/// Why a recipient was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The next hop refused: `diagnostic` holds its words.
    Refused,
    /// The domain is ours, and has nobody of that name.
    NoSuchUser,
    /// There is no way to the domain, now or ever.
    Unroutable,
    /// QUEUE_LIFETIME has passed; `diagnostic` is the last answer.
    Expired,
    /// QUEUE_LIFETIME has passed, and a mailbox of this host could not be written. Why is for its postmaster alone:
    /// `diagnostic` may name files, and is not shown.
    Mailbox,
}

/// One recipient that failed for good.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Whom the message did not reach, as the sender wrote it.
    pub to: ForwardPath,
    /// Where mail for `to` is forwarded to. The report does not name it.
    pub forwarded_to: Option<ForwardPath>,
    /// Why it was given up.
    pub reason: Reason,
    /// A fate's or a route's text: the remote host's own words, or ours.
    pub diagnostic: String,
    /// The host that refused, such as `mx.example.org`; `None` if no host did.
    pub remote: Option<String>,
}

/// What a report tells.
#[derive(Debug)]
pub struct Report<'a> {
    /// HOSTNAME.
    pub hostname: &'a Host,
    /// The sender of the message. (There is nobody to tell for mail from `<>`.)
    pub to: &'a Mailbox,
    /// Of the message.
    pub id: Id,
    /// When it was accepted.
    pub received: SystemTime,
    /// When it is given up.
    pub now: SystemTime,
    /// At least one.
    pub failures: &'a [Failure],
    /// The message from its start; LF-ended. No more than its headers is used.
    pub original: &'a [u8],
}

/// The report's content, LF-ended.
pub fn compose(report: &Report<'_>) -> Vec<u8> {
    let (hostname, id) = (report.hostname.to_string(), report.id);
    let words = words(report);
    let status = status(report);
    let headers = headers(report.original);
    let stamp = since_epoch(report.now).as_nanos();
    let boundary = boundary(id, stamp, headers);
    let kind = ContentType::new("multipart/report")
        .attribute("report-type", "delivery-status")
        .attribute("boundary", boundary);
    let parts = vec![
        seven_bit("text/plain; charset=us-ascii", words.into_bytes()),
        seven_bit("message/delivery-status", status.into_bytes()),
        original(headers),
    ];
    let daemon = format!("MAILER-DAEMON@{hostname}");
    let message = MessageBuilder::new()
        .date(Date::new(seconds(report.now)))
        .from(Address::from(("Mail Delivery System", daemon.as_str())))
        .to(Address::from(report.to.to_string()))
        .subject("Undeliverable mail: returned to sender")
        .message_id(MessageId::new(format!("{id}.{stamp}@{hostname}")))
        .header("Auto-Submitted", Raw::new("auto-replied"))
        .body(MimePart {
            headers: vec![("Content-Type".into(), kind.into())],
            contents: BodyPart::Multipart(parts),
        });
    let mut content = Vec::new();
    message.serialize(&mut content);
    content.retain(|octet| *octet != b'\r');
    content
}

/// The part for a person.
fn words(report: &Report<'_>) -> String {
    let mut text = String::new();
    let (one, accepted) = (report.failures.len() == 1, rfc5322(report.received));
    let whom = match one {
        true => "the recipient below",
        false => "the recipients below",
    };
    fold(
        &mut text,
        "",
        &format!(
            "This is the mail system at {}. I am sorry to have to tell you that the message \
             which you sent, and which was accepted here on {accepted}, could not be delivered \
             to {whom}. No further attempt will be made.",
            report.hostname
        ),
    );
    for failure in report.failures {
        let _ = write!(text, "\n{}\n", failure.to);
        if matches!(failure.reason, Reason::Expired | Reason::Mailbox) {
            fold(
                &mut text,
                "    ",
                "Tried again and again, and given up. The last result was:",
            );
        }
        fold(&mut text, "    ", &printable(&diagnostic(failure)));
    }
    text.push('\n');
    fold(
        &mut text,
        "",
        &format!(
            "If you need help, show this report to your postmaster. The headers of your message \
             are attached; its name here was {}.",
            report.id
        ),
    );
    text
}

/// The part for a program (RFC 3464 2.1).
fn status(report: &Report<'_>) -> String {
    let mut text = format!(
        "Reporting-MTA: dns; {}\nArrival-Date: {}\n",
        report.hostname,
        rfc5322(report.received)
    );
    for failure in report.failures {
        let diagnostic = diagnostic(failure);
        let refusal = refusal(&diagnostic);
        let status = match failure.reason {
            Reason::Expired | Reason::Mailbox => "4.4.7".to_owned(),
            Reason::NoSuchUser => "5.1.1".to_owned(),
            Reason::Unroutable => "5.4.4".to_owned(),
            Reason::Refused => refusal.and_then(enhanced).unwrap_or("5.0.0").to_owned(),
        };
        let to = failure.to.mailbox();
        let _ = write!(
            text,
            "\nFinal-Recipient: rfc822; {to}\nAction: failed\nStatus: {status}\n"
        );
        if let Some(remote) = &failure.remote {
            let _ = writeln!(text, "Remote-MTA: dns; {}", printable(remote));
        }
        let _ = match refusal {
            Some(said) => writeln!(text, "Diagnostic-Code: smtp; {}", printable(said)),
            None => writeln!(
                text,
                "Diagnostic-Code: x-smtpd788; {}",
                printable(&diagnostic)
            ),
        };
    }
    text
}

/// What a stranger may read of it: nothing of our files, nor where mail is forwarded to.
fn diagnostic(failure: &Failure) -> Cow<'_, str> {
    if failure.reason == Reason::Mailbox {
        return Cow::from("the mailbox could not be written");
    }
    let mut text = Cow::from(&failure.diagnostic);
    if refusal(&text).is_none() {
        // These are no words of a host. Ours that begin with `/` name a file.
        let words = failure.diagnostic.split(' ');
        let shown: Vec<_> = words.filter(|word| !word.starts_with('/')).collect();
        text = Cow::from(shown.join(" "));
    }
    if let Some(path) = &failure.forwarded_to {
        let (hidden, shown) = (path.mailbox().to_string(), failure.to.mailbox().to_string());
        text = Cow::from(text.replace(&hidden, &shown));
    }
    text
}

/// `550 5.1.1 No such user`, from `HOST[ip]:port said at RCPT: 550 5.1.1 No such user`.
fn refusal(diagnostic: &str) -> Option<&str> {
    let (_, said) = diagnostic.split_once(" said")?;
    let (_, said) = said.split_once(": ")?;
    let code = said.get(..3)?;
    let is_code = code.bytes().all(|octet| octet.is_ascii_digit());
    (is_code && matches!(said.as_bytes().get(3), None | Some(b' '))).then_some(said)
}

/// `5.1.1` from `550 5.1.1 No such user` (RFC 2034, RFC 3463), if it is a failure for good.
fn enhanced(said: &str) -> Option<&str> {
    let status = said.get(4..)?.split(' ').next()?;
    let mut numbers = status.split('.');
    let is_number = |text: &str| (1..=3).contains(&text.len()) && text.parse::<u16>().is_ok();
    let valid = numbers.next() == Some("5")
        && numbers.next().is_some_and(is_number)
        && numbers.next().is_some_and(is_number)
        && numbers.next().is_none();
    valid.then_some(status)
}

/// Up to the empty line, whole lines, at most MAX_HEADERS.
fn headers(original: &[u8]) -> &[u8] {
    let mut end = 0;
    for line in original.split_inclusive(|octet| *octet == b'\n') {
        if line == b"\n" || end + line.len() > MAX_HEADERS {
            break;
        }
        end += line.len();
    }
    &original[..end]
}

/// As they are if they can be; else encoded by the library.
fn original(headers: &[u8]) -> MimePart<'_> {
    let lines = headers.split(|octet| *octet == b'\n');
    let plain = headers.is_ascii() && !headers.contains(&0);
    match plain && lines.into_iter().all(|line| line.len() <= MAX_LINE) {
        true => seven_bit("text/rfc822-headers", headers.to_vec()),
        false => MimePart::new("text/rfc822-headers", headers),
    }
}

fn seven_bit<'x>(kind: &'static str, content: Vec<u8>) -> MimePart<'x> {
    MimePart::raw(content)
        .header("Content-Type", Raw::new(kind))
        .transfer_encoding("7bit")
}

/// One that is in nothing we enclose. The text and the status are folded lines of ours without `=_`.
fn boundary(id: Id, stamp: u128, enclosed: &[u8]) -> String {
    let mut boundary = format!("=_{id}.{stamp}");
    while memchr::memmem::find(enclosed, boundary.as_bytes()).is_some() {
        boundary.push('_');
    }
    boundary
}

/// One line: what is not printable ASCII becomes `?`. (A fate's text has been escaped before.)
fn printable(text: &str) -> String {
    const MAX_TEXT: usize = 600;
    let visible = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
    text.chars().take(MAX_TEXT).map(visible).collect()
}

/// Appends words in lines of at most WIDTH, each after `indent`.
fn fold(text: &mut String, indent: &str, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        if column > 0 && column + 1 + word.len() <= WIDTH {
            text.push(' ');
            column += 1;
        } else {
            if column > 0 {
                text.push('\n');
            }
            text.push_str(indent);
            column = indent.len();
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
}

fn rfc5322(time: SystemTime) -> String {
    Date::new(seconds(time)).to_rfc822()
}

fn seconds(time: SystemTime) -> i64 {
    i64::try_from(since_epoch(time).as_secs()).unwrap_or_default()
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
