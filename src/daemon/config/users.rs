//! user.conf: one `name:where` a line.
//!
//! A name is a local part, written plain (unquoted), compared without regard to case; `*` catches every
//! local name that no other line has. Where is an mbox file, a directory that holds one named `mbox`,
//! or `<path>`: forwarded. Several names may share a file. What would make an odd file where an address,
//! a command or a comment was meant is a fault.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::daemon::config::lines::{Fault, read_lines};
use crate::daemon::config::mail::MailConf;
use crate::daemon::config::value::path;
use crate::smtp::address::{AddressError, ForwardPath, Host, Mailbox};

/// The name that stands for every other.
const ANYBODY: &str = "*";

/// Where mail for a local name goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The mbox file itself, `mbox` already added for a directory.
    Mbox(PathBuf),
    /// Not local any more: this path is not local.
    Forward(ForwardPath),
}

/// The local users.
#[derive(Clone, Debug, Default)]
pub struct Users {
    /// By name in lower case.
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    /// Where it was written; no part of what it says.
    line: usize,
}

impl PartialEq for Users {
    fn eq(&self, other: &Users) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Users {
    /// Where mail for `user` (unquoted) goes: its own line, without regard to ASCII case, or else
    /// that of `*`. `None`: no such user.
    pub fn find(&self, user: &str) -> Option<&Place> {
        let entry = self.entries.get(&user.to_ascii_lowercase());
        entry
            .or_else(|| self.entries.get(ANYBODY))
            .map(|entry| &entry.place)
    }

    /// Every name, in lower case and in order, with its place; `*` is the catch-all.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), &entry.place))
    }

    /// Every mbox file, with the first line that names it.
    pub fn mailboxes(&self) -> BTreeMap<&Path, usize> {
        let mut files = BTreeMap::new();
        for Entry { place, line } in self.entries.values() {
            if let Place::Mbox(file) = place {
                let first = files.entry(&**file).or_insert(*line);
                *first = (*first).min(*line);
            }
        }
        files
    }

    /// Adds a user, or moves the one of that name: for a receiver that reads no user.conf.
    pub fn insert(&mut self, name: &str, place: Place) {
        self.entries
            .insert(name.to_ascii_lowercase(), Entry { place, line: 1 });
    }

    /// What could be read, and every fault. `is_local` says which hosts are this one.
    pub(crate) fn read(file: &Path, is_local: &dyn Fn(&Host) -> bool) -> (Users, Vec<Fault>) {
        let mut users = Users::default();
        let faults = read_lines(file, |line, text| users.take(line, text, is_local));
        (users, faults.unwrap_or_else(|fault| vec![fault]))
    }

    /// Takes one line.
    fn take(
        &mut self,
        line: usize,
        text: &str,
        is_local: &dyn Fn(&Host) -> bool,
    ) -> Result<(), String> {
        if let Some((key, _)) = text.split_once('=')
            && MailConf::KEYS.contains(&key.trim_end())
        {
            return Err(
                "expected name:where (KEY = VALUE belongs in mail.conf, the first file)".into(),
            );
        }
        let (name, place) = text.split_once(':').ok_or("expected name:where")?;
        let name = local_part(name.trim())?;
        if let Some(first) = self.entries.get(&name) {
            return Err(format!(
                "the user \"{name}\" is named already, on line {}",
                first.line
            ));
        }
        let place = place.trim();
        let place = match place.strip_prefix('<') {
            Some(_) => Place::Forward(forward(place, is_local)?),
            None => Place::Mbox(mbox(place)?),
        };
        self.entries.insert(name, Entry { place, line });
        Ok(())
    }
}

/// A name in lower case.
fn local_part(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("no name before the colon".into());
    }
    if name.contains('@') {
        return Err("a name is only what stands before the @".into());
    }
    if name.contains(['"', '\\', '<', '>']) {
        return Err(format!(
            "the name \"{name}\" is written plain: without quotes or brackets"
        ));
    }
    // What an address cannot hold can never be asked for.
    match Mailbox::new(name, Host::literal(Ipv4Addr::LOCALHOST.into())) {
        Ok(_) => Ok(name.to_ascii_lowercase()),
        Err(AddressError::PathTooLong) => Err("the name is too long for an address".into()),
        Err(_) => Err(format!("\"{name}\" cannot be the user part of an address")),
    }
}

fn forward(text: &str, is_local: &dyn Fn(&Host) -> bool) -> Result<ForwardPath, String> {
    let path: ForwardPath = text
        .parse()
        .map_err(|error| format!("{text} is no path such as <john@example.org>: {error}"))?;
    if is_local(path.host()) {
        return Err(format!("{path} is local itself: name the mailbox instead"));
    }
    Ok(path)
}

fn mbox(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("nothing after the colon: write a file, a directory or <path>".into());
    }
    if text.starts_with('|') {
        return Err(
            "mail cannot be given to a command: write a file, a directory or <path>".into(),
        );
    }
    if text.contains('@') && !text.contains('/') {
        return Err(format!(
            "a path to forward to is written in brackets: <{text}>"
        ));
    }
    let file = path(text)?;
    let file = if text.ends_with('/') || file.is_dir() {
        file.join("mbox")
    } else {
        file
    };
    match file.file_name() {
        None => Err(format!("\"{text}\" names no file")),
        // The lock file of the mailbox `x` is `x.lock`, and may be removed as such.
        Some(_) if file.extension().is_some_and(|end| end == "lock") => {
            Err("a mailbox whose name ends in .lock would be taken for a lock file".into())
        }
        Some(_) => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Users, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let ours: [Host; 2] = [
            "here.example".parse().unwrap(),
            "[192.0.2.1]".parse().unwrap(),
        ];
        let (users, errors) = Users::read(file.path(), &|host| ours.contains(host));
        (
            users,
            errors
                .into_iter()
                .map(|(line, what)| format!("{line}: {what}"))
                .collect(),
        )
    }

    fn mbox_of(users: &Users, name: &str) -> String {
        match users.find(name) {
            Some(Place::Mbox(file)) => file.display().to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn places() {
        let dir = tempfile::tempdir().unwrap();
        let existing = dir.path().display();
        let text = format!(
            "# users\njohn : /m/john/ \r\nJack:/var/mail/jack\nann lee:{existing}\nrel:mbox/rel/\n\
             a.b:/m/a:b\nsue:/m/john//mbox\nbob:<bob@there.example>\nz:<z@[192.0.2.7]>\n"
        );
        let (users, errors) = read(&text);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(mbox_of(&users, "JOHN"), "/m/john/mbox");
        assert_eq!(mbox_of(&users, "jack"), "/var/mail/jack");
        assert_eq!(mbox_of(&users, "Ann Lee"), format!("{existing}/mbox"));
        assert_eq!(mbox_of(&users, "rel"), "mbox/rel/mbox");
        assert_eq!(mbox_of(&users, "a.b"), "/m/a:b");
        assert_eq!(
            users.find("bob"),
            Some(&Place::Forward("<bob@there.example>".parse().unwrap()))
        );
        assert!(users.find("nobody").is_none() && users.find("*").is_none());
        assert_eq!(users.iter().count(), 8);
        assert_eq!(users.mailboxes().len(), 5, "john and sue share a file");
    }

    #[test]
    fn anybody_comes_last() {
        let (users, _) = read("*:/m/rest\njohn:/m/john\n");
        assert_eq!(mbox_of(&users, "john"), "/m/john");
        assert_eq!(mbox_of(&users, "whoever"), "/m/rest");
    }

    #[test]
    fn faults() {
        let long = format!("{}:/m", "x".repeat(300));
        let rows = [
            ("john", "1: expected name:where"),
            (":/m/john", "1: no name before the colon"),
            (
                "john:",
                "1: nothing after the colon: write a file, a directory or <path>",
            ),
            (
                "john:/a\n\nJOHN:/b",
                "3: the user \"john\" is named already, on line 1",
            ),
            (
                "*:/a\n*:/b",
                "2: the user \"*\" is named already, on line 1",
            ),
            (
                "john@here.example:/m",
                "1: a name is only what stands before the @",
            ),
            (
                "\"john\":/m",
                "1: the name \"\"john\"\" is written plain: without quotes or brackets",
            ),
            (&long, "1: the name is too long for an address"),
            (
                "jos\u{e9}:/m",
                "1: \"jos\u{e9}\" cannot be the user part of an address",
            ),
            (
                "john:<john@HERE.example>",
                "1: <john@HERE.example> is local itself: name the mailbox instead",
            ),
            (
                "john:<x@[192.0.2.1]>",
                "1: <x@[192.0.2.1]> is local itself: name the mailbox instead",
            ),
            (
                "john:john@there.example",
                "1: a path to forward to is written in brackets: <john@there.example>",
            ),
            (
                "john:|procmail",
                "1: mail cannot be given to a command: write a file, a directory or <path>",
            ),
            (
                "john:~/mbox",
                "1: ~ means nothing here: write the whole path",
            ),
            ("john:/m/john # his", "1: a comment needs a line of its own"),
            (
                "john:/m/john.lock",
                "1: a mailbox whose name ends in .lock would be taken for a lock file",
            ),
            ("john:/nowhere/..", "1: \"/nowhere/..\" names no file"),
        ];
        for (text, fault) in rows {
            assert_eq!(read(text).1, [fault], "{text}");
        }
        for text in [
            "john:<>",
            "john:<john>",
            "john:<john@b c>",
            "john:<john@there.example",
        ] {
            let errors = read(text).1;
            assert!(
                errors.len() == 1 && errors[0].contains("is no path such as"),
                "{text} {errors:?}"
            );
        }
    }
}
