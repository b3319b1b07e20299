//! How lines leave: a bounded queue, and one thread that writes what has gathered there.

use std::mem;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use ::log::Level;

use super::line::line;
use super::output::write_all;

/// Lines that wait for a slow reader, in octets.
const QUEUE_MAX: usize = 256 * 1024;

/// How long a reader may stall beside a full queue; then lines are lost until it reads again.
const STALL: Duration = Duration::from_secs(1);

/// How long the writer lets lines gather: a busy log needs few writes, and its lines wake nobody.
const GATHER: Duration = Duration::from_millis(1);

/// Lines on their way out.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    lost: u64,
    writing: bool,
    /// The reader had its time.
    stalled: bool,
}

impl Queue {
    /// Takes one line. Waits for room while the reader reads, and once when it does not.
    pub(super) fn put(&self, line: &str) {
        let room = QUEUE_MAX - line.len();
        let full = |state: &mut State| state.lines.len() > room && !state.stalled;
        let waited = self.changed.wait_timeout_while(self.state(), STALL, full);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.lines.len() > room {
            state.stalled = true;
            state.lost += 1;
            return;
        }
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line.as_bytes());
        drop(state);
        if first {
            self.changed.notify_all();
        }
    }

    /// Waits until all that was put is written, for `most` at most.
    pub(super) fn flush(&self, most: Duration) {
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.changed.wait_timeout_while(self.state(), most, busy));
    }

    /// Waits for lines and writes them to `fd`, whatever becomes of them there. `torn`: the last write ended inside a
    /// line.
    pub(super) fn write_next(&self, fd: &impl AsFd, torn: &mut bool) {
        let nothing = |state: &mut State| state.lines.is_empty();
        drop(self.changed.wait_while(self.state(), nothing));
        thread::sleep(GATHER);
        let mut state = self.state();
        let mut lines = mem::take(&mut state.lines);
        let lost = mem::take(&mut state.lost);
        state.writing = true;
        drop(state);
        self.changed.notify_all();
        if lost > 0 {
            let note = format_args!("log: {lost} lines lost");
            lines.extend(line(SystemTime::now(), Level::Warn, &note).into_bytes());
        }
        if mem::take(torn) {
            write_all(fd, b"\n");
        }
        let (written, left) = lines.split_at(lines.len() - write_all(fd, &lines));
        *torn = written.last().is_some_and(|end| *end != b'\n');
        let mut state = self.state();
        if !left.is_empty() {
            // The note is the last line of them, if there is one.
            let lines = memchr::memchr_iter(b'\n', left).count() as u64;
            state.lost += lines + lost.saturating_sub(1);
        }
        (state.writing, state.stalled) = (false, false);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{self, Read, Seek};
    use std::os::fd::OwnedFd;

    #[test]
    fn a_stalled_reader_costs_lines_and_is_told() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::default();
        let text = format!("{}\n", "x".repeat(1023));
        for _ in 0..QUEUE_MAX / 1024 + 3 {
            queue.put(&text); // what does not fit is lost, and nobody waits
        }
        thread::scope(|scope| {
            scope.spawn(move || {
                queue.write_next(&writer, &mut false);
                queue.put("back\n");
                queue.put("again\n");
                queue.write_next(&writer, &mut false);
            });
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            let rest = all[QUEUE_MAX..].lines().collect::<Vec<_>>();
            assert!(rest[0].ends_with(" WARN  log: 3 lines lost"), "{rest:?}");
            assert_eq!(rest[1..], ["back", "again"]);
        });
    }

    #[test]
    fn a_closed_reader_and_a_full_disk_are_ignored_and_counted() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for fd in [OwnedFd::from(writer), OwnedFd::from(full)] {
            let (queue, mut torn) = (Queue::default(), false);
            for lines in ["nobody reads this\nnor this\n", "or that\n", "nor that\n"] {
                queue.put(lines);
                queue.write_next(&fd, &mut torn);
            }
            assert_eq!(queue.state().lost, 4);
            assert!(!torn);
            let file = tempfile::tempfile().unwrap();
            queue.put("at last\n");
            queue.write_next(&file, &mut torn);
            let text = all(&file);
            assert!(
                text.starts_with("at last\n") && text.ends_with(" log: 4 lines lost\n"),
                "{text}"
            );
            assert_eq!(queue.state().lost, 0);
        }
    }

    #[test]
    fn a_line_that_was_cut_is_ended_before_the_next() {
        let file = tempfile::tempfile().unwrap();
        let (queue, mut torn) = (Queue::default(), true);
        for line in ["next\n", "more\n"] {
            queue.put(line);
            queue.write_next(&file, &mut torn);
        }
        assert_eq!(all(&file), "\nnext\nmore\n");
    }

    fn all(mut file: &File) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_flush_ends_when_all_is_written_or_the_reader_had_its_time() {
        let queue = Queue::default();
        queue.flush(Duration::from_secs(600)); // nothing to wait for
        queue.put("line\n");
        queue.flush(Duration::from_millis(1)); // nobody writes
        let file = tempfile::tempfile().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| queue.write_next(&file, &mut false));
            queue.flush(Duration::from_secs(600));
            assert_eq!(file.metadata().unwrap().len(), 5);
        });
    }
}
