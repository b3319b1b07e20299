//! `--queue`: the spool as a table for people, read from the files alone. Needs no lock and no daemon; a
//! message that vanishes while it is read is left out.

use super::folder::Name;
use super::format::{Envelope, Recipient, State};
use super::queued::{LoadError, read_envelope};
use crate::message::Id;
use nix::fcntl::OFlag;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// One message; `Err` holds what is wrong with its file.
type Entry = (Id, Result<(Envelope, SystemTime), String>);

const HEADS: [&str; 7] = [
    "ID",
    "AGE",
    "SIZE",
    "NEXT TRY",
    "SENDER",
    "WAITING FOR",
    "LAST ANSWER",
];

/// The table; `None` if nothing waits.
///
/// # Errors
/// `NotFound` if there is no such folder; else what the system reports.
pub fn table(dir: &Path) -> io::Result<Option<String>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Name::Message(id) = Name::of(&entry.file_name())
            // A link or a folder of such a name is a stranger, as in a scan.
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Some(found) = read(dir, id)?
        {
            entries.push((id, found));
        }
    }
    entries.sort_by_key(|(id, _)| *id);
    Ok((!entries.is_empty()).then(|| draw(&entries, SystemTime::now())))
}

fn read(dir: &Path, id: Id) -> io::Result<Option<Result<(Envelope, SystemTime), String>>> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = match options.open(dir.join(id.to_string())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let read = read_envelope(&file, id);
    // Finished meanwhile: another message may have been written over it.
    if gone(&dir.join(id.to_string())) {
        return Ok(None);
    }
    match read {
        Ok((_, envelope, next_try)) => Ok(Some(Ok((envelope, next_try)))),
        Err(LoadError::Damaged(why)) => Ok(Some(Err(why))),
        Err(LoadError::Vanished) => Ok(None),
        Err(LoadError::Io(e)) => Err(e),
    }
}

fn gone(path: &Path) -> bool {
    path.symlink_metadata()
        .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// A row a waiting recipient. No entry but the last holds a blank of ours, and none is empty, so that awk can tell the
/// columns.
fn draw(entries: &[Entry], now: SystemTime) -> String {
    let mut rows = vec![HEADS.map(String::from)];
    let mut waiting = 0;
    for (id, entry) in entries {
        let (envelope, next_try) = match entry {
            Ok(found) => found,
            Err(why) => {
                let [age, size, next, from, to] = ["?"; 5].map(String::from);
                let why = format!("damaged: {why}");
                rows.push([id.to_string(), age, size, next, from, to, why]);
                continue;
            }
        };
        let row = |to: String, answer: &str| {
            let age = now.duration_since(envelope.received).unwrap_or_default();
            let wait = next_try.duration_since(now);
            [
                id.to_string(),
                span(age),
                octets(envelope.size),
                wait.map_or("now".into(), span),
                envelope.from.to_string(),
                to,
                answer.into(),
            ]
        };
        let before = rows.len();
        let left = envelope
            .recipients
            .iter()
            .filter(|r| r.state == State::Waiting);
        let of = envelope.log_of();
        let answer = |r: &Recipient| format!("{of} {}", r.last_answer).trim().to_owned();
        rows.extend(left.map(|r| row(r.to.to_string(), &answer(r))));
        waiting += rows.len() - before;
        if rows.len() == before {
            // It could not be removed when its last recipient was recorded.
            rows.push(row("nobody".into(), ""));
        }
    }
    let plural = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let messages = plural(entries.len(), "message");
    let recipients = plural(waiting, "recipient");
    format!("{}{messages}, {recipients} waiting\n", lay_out(&rows))
}

/// Columns as wide as their widest entry, the last one free.
fn lay_out(rows: &[[String; 7]]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (width, entry) in widths.iter_mut().zip(row) {
            *width = entry.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, entry) in widths.iter().zip(row) {
            let _ = write!(line, "{entry:width$}  ");
        }
        line.push_str(&row[6]);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A time in its two largest units: `4d3h`, `2m10s`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A size in the units of mail.conf.
fn octets(size: u64) -> String {
    match size {
        0..10_240 => size.to_string(),
        10_240..10_485_760 => format!("{}K", size >> 10),
        _ => format!("{}M", size >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::ForwardPath;
    use crate::store::spool::format;
    use crate::store::spool::format::Origin;

    #[test]
    fn a_message_is_one_row_a_waiting_recipient() {
        let now = SystemTime::now();
        let received = now - Duration::from_secs(7_500);
        let to = [
            "<mary@example.net>",
            "<done@example.net>",
            "<fred@example.com>",
        ]
        .map(|s| s.parse::<ForwardPath>().unwrap().into());
        let id = Id::parse("0001f2e3d4c5b6a7").unwrap();
        let (bytes, _) = format::envelope(
            id,
            Id::parse("0001f2e3d4c5b6a6"),
            &"<john@example.org>".parse().unwrap(),
            received,
            Origin::Inside,
            &to,
            20_000,
        );
        let mut envelope = format::parse(&bytes).unwrap();
        envelope.recipients[0].last_answer = "mx said: 451 later".into();
        envelope.recipients[1].state = State::Done;
        let bad = Id::parse("0001f2e3d4c5b6a8").unwrap();
        let entries = [
            (id, Ok((envelope, now + Duration::from_secs(130)))),
            (bad, Err("it is empty".into())),
        ];
        assert_eq!(
            draw(&entries, now),
            "\
ID                AGE   SIZE  NEXT TRY  SENDER              WAITING FOR         LAST ANSWER
0001f2e3d4c5b6a7  2h5m  19K   2m10s     <john@example.org>  <mary@example.net>  of=0001f2e3d4c5b6a6 mx said: 451 later
0001f2e3d4c5b6a7  2h5m  19K   2m10s     <john@example.org>  <fred@example.com>  of=0001f2e3d4c5b6a6
0001f2e3d4c5b6a8  ?     ?     ?         ?                   ?                   damaged: it is empty
2 messages, 2 recipients waiting
"
        );
    }

    #[test]
    fn units_are_the_largest_that_say_enough() {
        let spans = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_600, "1h0m"),
            (90_000, "1d1h"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        let sizes = [
            (0, "0"),
            (10_239, "10239"),
            (10_240, "10K"),
            (26_214_400, "25M"),
        ];
        for (size, text) in sizes {
            assert_eq!(octets(size), text);
        }
    }
}
