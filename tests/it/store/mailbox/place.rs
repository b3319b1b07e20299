//! A private folder with a spool, copies to deliver, and what an mbox should then hold.

use smtpd788::mailbox::{MailboxMessage, Mailboxes};
use smtpd788::message::{Body, BodyWriter};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const HEADING: &str =
    "From a@b.example Sat Nov 21 22:30:01 2026\nReturn-Path: <a@b.example>\nReceived: from x\n";

/// A folder with a spool, and the path of a mailbox that isn't there yet.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) spool: PathBuf,
    pub(crate) mbox: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        fs::create_dir(&spool).unwrap();
        let mbox = folder.path().join("mbox");
        Place {
            folder,
            spool,
            mbox,
        }
    }

    pub(crate) fn open(&self) -> Mailboxes {
        let (mailboxes, lines) = self.recover();
        assert_eq!(lines, [""; 0]);
        mailboxes
    }

    pub(crate) fn recover(&self) -> (Mailboxes, Vec<String>) {
        let (mailboxes, lines) = Mailboxes::open(Some(&self.spool)).unwrap();
        mailboxes.set_patience(Duration::from_millis(50));
        (mailboxes, lines)
    }

    pub(crate) fn content(&self) -> String {
        fs::read_to_string(&self.mbox).unwrap()
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.folder.path().join("mbox.lock")
    }

    /// Whether the journal has any entry that is not cleared.
    pub(crate) fn entered(&self) -> bool {
        fs::read(self.spool.join("appending"))
            .unwrap()
            .chunks(4096)
            .any(|slot| slot[0] == b'+')
    }
}

pub(crate) fn copy(body: impl AsRef<[u8]>) -> MailboxMessage {
    MailboxMessage {
        heading: Arc::from(HEADING.as_bytes()),
        body: Arc::new(Body::from_bytes(body.as_ref().to_vec())),
    }
}

/// `body` in a file, with something before and after it that is not part of it.
pub(crate) fn spilled(body: &[u8]) -> MailboxMessage {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before").unwrap();
    file.write_all(body).unwrap();
    file.write_all(b"\nFrom after").unwrap();
    let body = Body::from_file(file, 6, body.len() as u64);
    MailboxMessage {
        heading: Arc::from(HEADING.as_bytes()),
        body: Arc::new(body),
    }
}

/// A copy of a body as it is received: beyond what is kept in memory, its beginning is in a file.
pub(crate) fn received(body: &[u8]) -> MailboxMessage {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = BodyWriter::new(folder.path());
    writer.push(body);
    MailboxMessage {
        heading: Arc::from(HEADING.as_bytes()),
        body: Arc::new(writer.finish().unwrap()),
    }
}

/// The file that an independent, plain reading of the rule gives.
pub(crate) fn expected(bodies: &[&str]) -> String {
    let mut out = String::new();
    for body in bodies {
        out += HEADING;
        let ended = body.is_empty() || body.ends_with('\n');
        for line in body.split_inclusive('\n') {
            if line.trim_start_matches('>').starts_with("From ") {
                out.push('>');
            }
            out += line;
        }
        out += if ended { "\n" } else { "\n\n" };
    }
    out
}
