//! What can be said about a mailbox before any mail comes: nothing is changed. The answer may be outdated a
//! moment later, so it replaces no check of a delivery.

use crate::store::directory::{Directory, errno};
use crate::store::mailbox::file::{foreign, oddity, parent};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::FileStat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{
    AccessFlags, Gid, Uid, User, faccessat, getegid, geteuid, getgrouplist, getgroups,
};
use std::ffi::{CString, OsStr};
use std::io;
use std::path::Path;

/// A user with its groups: who will deliver.
#[derive(Clone, Debug)]
pub struct Identity {
    uid: Uid,
    groups: Vec<Gid>,
}

/// What is wrong with a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Its directory is missing and cannot be made.
    Fault(String),
    /// Mail for it waits in the spool until this is mended.
    Warning(String),
}

impl Identity {
    /// The user that this process is.
    pub fn current() -> Identity {
        let mut groups = getgroups().unwrap_or_default();
        groups.push(getegid());
        Identity {
            uid: geteuid(),
            groups,
        }
    }

    /// The user `uid` with the group `gid` and those that the system gives it.
    pub fn of(uid: Uid, gid: Gid) -> Identity {
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        let name = name.and_then(|name| CString::new(name).ok());
        let groups = name.and_then(|name| getgrouplist(&name, gid).ok());
        Identity {
            uid,
            groups: groups.unwrap_or_else(|| vec![gid]),
        }
    }

    /// Whether the user may do that with an entry: by the system's answer if the user is this process, else by
    /// the mode.
    fn may(&self, at: &Directory, name: &OsStr, status: &FileStat, access: AccessFlags) -> bool {
        if self.uid == geteuid() {
            return faccessat(&at.fd, name, access, AtFlags::AT_EACCESS).is_ok();
        }
        let shift = match () {
            () if self.uid.is_root() => return true,
            () if self.uid.as_raw() == status.st_uid => 6,
            () if self.groups.contains(&Gid::from_raw(status.st_gid)) => 3,
            () => 0,
        };
        let wanted = access.bits().cast_unsigned();
        status.st_mode >> shift & wanted == wanted
    }
}

/// What is wrong with the mailbox `mbox` for `who`, who will deliver; links of `who` and root are followed.
/// Whether missing directories can be made is asked for this process, which may still be root.
pub fn check(mbox: &Path, who: &Identity) -> Option<Finding> {
    let folder = parent(mbox);
    for above in folder.ancestors() {
        // A relative path ends in "": the working directory.
        let shown = if above == Path::new("") { "." } else { "" };
        let shown = Path::new(shown).join(above);
        let shown = shown.display();
        match Directory::open_as(above, who.uid) {
            Ok(found) if above == folder => return check_file(&found, mbox, who),
            Ok(found) => return check_parent(&found).map(|why| fault(format!("{shown} {why}"))),
            Err(error) => match errno(&error) {
                Some(Errno::ENOENT) if !above.is_symlink() => {}
                Some(Errno::EACCES) | None => {
                    return Some(Finding::Warning(format!("{shown} cannot be used: {error}")));
                }
                Some(Errno::ENOTDIR) if above.exists() => {
                    return Some(fault(format!("{shown} is no directory")));
                }
                _ => return Some(fault(format!("{shown} cannot be used: {error}"))),
            },
        }
    }
    None
}

fn fault(what: String) -> Finding {
    Finding::Fault(what)
}

/// Why no directory can be made here.
fn check_parent(found: &Directory) -> Option<String> {
    let pretended = fstatfs(&found.fd)
        .is_ok_and(|status| [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&status.filesystem_type()));
    if pretended {
        return Some("is on a file system of the kernel's, which takes no files".into());
    }
    let access = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(&found.fd, ".", access, AtFlags::AT_EACCESS)
        .err()
        .map(|error| format!("cannot be written to: {}", error.desc()))
}

fn check_file(at: &Directory, mbox: &Path, who: &Identity) -> Option<Finding> {
    let name = mbox.file_name()?;
    let here = |access| who.may(at, OsStr::new("."), &at.status, access);
    let user = who.uid;
    let what = match at.status(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if here(AccessFlags::W_OK | AccessFlags::X_OK) {
                None
            } else {
                Some(format!("cannot be made by user {user}"))
            }
        }
        Err(error) => Some(format!("cannot be looked at: {error}")),
        Ok(status) => match oddity(&status) {
            Some(what) => Some(format!("is {what}")),
            None if !at.admits_beside(name, status.st_uid, user) => {
                Some(format!("is {}", foreign(status.st_uid)))
            }
            None if !who.may(at, name, &status, AccessFlags::R_OK | AccessFlags::W_OK) => {
                Some(format!("cannot be read and written by user {user}"))
            }
            None => None,
        },
    };
    let what = what.or_else(|| {
        (here(AccessFlags::W_OK) && !here(AccessFlags::R_OK)).then(|| {
            format!("lies in a directory that user {user} may write but not read, so not sync")
        })
    })?;
    let mbox = mbox.display();
    Some(Finding::Warning(format!(
        "mailbox {mbox} {what}: mail for it waits in the spool"
    )))
}
