//! What the daemon asks of the system it runs on: its limits, and to give up root.
//!
//! Limits and root are settled before the first thread that serves anybody.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{
    Gid, Uid, User, getresgid, getresuid, initgroups, setgroups, setresgid, setresuid,
};

use crate::daemon::config::{Config, RunAs};
use crate::store::directory::{self, Owner};

/// Raises the soft limit on open files to the hard one.
///
/// # Errors
/// What the system reports; the daemon can go on with the old limit.
pub fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Makes a write beyond the file size limit an error (`EFBIG`) instead of the end of the process.
///
/// # Errors
/// What the system reports.
pub fn survive_file_size_limit() -> io::Result<()> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(nix::libc::SIGXFSZ, flag).map(drop)
}

/// Makes the folders that the daemon will need, as the user that it is about to become. What exists is left as it is.
///
/// # Errors
/// The first folder that cannot be made, with its reason.
pub fn make_folders(config: &Config, owner: &RunAs) -> Result<(), (PathBuf, io::Error)> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    let mailboxes = config.users.mailboxes().filter_map(Path::parent);
    for folder in mailboxes.chain([&*config.mail.spool_dir]) {
        directory::make(folder, Some(Owner { uid, gid }))
            .map_err(|error| (folder.to_owned(), error))?;
    }
    Ok(())
}

/// Becomes `owner` for good: groups, group and user, real, effective and saved.
///
/// # Errors
/// What the system refused, or that root could be had back; the daemon must not go on then.
pub fn become_user(owner: &RunAs) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    if !Uid::effective().is_root() {
        let same = Uid::effective() == uid && Gid::effective() == gid;
        return if same {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        };
    }
    match User::from_uid(uid)?.and_then(|user| std::ffi::CString::new(user.name).ok()) {
        Some(name) => initgroups(&name, gid)?,
        None => setgroups(&[gid])?,
    }
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let (users, groups) = (getresuid()?, getresgid()?);
    let given_up = [users.real, users.effective, users.saved] == [uid; 3]
        && [groups.real, groups.effective, groups.saved] == [gid; 3];
    let back =
        !uid.is_root() && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok();
    if given_up && !back {
        Ok(())
    } else {
        Err(io::Error::other("root was not given up"))
    }
}
