//! What the daemon asks of the system it runs on: its limits, and to give up root.
//!
//! Limits and root are settled before the first thread that serves anybody.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{
    Gid, Uid, User, getresgid, getresuid, initgroups, setgroups, setresgid, setresuid,
};

use crate::daemon::config::{Config, RunAs};

/// Raises the soft limit on open files to the hard one.
///
/// # Errors
/// What the system reports; the daemon can go on with the old limit.
pub fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// How many files may be kept open that need not be: `most`, and a sixteenth of the soft limit, which is the clients'.
pub fn files_to_keep(most: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(limit / 16).map_or(most, |some| some.min(most))
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
    let mailboxes = config.users.mailboxes().filter_map(Path::parent);
    for folder in mailboxes.chain([&*config.mail.spool_dir]) {
        make_folder(folder, owner).map_err(|error| (folder.to_owned(), error))?;
    }
    Ok(())
}

fn make_folder(folder: &Path, owner: &RunAs) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent, owner)?;
    }
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    chown(folder, Some(owner.uid), Some(owner.gid))
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
