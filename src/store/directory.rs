//! Directories by descriptor: one way to open, to make and to sync them for the whole store.
//!
//! A path is walked component by component, each opened in the one before it, so that nobody can put
//! something else in the way between a check and its use. What is then done in the directory is done by
//! its descriptor.
//!
//! Two rules hold at each step, for the daemon may be root and the path may lead through a user's home:
//!
//! 1. A symbolic link is followed only if it belongs to root or to the daemon's user.
//! 2. In a directory that everybody may write in, an entry is used only if it belongs to root, to the
//!    daemon's user, or to the account of the entry's name ([`Directory::admits`]).

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{
    AccessFlags, Gid, Uid, UnlinkatFlags, User, faccessat, fchown, geteuid, unlinkat,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

/// Links followed in one walk at most, as the kernel has it.
const MAX_LINKS: usize = 40;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) fd: OwnedFd,
    pub(crate) status: FileStat,
}

/// Who a new directory is given to, and whose links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
}

/// What becomes of a directory that is missing. None is ever made behind a link: what the link names may
/// be a disk that is not mounted.
#[derive(Clone, Copy)]
enum Missing {
    Fail,
    MakeLast,
    MakeAll(Option<Owner>),
}

/// Makes the directories of `path` that are missing (0700, durably), and gives them to `owner`. What exists
/// is left as it is.
///
/// # Errors
/// The system's; `PermissionDenied` with a text if a link or a directory of somebody else is on the way.
pub fn make(path: &Path, owner: Option<Owner>) -> io::Result<()> {
    Directory::make(path, owner).map(drop)
}

/// The device and the inode: which file it is, as long as it is open.
pub(crate) fn id(status: &FileStat) -> (u64, u64) {
    (status.st_dev, status.st_ino)
}

pub(crate) fn is_directory(status: &FileStat) -> bool {
    kind(status) == SFlag::S_IFDIR
}

pub(crate) fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT
}

impl Directory {
    /// Opens a directory that is there. A walk costs some 1 µs a component, beside the sync of a delivery.
    ///
    /// # Errors
    /// The system's; `PermissionDenied` with a text for one of the two rules.
    pub(crate) fn open(path: &Path) -> io::Result<Directory> {
        Directory::open_as(path, geteuid())
    }

    /// The same as it would be for a daemon of the user `ours`.
    pub(crate) fn open_as(path: &Path, ours: Uid) -> io::Result<Directory> {
        Walk::begin(path, Missing::Fail, ours)
    }

    /// The same; if only the last directory of `path` is missing, it is made (0700, durably).
    pub(crate) fn open_or_make_last(path: &Path) -> io::Result<Directory> {
        Walk::begin(path, Missing::MakeLast, geteuid())
    }

    /// The same; all that are missing are made (0700, durably) and given to `owner`, if there is one.
    pub(crate) fn make(path: &Path, owner: Option<Owner>) -> io::Result<Directory> {
        let ours = owner.map_or_else(geteuid, |owner| owner.uid);
        Walk::begin(path, Missing::MakeAll(owner), ours)
    }

    /// Whether `path` leads straight to this directory, which was opened by it before and is as it was then. One
    /// call of the kernel, where a walk is two for each component: 6 % of a delivery. False is no more than
    /// "walk": there may be a link on the way.
    pub(crate) fn is_still(&self, path: &Path) -> bool {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let straight = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let judged = |status: &FileStat| (id(status), status.st_uid, status.st_mode);
        let now = openat2(AT_FDCWD, path, straight).and_then(fstat);
        now.is_ok_and(|now| judged(&now) == judged(&self.status))
    }

    /// Whether an entry of this directory that belongs to `uid` may be used under `name`: false only where
    /// everybody may write.
    pub(crate) fn admits(&self, name: &OsStr, uid: u32) -> bool {
        self.status.st_mode & 0o002 == 0 || self.admits_beside(name, uid, geteuid())
    }

    pub(crate) fn admits_beside(&self, name: &OsStr, uid: u32, ours: Uid) -> bool {
        let uid = Uid::from_raw(uid);
        let account = || {
            let user = name.to_str().and_then(|name| User::from_name(name).ok()?);
            user.is_some_and(|user| user.uid == uid)
        };
        self.status.st_mode & 0o002 == 0 || uid.is_root() || uid == ours || account()
    }

    /// What the entry is, a link being itself.
    pub(crate) fn status(&self, name: &OsStr) -> io::Result<FileStat> {
        Ok(fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Opens an entry, never through a link.
    pub(crate) fn open_file(&self, name: &OsStr, flags: OFlag, mode: u32) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        Ok(openat(&self.fd, name, flags, mode)?.into())
    }

    /// Removes an entry; one that is gone already is no error.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Another descriptor of the same directory, which can be synced.
    pub(crate) fn readable(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(openat(&self.fd, ".", flags, Mode::empty())?.into())
    }

    /// The names in it, without `.` and `..`.
    pub(crate) fn names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let mut dir = Dir::from_fd(self.readable()?.into())?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if !matches!(&name[..], b"." | b"..") {
                names.push(OsStr::from_bytes(&name).to_owned());
            }
        }
        Ok(names)
    }

    /// Makes the names in it durable.
    ///
    /// # Errors
    /// The sync failed, or the directory may be written to and not read, and so not synced.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let synced = self.readable().and_then(|directory| directory.sync_all());
        match synced.as_ref().map_err(errno) {
            // A file system that has no such sync: no more can be done.
            Err(Some(Errno::EINVAL)) => Ok(()),
            // Whoever makes the names there, it is not this process.
            Err(Some(Errno::EACCES)) if !self.may(AccessFlags::W_OK) => Ok(()),
            Err(Some(Errno::EACCES)) => Err(denied(
                "its directory may be written but not read, so that no name in it can be made durable",
            )),
            _ => synced,
        }
    }

    /// Whether this process may do that with the directory.
    pub(crate) fn may(&self, access: AccessFlags) -> bool {
        faccessat(&self.fd, ".", access, AtFlags::AT_EACCESS).is_ok()
    }

    fn make_in(&self, name: &OsStr, owner: Option<Owner>) -> io::Result<()> {
        match mkdirat(&self.fd, name, Mode::S_IRWXU) {
            // Made by another thread just now, which may not have synced it yet.
            Err(Errno::EEXIST) => return self.sync(),
            other => other?,
        }
        // Whoever finds it takes it for durable, and for the owner's.
        self.finish(name, owner).inspect_err(|_| {
            let _ = unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir);
        })
    }

    fn finish(&self, name: &OsStr, owner: Option<Owner>) -> io::Result<()> {
        let new = self.open_file(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        if let Some(Owner { uid, gid }) = owner {
            if fstat(&new)?.st_uid != geteuid().as_raw() {
                return Err(denied("somebody has put another directory in its place"));
            }
            fchown(&new, Some(uid), Some(gid))?;
        }
        new.sync_all()?;
        self.sync()
    }
}

/// One walk along a path.
struct Walk {
    ours: Uid,
    links: usize,
}

impl Walk {
    fn begin(path: &Path, missing: Missing, ours: Uid) -> io::Result<Directory> {
        // An absolute path leaves it at once.
        let start = if path.is_absolute() { "/" } else { "." };
        let start = opened(open(start, step_flags(), Mode::empty())?)?;
        if start.status.st_nlink == 0 {
            let what = "the working directory is gone";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        Walk { ours, links: 0 }.along(start, path, missing)
    }

    fn along(&mut self, from: Directory, path: &Path, missing: Missing) -> io::Result<Directory> {
        let mut at = from;
        let mut rest = path.components().peekable();
        while let Some(component) = rest.next() {
            at = match component {
                Component::CurDir | Component::Prefix(_) => continue,
                Component::RootDir => opened(open("/", step_flags(), Mode::empty())?)?,
                Component::ParentDir => opened(openat(&at.fd, "..", step_flags(), Mode::empty())?)?,
                Component::Normal(name) => match (missing, self.step(&at, name)) {
                    (Missing::MakeAll(owner), Err(error)) if is_absent(&at, name, &error) => {
                        at.make_in(name, owner)?;
                        self.step(&at, name)?
                    }
                    (Missing::MakeLast, Err(error))
                        if rest.peek().is_none() && is_absent(&at, name, &error) =>
                    {
                        at.make_in(name, None)?;
                        self.step(&at, name)?
                    }
                    (_, next) => next?,
                },
            };
        }
        Ok(at)
    }

    fn step(&mut self, at: &Directory, name: &OsStr) -> io::Result<Directory> {
        let next = opened(openat(&at.fd, name, step_flags(), Mode::empty())?)?;
        let uid = next.status.st_uid;
        if kind(&next.status) == SFlag::S_IFLNK {
            if uid != 0 && uid != self.ours.as_raw() {
                return Err(denied(format!(
                    "{} on the way is a link of user {uid}",
                    name.display()
                )));
            }
            self.links += 1;
            if self.links > MAX_LINKS {
                return Err(Errno::ELOOP.into());
            }
            let target = readlinkat(&next.fd, "")?;
            let from = opened(openat(&at.fd, ".", step_flags(), Mode::empty())?)?;
            return self.along(from, Path::new(&target), Missing::Fail);
        }
        if !is_directory(&next.status) {
            return Err(Errno::ENOTDIR.into());
        }
        if !at.admits_beside(name, uid, self.ours) {
            return Err(denied(format!(
                "{} on the way lies where everybody may write, and belongs to user {uid}",
                name.display()
            )));
        }
        Ok(next)
    }
}

fn step_flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn opened(fd: OwnedFd) -> io::Result<Directory> {
    let status = fstat(&fd)?;
    Ok(Directory { fd, status })
}

/// Whether `error` says that `name` is missing itself, and is no link to nowhere.
fn is_absent(at: &Directory, name: &OsStr, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && at.status(name).is_err()
}

pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

/// Whether the error is one of the two rules', not the system's.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

pub(crate) fn denied(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.into())
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
