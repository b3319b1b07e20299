//! The files of finished messages, which serve the next ones: nothing of one gets into another.

use super::spool::{HEADING, accept, content, file, names, scan, stored};
use smtpd788::message::{Body, Id};
use smtpd788::spool::{self, Spool};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

/// A message of `size` octets, and the inode of its file.
fn sized(spool: &Spool, size: usize) -> (Id, u64) {
    let id = Id::new();
    let body = Body::from_bytes(vec![b'y'; size]);
    accept(spool, id, &["<mary@example.net>"], &body).unwrap();
    let read = content(&spool.load(id).unwrap().unwrap().body().unwrap());
    assert_eq!(read, [HEADING, &vec![b'y'; size]].concat());
    (id, fs::metadata(file(spool, id)).unwrap().ino())
}

/// Ends a message as the queue does. Whether there was no recycled file before.
fn recycle(spool: &Spool, id: Id) -> bool {
    let queued = spool.load(id).unwrap().unwrap();
    queued.recycle().map_err(|(_, error)| error).unwrap()
}

#[test]
fn a_small_file_whose_message_is_finished_serves_the_next_ones() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let (mut id, first) = sized(&spool, 500);
    for size in [500, 3_000, 10, 0, 4_000] {
        let old = id;
        assert!(recycle(&spool, old), "the first");
        assert_eq!(names(temp.path()), [format!("{old}.new")]);
        assert!(scan(&spool).is_empty());
        assert_eq!(spool::table(temp.path()).unwrap(), None);
        let inode;
        (id, inode) = sized(&spool, size);
        assert_eq!(inode, first, "{size}");
        assert_eq!(names(temp.path()), [id.to_string()]);
    }
    // Two at a time need two; a large one needs its own, and is not kept.
    let (other, second) = sized(&spool, 1);
    assert_ne!(second, first);
    assert!(recycle(&spool, id) && !recycle(&spool, other));
    let (large, third) = sized(&spool, 100_000);
    assert!(third != first && third != second);
    assert!(!recycle(&spool, large));
    assert_eq!(names(temp.path()).len(), 2);
    // The next start removes what a kill leaves, and an end leaves nothing.
    let left = names(temp.path());
    let kept = temp.path().join("kept");
    fs::create_dir(&kept).unwrap();
    for name in &left {
        fs::copy(temp.path().join(name), kept.join(name)).unwrap();
    }
    drop(spool);
    assert_eq!(names(temp.path()), ["kept"]);
    drop(Spool::open(&kept).unwrap());
    assert_eq!(names(&kept), [""; 0]);
}

#[test]
fn a_recycled_file_that_somebody_else_has_too_or_has_taken_is_not_written_over() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let (linked, _) = sized(&spool, 100);
    let (gone, _) = sized(&spool, 100);
    let copy = tempfile::tempdir_in(temp.path().parent().unwrap()).unwrap();
    let copy = copy.path().join("copy");
    fs::hard_link(file(&spool, linked), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    recycle(&spool, linked);
    recycle(&spool, gone);
    fs::remove_file(temp.path().join(format!("{gone}.new"))).unwrap();
    let (id, _) = sized(&spool, 200);
    assert_eq!(names(temp.path()), [id.to_string()]);
    assert_eq!(fs::read(&copy).unwrap(), before);
}

#[test]
fn recycled_files_that_nobody_uses_go() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    assert_eq!(spool.purge_at(), None);
    let (id, _) = sized(&spool, 100);
    recycle(&spool, id);
    while let Some(at) = spool.purge_at() {
        assert_eq!(names(temp.path()).len(), 1);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        spool.purge();
    }
    assert_eq!(names(temp.path()), [""; 0]);
}

#[test]
fn a_recycled_file_that_is_not_the_one_of_its_name_is_not_written_over() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(&temp.path().join("spool")).unwrap();
    let (id, _) = sized(&spool, 100);
    let queued = spool.load(id).unwrap().unwrap();
    // Somebody moves the file away, and puts a copy in its place.
    let moved = temp.path().join("moved");
    fs::rename(file(&spool, id), &moved).unwrap();
    fs::copy(&moved, file(&spool, id)).unwrap();
    let before = fs::read(&moved).unwrap();
    queued.recycle().map_err(|(_, error)| error).unwrap();
    let (next, _) = sized(&spool, 200);
    assert_eq!(fs::read(&moved).unwrap(), before);
    assert_eq!(names(spool.dir()), [next.to_string()]);
}

#[test]
fn who_still_has_a_finished_message_writes_nothing_into_the_next_one() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let (id, inode) = sized(&spool, 100);
    let mut stale = spool.load(id).unwrap().unwrap();
    assert!(!recycle(&spool, id), "it is unlinked");
    let (next, other) = sized(&spool, 100);
    assert_ne!(other, inode);
    let before = fs::read(file(&spool, next)).unwrap();
    stale.note(0, "mx said: 451 later").unwrap();
    stale.finish_recipient(0, "mx said: 250 OK").unwrap();
    stale.defer(9, SystemTime::now()).unwrap();
    assert_eq!(fs::read(file(&spool, next)).unwrap(), before);
}

/// Ends the other threads, also after a panic.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Threads that mark messages while another finishes them and the next ones come.
#[test]
fn no_mark_lands_in_the_file_of_another_message() {
    let temp = tempfile::tempdir().unwrap();
    let spool = Spool::open(temp.path()).unwrap();
    let current = std::sync::RwLock::new(stored(&spool, &["<mary@example.net>"]));
    let (done, marked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let id = *current.read().unwrap();
                    if let Some(mut queued) = spool.load(id).unwrap() {
                        for _ in 0..20 {
                            queued.note(0, &format!("mark of {id}")).unwrap();
                        }
                        marked.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let _done = SetAtEnd(&done);
        let mut recycled = 0;
        for _ in 0..300 {
            let old = *current.read().unwrap();
            *current.write().unwrap() = stored(&spool, &["<mary@example.net>"]);
            recycled += usize::from(recycle(&spool, old));
            for (id, _) in scan(&spool) {
                let text = fs::read_to_string(file(&spool, id)).unwrap();
                if let Some((_, mark)) = text.split_once("mark of ") {
                    assert_eq!(mark[..16], id.to_string());
                }
            }
        }
        assert!(recycled > 0, "some files were recycled");
    });
    assert!(marked.into_inner() > 0);
}
