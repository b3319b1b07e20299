//! Calls on files that the whole store shares: the lock of an open file, whole reads and whole writes.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::uio::pwritev;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

/// Takes the write lock of the whole file, now or never: false if somebody else holds it.
///
/// An OFD lock (fcntl_locking(2)): it belongs to the open file, so two threads exclude each other too, and
/// POSIX locks of other programs conflict with it.
///
/// # Errors
/// The system's. The descriptor should not be used again: on NFS it may be one that stays broken.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets the lock go. Closing the descriptor would end it as well; no failure could be mended here.
pub(crate) fn unlock(file: &File) {
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK)));
}

/// The process that holds a lock in the way of ours; `None` if nobody does, or it is an OFD lock, which has
/// no process.
pub(crate) fn lock_holder(file: &File) -> Option<i32> {
    let mut lock = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    let held = i32::from(lock.l_type) != libc::F_UNLCK && lock.l_pid > 0;
    held.then_some(lock.l_pid)
}

fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Writes all `parts` at `at`; where they end. On an error some of them may be written.
pub(crate) fn write_all(
    file: &File,
    mut at: u64,
    mut parts: &mut [IoSlice<'_>],
) -> io::Result<u64> {
    // Drops those that are empty: a write of nothing would look like a full device.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let offset = i64::try_from(at).map_err(|_| Errno::EFBIG)?;
        match pwritev(file, parts, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(at)
}

/// Fills `buffer` from `at`; fewer octets only where the file ends.
pub(crate) fn read_full(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], at + len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// The same error, for the next one whom it concerns.
pub(crate) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// How many files may be kept open that need not be: `most`, and a sixteenth of the soft limit on open
/// files, which is the clients'.
pub(crate) fn files_to_keep(most: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(limit / 16).map_or(most, |some| some.min(most))
}
