//! Octets to a descriptor that may be slow, or gone.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

/// Writes `text` as it is to standard output, for `-h`, `-V`, `-t` and `-q`. Waits for a slow reader;
/// a failure is ignored, as nobody is left to be told.
pub fn out(text: &str) {
    write_all(&io::stdout(), text.as_bytes());
}

/// Writes `text` as it is to standard error; otherwise like [`out`].
pub fn err(text: &str) {
    write_all(&io::stderr(), text.as_bytes());
}

/// Writes `octets`, waiting for a slow reader; how many of them are left after an error.
pub(super) fn write_all(fd: &impl AsFd, mut octets: &[u8]) -> usize {
    while !octets.is_empty() {
        match nix::unistd::write(fd, octets) {
            Ok(n) if n > 0 => octets = octets.get(n..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Standard output may be shared with somebody who made it non-blocking.
            Err(Errno::EAGAIN) => thread::sleep(Duration::from_millis(10)),
            _ => break,
        }
    }
    octets.len()
}
