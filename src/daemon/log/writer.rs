//! How lines leave: a bounded queue, and one thread that writes what has gathered there.

use std::mem;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use ::log::Level;

use super::line::line;
use super::output::write_all;

/// Lines that wait for a slow reader, in octets; more are counted as lost.
const QUEUE_MAX: usize = 256 * 1024;

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
}

impl Queue {
    /// Takes one line. Never waits for a reader.
    pub(super) fn put(&self, line: &str) {
        let mut state = self.state();
        if state.lines.len() + line.len() > QUEUE_MAX {
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

    /// Waits for lines and writes them to `sink`, whatever becomes of them there.
    pub(super) fn write_next(&self, sink: &mut Sink<impl AsFd>) {
        let nothing = |state: &mut State| state.lines.is_empty();
        drop(self.changed.wait_while(self.state(), nothing));
        thread::sleep(GATHER);
        let mut state = self.state();
        let lines = mem::take(&mut state.lines);
        let lost = mem::take(&mut state.lost);
        state.writing = true;
        drop(state);
        sink.put(&lines);
        sink.lost += lost;
        sink.tell_lost();
        self.state().writing = false;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where lines go.
pub(super) struct Sink<F> {
    fd: F,
    /// A write failed inside a line: the next one starts with a line end.
    torn: bool,
    /// Lines that nobody was told of yet.
    lost: u64,
}

impl<F: AsFd> Sink<F> {
    pub(super) fn new(fd: F) -> Sink<F> {
        let (torn, lost) = (false, 0);
        Sink { fd, torn, lost }
    }

    fn put(&mut self, lines: &[u8]) {
        self.tell_lost();
        let left = self.write(lines);
        self.lost += memchr::memchr_iter(b'\n', &lines[lines.len() - left..]).count() as u64;
    }

    /// Says how many lines were lost, if any; until that succeeds, they are kept in mind.
    fn tell_lost(&mut self) {
        if self.lost > 0 {
            let lost = format_args!("log: {} lines lost", self.lost);
            let note = line(SystemTime::now(), Level::Warn, &lost);
            if self.write(note.as_bytes()) == 0 {
                self.lost = 0;
            }
        }
    }

    /// How many octets are left that could not be written.
    fn write(&mut self, lines: &[u8]) -> usize {
        if self.torn && write_all(&self.fd, b"\n") > 0 {
            return lines.len();
        }
        let left = write_all(&self.fd, lines);
        let end = lines[..lines.len() - left].last();
        self.torn = end.is_some_and(|end| *end != b'\n');
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{self, Read};

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
                let mut sink = Sink::new(writer);
                queue.write_next(&mut sink);
                queue.put("back\n");
                queue.put("again\n");
                queue.write_next(&mut sink);
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
        let mut sinks = [
            Sink::new(File::from(std::os::fd::OwnedFd::from(writer))),
            Sink::new(full),
        ];
        for sink in &mut sinks {
            sink.put(b"nobody reads this\nnor this\n");
            sink.put(b"or that\n");
            assert_eq!(sink.lost, 3);
        }
    }

    #[test]
    fn what_was_lost_is_told_before_the_next_line_and_a_cut_line_is_ended() {
        let file = tempfile::tempfile().unwrap();
        let mut sink = Sink::new(&file);
        (sink.torn, sink.lost) = (true, 2);
        sink.put(b"next\n");
        sink.put(b"more\n");
        let mut text = String::new();
        io::Seek::rewind(&mut &file).unwrap();
        (&file).read_to_string(&mut text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].ends_with(" WARN  log: 2 lines lost"), "{lines:?}");
        assert_eq!([lines[0], lines[2], lines[3]], ["", "next", "more"]);
    }

    #[test]
    fn a_flush_ends_when_all_is_written_or_the_reader_had_its_time() {
        let queue = Queue::default();
        queue.flush(Duration::from_secs(600)); // nothing to wait for
        queue.put("line\n");
        queue.flush(Duration::from_millis(1)); // nobody writes
        let file = tempfile::tempfile().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| queue.write_next(&mut Sink::new(&file)));
            queue.flush(Duration::from_secs(600));
            assert_eq!(file.metadata().unwrap().len(), 5);
        });
    }
}
