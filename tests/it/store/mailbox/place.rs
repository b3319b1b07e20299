//! A private folder with a spool, copies to deliver, and what an mbox should then hold.

use smtpd788::mailbox::{MailboxMessage, Mailboxes};
use smtpd788::message::{Body, BodyWriter};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
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

    /// Whether any note is not struck out.
    pub(crate) fn noted(&self) -> bool {
        fs::read(self.spool.join("appending"))
            .unwrap()
            .chunks(4096)
            .any(|slot| slot[0] == b'+')
    }

    /// A note as a killed process leaves it.
    pub(crate) fn note(&self, ino: u64, from: u64, to: u64) {
        let dev = fs::metadata(self.folder.path()).unwrap().dev();
        let path = self.mbox.to_str().unwrap();
        let text = format!("+ {dev} {ino} {from} {to} {} {path}\n", path.len());
        fs::write(self.spool.join("appending"), text).unwrap();
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
