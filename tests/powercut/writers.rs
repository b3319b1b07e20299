//! Shows that the suite can fail: small writers that forget a sync are found out, and one that forgets none is not.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::daemon::Folder;
use crate::device::{Damaged, Device, Kind};
use crate::disk::Dice;

/// Stores `text` under `name` and returns when it is safe, or so it believes.
type Writer = fn(&Path, &str, &str);

fn careful(folder: &Path, name: &str, text: &str) {
    let new = folder.join(format!("{name}.new"));
    let mut file = File::create(&new).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
    fs::rename(&new, folder.join(name)).unwrap();
    File::open(folder).unwrap().sync_all().unwrap();
}

/// The content is not synced.
fn forgets_the_file(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
    File::open(folder).unwrap().sync_all().unwrap();
}

/// The name is not synced.
fn forgets_the_folder(folder: &Path, name: &str, text: &str) {
    let new = folder.join(format!("{name}.new"));
    let mut file = File::create(&new).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
    fs::rename(&new, folder.join(name)).unwrap();
}

/// In how many of `cuts` cuts something that `writer` believed safe was lost; those at which the file system has lost
/// files by itself count only if `all` do.
fn losses(kind: Kind, writer: Writer, cuts: usize, all: bool) -> usize {
    let folder = Folder::new();
    let device = Device::new(kind, folder.path());
    let mut dice = Dice(0x788);
    device.mount();
    let (promised, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let taken = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (name, text) = (number.to_string(), format!("text {number}\n").repeat(500));
                writer(device.at(), &name, &text);
                promised.lock().unwrap().push((name, text));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let take = |_| {
            let patience = Duration::from_millis(30);
            device.disk.cut(1 + dice.below(40), patience, || {
                promised.lock().unwrap().clone()
            })
        };
        let taken: Vec<_> = (0..cuts).map(take).collect();
        stop.store(true, Ordering::SeqCst);
        taken
    });
    device.unmount();
    let lost = taken.iter().filter(|cut| {
        let damaged = device.power_on(&cut.image(kind.grain(), &mut dice));
        let whole = |(name, text): &(String, String)| {
            fs::read(device.at().join(name)).is_ok_and(|found| found == text.as_bytes())
        };
        let lost = !cut.seen.iter().all(whole);
        device.unmount();
        lost && (all || damaged == Damaged(false))
    });
    lost.count()
}

#[test]
#[ignore = "needs root, /dev/fuse, loop devices, e2fsprogs, xfsprogs and btrfs-progs"]
fn a_writer_that_forgets_a_sync_is_found_out_and_one_that_does_not_is_not() {
    for kind in Kind::ALL {
        assert_eq!(losses(kind, careful, 20, false), 0, "{kind:?}");
        let lost = losses(kind, forgets_the_file, 10, true);
        assert!(
            lost > 0,
            "{kind:?}: no cut found the file that was not synced"
        );
        println!("{kind:?}: a file that was not synced: lost in {lost} of 10 cuts");
        let lost = losses(kind, forgets_the_folder, 20, true);
        assert!(
            lost > 0,
            "{kind:?}: no cut found the name that was not synced"
        );
        println!("{kind:?}: a name that was not synced: lost in {lost} of 20 cuts");
    }
}

/// That a sync in the file system arrives as a flush of the disk, with all that it covers written before it.
#[test]
#[ignore = "needs root, /dev/fuse, loop devices, e2fsprogs, xfsprogs and btrfs-progs"]
fn a_sync_is_a_flush_and_what_it_covers_is_before_it() {
    for kind in Kind::ALL {
        let folder = Folder::new();
        let device = Device::new(kind, folder.path());
        device.mount();
        let before = device.disk.flushes();
        for number in 0..10 {
            let text = format!("{number} is what is looked for on the medium");
            let mut file = File::create(device.at().join(number.to_string())).unwrap();
            file.write_all(text.repeat(200).as_bytes()).unwrap();
            file.sync_all().unwrap();
            let cut = device.disk.cut(1, Duration::ZERO, || ());
            assert!(cut.holds(text.as_bytes()), "{kind:?}: {number}");
        }
        assert!(device.disk.flushes() >= before + 10, "{kind:?}");
        device.unmount();
    }
}
