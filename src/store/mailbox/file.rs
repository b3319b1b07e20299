//! Which file a mailbox path names, and whether it is fit to be written to: a regular file with one
//! name, never reached through a symbolic link; nothing in its place can make a thread hang.

use crate::store::mailbox::MailboxError;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
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
    let found = file.metadata()?;
    refuse_odd(&found)?;
    Ok(Some(Open {
        file: Arc::new(file),
        id: (found.dev(), found.ino()),
    }))
}

/// Anything but a regular file with one name.
pub(crate) fn refuse_odd(found: &Metadata) -> Result<(), MailboxError> {
    let kind = found.file_type();
    let what = if kind.is_file() {
        match found.nlink() {
            // None: it was removed, which the path will tell.
            0 | 1 => return Ok(()),
            names => {
                return Err(MailboxError::NotAFile(format!(
                    "a file with {names} hard links"
                )));
            }
        }
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "a socket or a device"
    };
    Err(MailboxError::NotAFile(what.into()))
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
