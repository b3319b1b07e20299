use super::*;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;

struct Folder {
    folder: tempfile::TempDir,
    place: Place,
    lock: PathBuf,
}

fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::find(&folder.path().join("mbox"), false).unwrap();
    let lock = folder.path().join("mbox.lock");
    Folder {
        folder,
        place,
        lock,
    }
}

/// The text of the dotlock, which is then removed; None if it is taken.
fn take(folder: &Folder, dotlocks: &Dotlocks) -> Option<String> {
    match dotlocks.acquire(&folder.place).unwrap() {
        Try::Made(made) => {
            let name = folder.place.directory.status(&folder.place.lock).unwrap();
            assert_eq!(id(&name), made.id);
            let text = fs::read_to_string(&folder.lock).unwrap();
            fs::remove_file(&folder.lock).unwrap();
            Some(text)
        }
        Try::Taken(_) => None,
        Try::Without | Try::Unsuited => panic!("not even tried"),
    }
}

/// Else the lock would name a process that does not hold it, and would not be let go.
#[test]
fn a_spool_in_the_place_of_ours_lends_no_id() {
    let folder = folder();
    let [spool, away] = ["spool", "away"].map(|name| folder.folder.path().join(name));
    fs::create_dir(&spool).unwrap();
    let dotlocks = Dotlocks::new(Some(PidFile::create(&spool).unwrap()));
    fs::rename(&spool, &away).unwrap();
    fs::create_dir(&spool).unwrap();
    fs::write(spool.join("pid"), "1\n").unwrap();
    let ours = format!("{}\n", std::process::id());
    assert_eq!(take(&folder, &dotlocks).unwrap(), ours);
    fs::remove_dir_all(&away).unwrap();
    assert_eq!(take(&folder, &dotlocks).unwrap(), ours);
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Running {
    fn begin() -> Running {
        Running(Command::new("sleep").arg("600").spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn set_date(path: &Path, date: SystemTime) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(date).unwrap();
}

#[test]
fn made_from_every_source_it_holds_our_id_and_leaves_no_litter() {
    let folder = folder();
    let place = &folder.place;
    let ours = format!("{}\n", std::process::id());
    let spool = tempfile::tempdir_in(folder.folder.path()).unwrap();
    let spooled = Dotlocks::new(Some(PidFile::create(spool.path()).unwrap()));
    assert!(matches!(spooled.link_spooled(place).unwrap(), Try::Made(_)));
    assert!(matches!(
        spooled.link_spooled(place).unwrap(),
        Try::Taken(_)
    ));
    fs::remove_file(&folder.lock).unwrap();
    assert_eq!(take(&folder, &spooled).unwrap(), ours);
    let without = Dotlocks::new(None);
    assert!(matches!(
        without.link_spooled(place).unwrap(),
        Try::Unsuited
    ));
    assert_eq!(take(&folder, &without).unwrap(), ours);
    assert!(matches!(link_named(place).unwrap(), Try::Made(_)));
    assert_eq!(fs::read_to_string(&folder.lock).unwrap(), ours);
    assert!(matches!(link_named(place).unwrap(), Try::Taken(_)));
    fs::remove_file(&folder.lock).unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.retain(|name| name != spool.path().file_name().unwrap());
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn which_dotlocks_are_stale() {
    let folder = folder();
    let began = SystemTime::now();
    let live = Running::begin();
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let up = Duration::from_secs_f64(
        fs::read_to_string("/proc/uptime")
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap(),
    );
    let ago = |seconds| began - Duration::from_secs(seconds);
    let boot = began - up;
    let now = SystemTime::now();
    let id = live.0.id().to_string();
    let table = [
        (id.clone(), now, false),
        // Rightly held by a process that was there before it, whatever its age.
        ("1".into(), ago(0), false),
        ("1\nhost".into(), boot + Duration::from_secs(5), false),
        // The id came again: nobody who lives has made it.
        (id.clone(), ago(30), true),
        (id.clone(), ago(3 * 86_400), true),
        (format!("  {id}\nhost"), SystemTime::UNIX_EPOCH, true),
        // A power cut leaves these.
        ("1".into(), boot - Duration::from_secs(5), true),
        ("1".into(), SystemTime::UNIX_EPOCH, true),
        (String::new(), boot - Duration::from_secs(5), true),
        (String::new(), SystemTime::UNIX_EPOCH, true),
        // The clock was ahead then.
        (String::new(), now + Duration::from_secs(86_400), true),
        (id.clone(), now + Duration::from_secs(60), false),
        (dead.id().to_string(), now, true),
        (std::process::id().to_string(), now, true),
        (String::new(), ago(60), false),
        (String::new(), ago(301), up > Duration::from_secs(301)),
        ("0".into(), ago(60), false),
        (format!("-{id}"), ago(60), false),
        ("99999999999999".into(), ago(60), false),
    ];
    let dotlocks = Dotlocks::new(None);
    for (text, date, stale) in table {
        if date < ago(61) && !stale && up < Duration::from_secs(10) {
            continue; // a machine that has just begun
        }
        fs::write(&folder.lock, &text).unwrap();
        set_date(&folder.lock, date);
        let taken = take(&folder, &dotlocks);
        assert_eq!(taken.is_some(), stale, "{text:?} {date:?}");
        assert_eq!(folder.lock.exists(), !stale);
    }
    // What is no file holds no id, and is not old enough.
    let _ = fs::remove_file(&folder.lock);
    std::os::unix::fs::symlink("/proc/self/stat", &folder.lock).unwrap();
    assert_eq!(take(&folder, &dotlocks), None);
}

#[test]
fn a_clock_that_leaps_makes_no_lock_of_this_boot_an_old_one() {
    let folder = folder();
    // As if the daemon had begun when the clock was far behind, or far ahead.
    for leap in [-50 * 365 * 86_400_000, 86_400_000] {
        let dotlocks = Dotlocks {
            pid_file: None,
            clock: Clock::now().leapt(leap),
        };
        for (text, age, stale) in [
            ("1", 0, false),
            ("", 60, false),
            ("1", 99 * 365 * 86_400, true),
        ] {
            for by_old_clock in [false, true] {
                fs::write(&folder.lock, text).unwrap();
                let mut date = SystemTime::now() - Duration::from_secs(age);
                let by = Duration::from_millis(leap.unsigned_abs());
                date = match (by_old_clock, leap < 0) {
                    (false, _) => date,
                    (true, true) => date - by,
                    (true, false) => date + by,
                };
                set_date(&folder.lock, date);
                let taken = take(&folder, &dotlocks);
                assert_eq!(
                    taken.is_some(),
                    stale,
                    "{text:?} {age} {by_old_clock} {leap}"
                );
            }
        }
    }
}

#[test]
fn a_lock_of_somebody_else_does_not_count_where_everybody_may_write() {
    if !nix::unistd::geteuid().is_root() {
        return; // cannot give a lock away
    }
    let live = Running::begin();
    for (mode, name, owner, held) in [
        (0o1777, "ann", 54_321, false),
        (0o777, "bob", 54_321, false),
        (0o755, "ann", 54_321, true),
        (0o1777, "ann", 0, true),
        (0o1777, "daemon", 1, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        let mbox = folder.path().join(name);
        let place = Place::find(&mbox, false).unwrap();
        let lock = folder.path().join(format!("{name}.lock"));
        fs::write(&lock, live.0.id().to_string()).unwrap();
        std::os::unix::fs::chown(&lock, Some(owner), None).unwrap();
        let outcome = Dotlocks::new(None).acquire(&place);
        let taken = matches!(outcome.unwrap(), Try::Taken(_));
        assert_eq!(taken, held, "{mode:o} {name} {owner}");
        // What cannot be removed is passed over.
        if !held {
            fs::remove_file(&lock).unwrap();
            fs::create_dir(&lock).unwrap();
            std::os::unix::fs::chown(&lock, Some(owner), None).unwrap();
            let outcome = Dotlocks::new(None).acquire(&place);
            assert!(matches!(outcome.unwrap(), Try::Without));
        }
    }
}

#[test]
fn an_unlock_removes_only_a_lock_that_is_ours() {
    use crate::store::mailbox::lock::{Wait, lock};
    for gone in [false, true] {
        let folder = folder();
        let file = Arc::new(File::create(folder.folder.path().join("mbox")).unwrap());
        let dotlocks = Dotlocks::new(None);
        let mut wait = Wait::new(Duration::ZERO);
        let held = lock(&folder.place, &file, &dotlocks, &mut wait);
        let held = held.unwrap();
        // Somebody has taken it for stale.
        fs::remove_file(&folder.lock).unwrap();
        if !gone {
            fs::write(&folder.lock, "1\n").unwrap();
        }
        drop(held);
        assert_eq!(folder.lock.exists(), !gone);
    }
}

#[test]
fn the_pid_file_is_made_anew_so_an_old_dotlock_keeps_its_id() {
    let spool = tempfile::tempdir().unwrap();
    fs::write(spool.path().join("pid"), "12\n").unwrap();
    fs::hard_link(spool.path().join("pid"), spool.path().join("mbox.lock")).unwrap();
    PidFile::create(spool.path()).unwrap();
    assert_eq!(
        fs::read_to_string(spool.path().join("mbox.lock")).unwrap(),
        "12\n"
    );
    assert_eq!(
        fs::read_to_string(spool.path().join("pid")).unwrap(),
        format!("{}\n", std::process::id())
    );
}
