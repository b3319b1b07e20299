//! Which file a mailbox path names, and whether it is fit to be written to: a regular file with one
//! name, never reached through a symbolic link; nothing in its place can make a thread hang.

use crate::message::escape::Escaped;
use crate::store::directory::{Directory, errno, id, kind};
use crate::store::mailbox::delivery::MailboxError;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An mbox file, open.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) file: Arc<File>,
    /// Device and inode.
    pub(crate) id: (u64, u64),
    /// Its name in the directory is known to be on stable storage.
    pub(crate) named: bool,
    /// The directory that it was opened in.
    pub(crate) directory: Arc<Directory>,
}

/// Where a mailbox is: the directory that its path leads to now, and the names in it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: Arc<Directory>,
    pub(crate) name: OsString,
    /// The dotlock's name.
    pub(crate) lock: OsString,
    /// Absolute.
    pub(crate) path: PathBuf,
}

/// Which mailbox it is, by whatever path: the directory's device and inode, and the name in it.
pub(crate) type Key = (u64, u64, OsString);

impl Place {
    /// Follows the path. With `make`, its last directory is made if only that is missing.
    pub(crate) fn find(path: &Path, make: bool) -> Result<Place, MailboxError> {
        let directory = match make {
            true => Directory::open_or_make_last(parent(path)),
            false => Directory::open(parent(path)),
        }?;
        Place::at(path, Arc::new(directory))
    }

    /// Looks whether the path leads to the same directory as for the last batch; follows it anew if not.
    pub(crate) fn find_again(
        path: &Path,
        last: Option<Arc<Directory>>,
    ) -> Result<Place, MailboxError> {
        match last.filter(|last| last.is_still(parent(path))) {
            Some(last) => Place::at(path, last),
            None => Place::find(path, true),
        }
    }

    fn at(path: &Path, directory: Arc<Directory>) -> Result<Place, MailboxError> {
        let Some(name) = path.file_name() else {
            return Err(MailboxError::NotAFile("a directory".into()));
        };
        let mut lock = name.to_owned();
        lock.push(".lock");
        Ok(Place {
            directory,
            name: name.to_owned(),
            lock,
            path: path.to_owned(),
        })
    }

    pub(crate) fn key(&self) -> Key {
        let (dev, ino) = id(&self.directory.status);
        (dev, ino, self.name.clone())
    }

    pub(crate) fn is(&self, key: &Key) -> bool {
        id(&self.directory.status) == (key.0, key.1) && self.name == key.2
    }

    /// Whether the path still leads to this directory.
    pub(crate) fn is_current(&self) -> bool {
        Directory::open(parent(&self.path))
            .is_ok_and(|found| id(&found.status) == id(&self.directory.status))
    }

    /// The path for the log.
    pub(crate) fn shown(&self) -> Escaped<&[u8]> {
        Escaped(self.path.as_os_str().as_bytes())
    }

    /// Opens the file, and makes an absent one (0600) if `create`. None if the file came or went
    /// meanwhile.
    pub(crate) fn open(&self, create: bool) -> Result<Option<Open>, MailboxError> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_NONBLOCK;
        let new = flags | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = match self.directory.open_file(&self.name, flags, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                match self.directory.open_file(&self.name, new, 0o600) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                    made => made?,
                }
            }
            Err(error) => {
                return Err(match errno(&error) {
                    Some(Errno::ELOOP) => MailboxError::NotAFile("a symbolic link".into()),
                    Some(Errno::EISDIR) => MailboxError::NotAFile("a directory".into()),
                    Some(Errno::ENXIO) => MailboxError::NotAFile("a socket or a device".into()),
                    _ => error.into(),
                });
            }
            Ok(file) => file,
        };
        let found = fstat(&file).map_err(io::Error::from)?;
        self.refuse_unfit(&found)?;
        Ok(Some(Open {
            file: Arc::new(file),
            id: id(&found),
            named: false,
            directory: Arc::clone(&self.directory),
        }))
    }

    /// What is there now, fit to be written to; None if there is nothing.
    pub(crate) fn status(&self) -> Result<Option<FileStat>, MailboxError> {
        match self.directory.status(&self.name) {
            Ok(found) => self.refuse_unfit(&found).map(|()| Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Anything but a regular file with one name, and where everybody may write also one of somebody else.
    fn refuse_unfit(&self, found: &FileStat) -> Result<(), MailboxError> {
        if let Some(what) = oddity(found) {
            return Err(MailboxError::NotAFile(what));
        }
        if !self.directory.admits(&self.name, found.st_uid) {
            return Err(MailboxError::NotAFile(foreign(found.st_uid)));
        }
        Ok(())
    }
}

/// Why a file in a directory that everybody may write in gets no mail.
pub(crate) fn foreign(uid: u32) -> String {
    format!("a file of user {uid} where everybody may write")
}

/// What something in a mailbox's place is, if no mail may be appended to it.
pub(crate) fn oddity(found: &FileStat) -> Option<String> {
    let what = match kind(found) {
        SFlag::S_IFREG => match found.st_nlink {
            // None: it was removed, which the path will tell.
            0 | 1 => return None,
            names => return Some(format!("a file with {names} hard links")),
        },
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a FIFO",
        _ => "a socket or a device",
    };
    Some(what.into())
}

/// The directory that a path's file lies in.
pub(crate) fn parent(mbox: &Path) -> &Path {
    match mbox.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// What has to go before the next message: the file's last line may be unended, its last message
/// without the empty line.
pub(crate) fn missing_end(file: &File, size: u64) -> io::Result<&'static [u8]> {
    let mut end = [b'\n'; 2];
    if size > 0 {
        let len = size.min(2);
        file.read_exact_at(&mut end[2 - len as usize..], size - len)?;
    }
    Ok(match &end {
        b"\n\n" => b"",
        [_, b'\n'] => b"\n",
        _ => b"\n\n",
    })
}
