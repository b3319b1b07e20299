//! Which file a mailbox path names, and whether it is fit to be written to: a regular file with one
//! name, never reached through a symbolic link; nothing in its place can make a thread hang.

use crate::store::directory::{id, kind};
use crate::store::mailbox::MailboxError;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// An mbox file, open.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) file: Arc<File>,
    /// Device and inode.
    pub(crate) id: (u64, u64),
}

/// Opens the file, and makes an absent one (0600) if `create`. None if the file came or went
/// meanwhile.
pub(crate) fn open_file(path: &Path, create: bool) -> Result<Option<Open>, MailboxError> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(flags);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            match options.create_new(true).open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Err(error) => {
            return Err(match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ELOOP) => MailboxError::NotAFile("a symbolic link".into()),
                Some(Errno::EISDIR) => MailboxError::NotAFile("a directory".into()),
                Some(Errno::ENXIO) => MailboxError::NotAFile("a socket or a device".into()),
                _ => error.into(),
            });
        }
    };
    let found = fstat(&file).map_err(io::Error::from)?;
    refuse_odd(&found)?;
    Ok(Some(Open {
        file: Arc::new(file),
        id: id(&found),
    }))
}

/// Anything but a regular file with one name.
pub(crate) fn refuse_odd(found: &FileStat) -> Result<(), MailboxError> {
    match oddity(found) {
        None => Ok(()),
        Some(what) => Err(MailboxError::NotAFile(what)),
    }
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

/// Makes the names in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    match synced
        .as_ref()
        .map_err(|error| error.raw_os_error().map(Errno::from_raw))
    {
        // A directory that we may write to but not read, or a file system that has no such sync: no
        // more can be done.
        Err(Some(Errno::EACCES | Errno::EINVAL)) => Ok(()),
        _ => synced,
    }
}
