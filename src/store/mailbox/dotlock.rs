//! The dotlock of an mbox file, `FILE.lock`: the half of the lock that works where fcntl locks
//! don't.
//!
//! It is made with link(2) from a file that already holds our process id, so it is never seen
//! empty. That file is `SPOOL_DIR/pid`, or on another file system one without a name (`O_TMPFILE`),
//! or where there are none such, one with a name of its own. A process that dies leaves at most the
//! dotlock behind. Where the directory lets nobody like us make files, the fcntl lock alone has to
//! do.
//!
//! A dotlock is stale, and removed, when the process whose id it holds is gone, when it holds our
//! own id (we never look at it while we hold it), or when it holds none and is 5 minutes old. It is
//! looked at and removed under the fcntl lock, so two of us never remove each other's new lock for
//! an old one. What this cannot see: a process of another machine or process-id namespace.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::signal::kill;
use nix::unistd::{Pid, linkat};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// The age at which a dotlock without a process id is stale: liblockfile has the same.
const STALE_AGE: Duration = Duration::from_secs(5 * 60);
/// Some programs go by the age of a dotlock (the least is 2 minutes, dovecot's), so its date is
/// kept fresh.
const FRESH: Duration = Duration::from_secs(30);

/// `SPOOL_DIR/pid`: our process id as text, ready to be linked.
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
    dated: Mutex<Instant>,
}

impl PidFile {
    /// Replaces the file by a new one, for the old one may be somebody's dotlock still.
    pub(crate) fn create(spool: &Path) -> io::Result<PidFile> {
        let (path, new) = (spool.join("pid"), spool.join("pid.new"));
        remove_if_there(&new)?;
        let file = write_pid(OpenOptions::new().create_new(true), &new)?;
        fs::rename(&new, &path)?;
        Ok(PidFile {
            path,
            file,
            dated: Mutex::new(Instant::now()),
        })
    }

    fn keep_fresh(&self) {
        if let Ok(mut dated) = self.dated.try_lock()
            && dated.elapsed() > FRESH
        {
            // Only a courtesy: a lock with an old date is a lock all the same.
            let _ = self.file.set_modified(SystemTime::now());
            *dated = Instant::now();
        }
    }
}

/// Opens `path` as told, readable for all (who meets the dotlock wants to know whose it is), and
/// writes our id.
fn write_pid(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let mut file = options.write(true).mode(0o644).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where the dotlock's text comes from; the first that works for a mailbox is kept.
#[derive(Clone, Copy, Debug)]
enum Source {
    Spool,
    Nameless,
    Named,
}

/// The outcome of one try for the dotlock.
pub(crate) enum Try {
    Made,
    /// The directory does not allow it: the fcntl lock alone has to do.
    Without,
    Taken,
    /// This source does not work here.
    Unsuited,
}

/// The dotlock of one mailbox.
pub(crate) struct Dotlock {
    path: Arc<Path>,
    source: Source,
    pid_file: Option<Arc<PidFile>>,
}

impl Dotlock {
    /// Makes nothing yet.
    pub(crate) fn new(mbox: &Path, pid_file: Option<Arc<PidFile>>) -> Dotlock {
        let mut path = mbox.as_os_str().to_owned();
        path.push(".lock");
        Dotlock {
            path: PathBuf::from(path).into(),
            source: Source::Spool,
            pid_file,
        }
    }

    /// The file that the lock is.
    pub(crate) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// One try, the fcntl lock being held; what is stale is removed.
    pub(crate) fn acquire(&mut self) -> io::Result<Try> {
        for _ in 0..3 {
            match self.make()? {
                Try::Taken => match break_stale(&self.path)? {
                    Stale::Removed => {}
                    Stale::Live => return Ok(Try::Taken),
                    Stale::CannotRemove => return Ok(Try::Without),
                },
                outcome => return Ok(outcome),
            }
        }
        Ok(Try::Taken)
    }

    /// Goes through the sources, from the one that worked last.
    fn make(&mut self) -> io::Result<Try> {
        let mut source = self.source;
        loop {
            let outcome = match source {
                Source::Spool => self.link_spooled(),
                Source::Nameless => self.link_nameless(),
                Source::Named => self.link_named(),
            }?;
            source = match (&outcome, source) {
                (Try::Unsuited, Source::Spool) => Source::Nameless,
                (Try::Unsuited, Source::Nameless) => Source::Named,
                (Try::Unsuited, Source::Named) => return Ok(Try::Without),
                (Try::Made, _) => {
                    self.source = source;
                    return Ok(outcome);
                }
                _ => return Ok(outcome),
            };
        }
    }

    fn link_spooled(&self) -> io::Result<Try> {
        let Some(pid_file) = &self.pid_file else {
            return Ok(Try::Unsuited);
        };
        pid_file.keep_fresh();
        Ok(match fs::hard_link(&pid_file.path, &self.path) {
            Ok(()) => Try::Made,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Try::Taken,
            // Another file system, or no right to link, or to write here: the next source will
            // tell.
            Err(_) => Try::Unsuited,
        })
    }

    fn link_nameless(&self) -> io::Result<Try> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let file = match write_pid(
            OpenOptions::new().custom_flags(OFlag::O_TMPFILE.bits()),
            directory,
        ) {
            Ok(file) => file,
            Err(error) => return refused(error),
        };
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(
            AT_FDCWD,
            name.as_str(),
            AT_FDCWD,
            &*self.path,
            AtFlags::AT_SYMLINK_FOLLOW,
        ) {
            Ok(()) => Ok(Try::Made),
            Err(Errno::EEXIST) => Ok(Try::Taken),
            // No /proc, say.
            Err(_) => Ok(Try::Unsuited),
        }
    }

    fn link_named(&self) -> io::Result<Try> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let name = PathBuf::from(name);
        // One that is there was left by a process that had our id and died.
        let made = remove_if_there(&name)
            .and_then(|()| write_pid(OpenOptions::new().create_new(true), &name));
        if let Err(error) = made {
            let _ = fs::remove_file(&name);
            return refused(error);
        }
        let linked = fs::hard_link(&name, &self.path);
        fs::remove_file(&name)?;
        match linked {
            Ok(()) => Ok(Try::Made),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Try::Taken),
            Err(error) => refused(error),
        }
    }
}

/// What a source's error means: not here, not like this, or a fault to report.
fn refused(error: io::Error) -> io::Result<Try> {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => Ok(Try::Without),
        Some(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {
            Ok(Try::Unsuited)
        }
        _ => Err(error),
    }
}

enum Stale {
    Removed,
    Live,
    CannotRemove,
}

/// Removes the dotlock at `path` if it is stale. The caller holds the fcntl lock, and not the
/// dotlock.
fn break_stale(path: &Path) -> io::Result<Stale> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    // The descriptor stays open till the end, so that the inode's number can't pass to a new lock
    // meanwhile.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path);
    let seen = match file.as_ref().map(File::metadata) {
        Ok(metadata) => metadata,
        // A link, or one that we may not read: it goes by its age.
        Err(_) => fs::symlink_metadata(path),
    };
    let seen = match seen {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stale::Removed),
        Err(error) => return Err(error),
    };
    let holder = file
        .as_ref()
        .ok()
        .filter(|_| seen.is_file())
        .and_then(holder);
    let stale = match holder {
        Some(pid) if pid.as_raw() as u32 == std::process::id() => true,
        Some(pid) => kill(pid, None) == Err(Errno::ESRCH),
        None => age(&seen) >= STALE_AGE,
    };
    if !stale {
        return Ok(Stale::Live);
    }
    match fs::symlink_metadata(path) {
        Ok(now) if (now.dev(), now.ino()) != (seen.dev(), seen.ino()) => return Ok(Stale::Live),
        _ => {}
    }
    match remove_if_there(path) {
        Ok(()) => Ok(Stale::Removed),
        Err(_) => Ok(Stale::CannotRemove),
    }
}

/// The process id in a dotlock; 0, signs and other text are none.
fn holder(mut file: &File) -> Option<Pid> {
    let mut text = [0; 32];
    let len = file.read(&mut text).ok()?;
    let text = str::from_utf8(&text[..len]).ok()?;
    let word = text.split_ascii_whitespace().next()?;
    let id: i32 = word
        .bytes()
        .all(|octet| octet.is_ascii_digit())
        .then(|| word.parse().ok())??;
    (id > 0).then(|| Pid::from_raw(id))
}

/// A date in the future is no age.
fn age(metadata: &Metadata) -> Duration {
    let modified = metadata.modified().unwrap_or(SystemTime::now());
    SystemTime::now()
        .duration_since(modified)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    struct Place {
        folder: tempfile::TempDir,
        mbox: PathBuf,
        lock: PathBuf,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let (mbox, lock) = (folder.path().join("mbox"), folder.path().join("mbox.lock"));
        Place { folder, mbox, lock }
    }

    /// The text of the dotlock, which is then removed; None if it is taken.
    fn take(place: &Place, mut dotlock: Dotlock) -> Option<String> {
        match dotlock.acquire().unwrap() {
            Try::Made => {
                let text = fs::read_to_string(&place.lock).unwrap();
                fs::remove_file(&place.lock).unwrap();
                Some(text)
            }
            Try::Taken => None,
            Try::Without | Try::Unsuited => panic!("not even tried"),
        }
    }

    fn set_age(path: &Path, age: Duration) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn made_from_every_source_it_holds_our_id_and_leaves_no_litter() {
        let place = place();
        let ours = format!("{}\n", std::process::id());
        let spool = tempfile::tempdir_in(place.folder.path()).unwrap();
        let pid_file = Arc::new(PidFile::create(spool.path()).unwrap());
        let spooled = Dotlock::new(&place.mbox, Some(pid_file));
        assert!(matches!(spooled.link_spooled().unwrap(), Try::Made));
        assert!(matches!(
            spooled.link_spooled().unwrap(),
            Try::Taken | Try::Unsuited
        ));
        fs::remove_file(&place.lock).unwrap();
        assert_eq!(take(&place, spooled).unwrap(), ours);
        let nameless = Dotlock::new(&place.mbox, None);
        assert!(matches!(nameless.link_spooled().unwrap(), Try::Unsuited));
        assert_eq!(take(&place, nameless).unwrap(), ours);
        let named = Dotlock {
            source: Source::Named,
            ..Dotlock::new(&place.mbox, None)
        };
        assert!(matches!(named.link_named().unwrap(), Try::Made));
        assert_eq!(fs::read_to_string(&place.lock).unwrap(), ours);
        assert!(matches!(named.link_named().unwrap(), Try::Taken));
        fs::remove_file(&place.lock).unwrap();
        let mut names: Vec<_> = fs::read_dir(place.folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.retain(|name| name != spool.path().file_name().unwrap());
        assert!(names.is_empty(), "{names:?}");
    }

    #[test]
    fn which_dotlocks_are_stale() {
        let place = place();
        let mut live = Command::new("sleep").arg("600").spawn().unwrap();
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let (minute, old) = (Duration::from_secs(60), Duration::from_secs(301));
        let table = [
            (live.id().to_string(), old, false),
            (format!("  {}\nhost", live.id()), minute, false),
            ("1\n".into(), old, false),
            (dead.id().to_string(), Duration::ZERO, true),
            (std::process::id().to_string(), Duration::ZERO, true),
            (String::new(), minute, false),
            (String::new(), old, true),
            ("0".into(), minute, false),
            ("0".into(), old, true),
            (format!("-{}", live.id()), minute, false),
            ("99999999999999".into(), minute, false),
            ("who knows".into(), old, true),
        ];
        for (text, age, stale) in table {
            fs::write(&place.lock, &text).unwrap();
            set_age(&place.lock, age);
            let taken = take(&place, Dotlock::new(&place.mbox, None));
            assert_eq!(taken.is_some(), stale, "{text:?} {age:?}");
            assert_eq!(place.lock.exists(), !stale);
        }
        live.kill().unwrap();
        live.wait().unwrap();
        // What is no file holds no id, and is not old enough.
        let _ = fs::remove_file(&place.lock);
        std::os::unix::fs::symlink("/proc/self/stat", &place.lock).unwrap();
        assert_eq!(take(&place, Dotlock::new(&place.mbox, None)), None);
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
}
