//! How lines leave: gathered at a desk, written by one thread at a time, never waited for longer than a stalled
//! reader's one second.

use std::fs::File;
use std::mem;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ::log::Level;
use nix::errno::Errno;

use super::line::{LINE_MAX, write_line};
use super::writable;

/// Lines that wait while another thread writes, in octets; more are counted as lost.
const QUEUE_MAX: usize = 256 * 1024;

/// How long a stalled reader is waited for, once, before lines are dropped.
pub(super) const STALL: Duration = Duration::from_secs(1);

/// Lines on their way out. Whoever finds nobody writing writes, and then writes what others left meanwhile; they do
/// not wait. So a busy log needs fewer writes, and a slow one holds up one thread at the most.
pub(super) struct Desk<F> {
    queue: Mutex<Queue>,
    idle: Condvar,
    sink: Mutex<Sink<F>>,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    lost: u64,
    writing: bool,
    /// Threads in [`Desk::flush`]: only they are told of an idle desk.
    flushing: usize,
}

impl<F: AsFd> Desk<F> {
    pub(super) fn new(sink: Sink<F>) -> Desk<F> {
        Desk {
            queue: Mutex::default(),
            idle: Condvar::new(),
            sink: Mutex::new(sink),
        }
    }

    /// Takes whole lines.
    pub(super) fn take(&self, lines: &[u8]) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() + lines.len() > QUEUE_MAX {
            queue.lost = queue.lost.saturating_add(count(lines));
        } else {
            queue.lines.extend_from_slice(lines);
        }
        if queue.writing {
            return;
        }
        queue.writing = true;
        let mut spare = Vec::new();
        while !queue.lines.is_empty() {
            let lines = mem::replace(&mut queue.lines, spare);
            let lost = mem::take(&mut queue.lost);
            drop(queue);
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            sink.put(&lines);
            sink.lost = sink.lost.saturating_add(lost);
            drop(sink);
            spare = lines;
            spare.clear();
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        }
        queue.lines = spare; // its room is used again
        queue.writing = false;
        let awaited = queue.flushing > 0;
        drop(queue);
        if awaited {
            self.idle.notify_all();
        }
    }

    /// Waits until all is written, or a stalled reader has had its time.
    pub(super) fn flush(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.flushing += 1;
        let waited = self
            .idle
            .wait_timeout_while(queue, 2 * STALL, |queue| queue.writing);
        waited.unwrap_or_else(PoisonError::into_inner).0.flushing -= 1;
    }
}

/// Where lines go. A write takes whole lines and reports success, whatever happens.
pub(super) struct Sink<F> {
    fd: F,
    /// A regular file is always writable: no need to ask.
    regular: bool,
    stall: Duration,
    /// The last lines were not taken: do not wait for the next.
    stalled: bool,
    /// A write stopped inside a line: the next one starts with a line end.
    torn: bool,
    lost: u64,
}

impl<F: AsFd> Sink<F> {
    pub(super) fn new(fd: F, stall: Duration) -> Sink<F> {
        let file = fd.as_fd().try_clone_to_owned().map(File::from);
        let regular = file
            .and_then(|file| file.metadata())
            .is_ok_and(|data| data.is_file());
        Sink {
            fd,
            regular,
            stall,
            stalled: false,
            torn: false,
            lost: 0,
        }
    }

    /// Writes lines: all in one piece where a write cannot stall, else as many at a time as a pipe takes in one piece.
    fn put(&mut self, mut lines: &[u8]) {
        let most = if self.regular { usize::MAX } else { LINE_MAX };
        while !lines.is_empty() {
            let (piece, rest) = lines.split_at(whole_lines(lines, most));
            self.put_piece(piece);
            lines = rest;
        }
    }

    fn put_piece(&mut self, lines: &[u8]) {
        if self.lost > 0 {
            let mut note = String::new();
            let lost = format_args!("log: {} lines lost", self.lost);
            write_line(&mut note, SystemTime::now(), Level::Warn, &lost);
            if self.attempt(note.as_bytes()) == note.len() {
                self.lost = 0;
            }
        }
        let written = match self.lost {
            0 => self.attempt(lines),
            _ => 0,
        };
        let missing = lines.get(written..).unwrap_or_default();
        self.lost = self.lost.saturating_add(count(missing));
    }

    /// How many octets of whole lines were written.
    fn attempt(&mut self, lines: &[u8]) -> usize {
        let wait = if self.stalled {
            Duration::ZERO
        } else {
            self.stall
        };
        if !self.regular && !writable(&self.fd, Some(wait)) {
            self.stalled = true;
            return 0;
        }
        self.stalled = false;
        let ended;
        let (bytes, extra) = if self.torn {
            ended = [b"\n", lines].concat();
            (&ended[..], 1)
        } else {
            (lines, 0)
        };
        loop {
            match nix::unistd::write(&self.fd, bytes) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.stalled = true;
                    return 0;
                }
                Err(_) | Ok(0) => return 0,
                Ok(n) => {
                    let written = lines.get(..n - extra).unwrap_or_default();
                    self.torn = !written.is_empty() && !written.ends_with(b"\n");
                    return memchr::memrchr(b'\n', written).map_or(0, |end| end + 1);
                }
            }
        }
    }
}

/// The length of the whole lines within `most` octets; at least the first line's.
fn whole_lines(lines: &[u8], most: usize) -> usize {
    let within = &lines[..lines.len().min(most)];
    let end = memchr::memrchr(b'\n', within).or_else(|| memchr::memchr(b'\n', lines));
    end.map_or(lines.len(), |end| end + 1)
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, PipeReader, Read};

    fn stalled_sink() -> (PipeReader, Sink<io::PipeWriter>) {
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::new(writer, Duration::from_millis(10));
        let mut line = [b'x'; LINE_MAX];
        line[LINE_MAX - 1] = b'\n';
        while !sink.stalled {
            sink.put(&line);
        }
        (reader, sink)
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_is_told() {
        let (mut reader, mut sink) = stalled_sink();
        sink.put(b"lost too\nand this\n");
        assert_eq!(sink.lost, 3);
        let mut buffer = vec![0; 1 << 20];
        let full = reader.read(&mut buffer).unwrap();
        assert_eq!(full % LINE_MAX, 0, "whole lines only");
        sink.put(b"back\n");
        sink.put(b"again\n");
        drop(sink);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(&rest[25..], "WARN  log: 3 lines lost\nback\nagain\n");
    }

    #[test]
    fn a_closed_reader_is_ignored() {
        let (reader, mut sink) = stalled_sink();
        drop(reader);
        sink.put(b"nobody reads this\n");
        assert!(!sink.stalled, "a failing write does not wait");
        assert_eq!(sink.lost, 2);
        super::super::write_out(&sink.fd, b"nor this");
    }

    #[test]
    fn a_full_disk_is_ignored() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::new(full, Duration::from_millis(10));
        sink.put(b"no room\nnor here\n");
        assert_eq!(sink.lost, 2);
    }

    #[test]
    fn a_pipe_gets_as_many_whole_lines_as_it_takes_in_one_piece() {
        let text = b"one\ntwo\nthree";
        for (most, taken) in [(4, 4), (5, 4), (8, 8), (100, 8), (2, 4)] {
            assert_eq!(whole_lines(text, most), taken, "{most}");
        }
        assert_eq!(whole_lines(b"endless", 3), 7);
    }

    #[test]
    fn a_line_that_was_cut_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("log")).unwrap();
        let mut sink = Sink::new(file, STALL);
        sink.torn = true;
        sink.put(b"next\n");
        sink.put(b"more\n");
        let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(text, "\nnext\nmore\n");
    }

    #[test]
    fn a_flush_ends_when_the_writer_does() {
        let (mut reader, writer) = io::pipe().unwrap();
        let desk = Desk::new(Sink::new(writer, STALL));
        desk.queue.lock().unwrap().writing = true; // somebody is at it
        std::thread::scope(|scope| {
            let flush = scope.spawn(|| desk.flush());
            while desk.queue.lock().unwrap().flushing == 0 {
                std::thread::yield_now();
            }
            assert!(!flush.is_finished());
            desk.queue.lock().unwrap().writing = false; // and is done, with a line of ours after it
            desk.take(b"line\n");
        });
        drop(desk);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "line\n");
    }
}
