//! Whose the spool is: one daemon's, and nobody else may have put anything into it.

use crate::store::directory::{Directory, denied, kind};
use crate::store::files;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{FileStat, SFlag};
use nix::unistd::{Gid, getegid, geteuid, getgroups};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another daemon holds the lock; its process id, or a question mark.
    #[error("{path} is in use by another smtpd788 (process {1})", path = .0.display())]
    InUse(PathBuf, String),
    /// The system refused something about this path.
    #[error("{path}: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
}

/// Whether a file may be one of ours: a plain file of root or of this process's user.
pub(crate) fn is_ours(status: &FileStat) -> bool {
    kind(status) == SFlag::S_IFREG && is_our_user(status.st_uid)
}

pub(crate) fn is_our_user(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// A folder that others own or may write in could hold messages that nobody has accepted.
pub(crate) fn check_owner(directory: &Directory) -> io::Result<()> {
    let FileStat {
        st_uid,
        st_gid,
        st_mode,
        ..
    } = directory.status;
    let gid = Gid::from_raw(st_gid);
    let our_group = || gid == getegid() || getgroups().is_ok_and(|all| all.contains(&gid));
    if !is_our_user(st_uid) {
        return Err(denied(format!(
            "belongs to user {st_uid}, not to the user of the daemon"
        )));
    }
    if st_mode & 0o002 != 0 {
        return Err(denied("can be written to by everybody: chmod o-w it"));
    }
    if st_mode & 0o020 != 0 && !our_group() {
        return Err(denied(format!(
            "can be written to by group {gid}: chmod g-w it"
        )));
    }
    Ok(())
}

/// The lock of a spool; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    _folder: Option<Flock<File>>,
}

impl Lock {
    /// Two locks. The one of the file `lock`, which then holds our process id, tells whose it is; but somebody may
    /// remove the file, and a second daemon would lock another one. So the folder itself is locked too
    /// (flock(2)), where the file system can do that.
    pub(crate) fn take(dir: &Path, directory: &Directory) -> Result<Lock, SpoolError> {
        let path = dir.join("lock");
        let there = |e| SpoolError::Io(path.clone(), e);
        let in_use = || {
            let text = ["lock", "pid"].map(|name| dir.join(name));
            let text = text
                .iter()
                .find_map(|path| std::fs::read_to_string(path).ok());
            let holder = text.as_deref().map(str::trim);
            let holder = holder.filter(|text| text.parse::<u32>().is_ok());
            SpoolError::InUse(dir.to_owned(), holder.unwrap_or("?").to_owned())
        };
        let whole = directory.readable().map_err(there)?;
        let whole = match Flock::lock(whole, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => return Err(in_use()),
            other => other.ok(),
        };
        let flags = OFlag::O_RDWR | OFlag::O_CREAT;
        let file = directory.open_file("lock".as_ref(), flags, 0o600);
        let file = file.map_err(there)?;
        if !files::try_lock(&file).map_err(there)? {
            return Err(in_use());
        }
        file.set_len(0)
            .and_then(|()| writeln!(&file, "{}", std::process::id()))
            .map_err(there)?;
        Ok(Lock {
            _file: file,
            _folder: whole,
        })
    }
}
