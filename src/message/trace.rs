//! The lines that a receiver puts on top of a message.

use std::fmt::Write;
use std::time::SystemTime;

use crate::message::{Envelope, date};
use crate::smtp::address::{ForwardPath, Host, ReversePath};

/// The trace line that reception writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStamp {
    /// `Received:`, as everything reads today.
    Received,
    /// `Mail-From:`, as RFC 788 4.1.2 writes it.
    MailFrom,
}

/// The time stamp line that a receiver puts on top, LF-ended: `Received:` as everything reads today, or `Mail-From:`
/// as RFC 788 4.1.2 writes it. The recipient is named only if there is just one, so that nobody learns of another.
pub fn time_stamp_line(style: TimeStamp, hostname: &Host, envelope: &Envelope) -> String {
    let Envelope {
        helo, id, received, ..
    } = envelope;
    let mut line = String::with_capacity(256);
    // Writing into a String cannot fail.
    match style {
        TimeStamp::Received => {
            let client = Host::literal(envelope.client);
            let _ = write!(
                line,
                "Received: from {helo} ({client}) by {hostname} with SMTP id {id}"
            );
            if let [one] = &envelope.to[..] {
                let _ = write!(line, " for {one}");
            }
            let _ = writeln!(line, "; {}", date::received(*received));
        }
        TimeStamp::MailFrom => {
            let at = date::mail_from(*received);
            let _ = writeln!(line, "Mail-From: {helo} received by {hostname} at {at}");
        }
    }
    line
}

/// Lines that name a recipient in one copy; a copy for more names the first ones.
const DELIVERED_TO: usize = 100;

/// The lines that begin a message in an mbox file, LF-ended: the `From ` line, the return path line (RFC 788 4.1.1), and
/// a line for each recipient that this copy is `to`. `more` is what follows them.
pub fn mbox_heading(from: &ReversePath, now: SystemTime, to: &[ForwardPath], more: &str) -> String {
    let mut heading = String::with_capacity(256 + more.len());
    heading.push_str("From ");
    // Writing into a String cannot fail.
    let _ = match from {
        ReversePath::Null => heading.write_str("MAILER-DAEMON"),
        ReversePath::Mailbox(mailbox) => write!(heading, "{mailbox}"),
    };
    let _ = writeln!(heading, " {}\nReturn-Path: {from}", date::asctime(now));
    for to in to.iter().take(DELIVERED_TO) {
        let _ = writeln!(heading, "Delivered-To: {to}");
    }
    heading.push_str(more);
    heading
}
