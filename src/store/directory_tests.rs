use super::*;
use nix::unistd::chown;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

/// Of nobody in particular.
const STRANGER: Uid = Uid::from_raw(54_321);
const OWNER: Owner = Owner {
    uid: Uid::from_raw(54_322),
    gid: Gid::from_raw(54_323),
};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn directory(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn leads_to(path: &Path, directory: &Path) -> bool {
    Directory::open(path).unwrap().status.st_ino == inode(directory)
}

fn give(path: &Path, uid: Uid) {
    let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
    nix::unistd::fchownat(nix::fcntl::AT_FDCWD, path, Some(uid), None, nofollow).unwrap();
}

#[test]
fn our_links_are_followed_and_lead_to_the_same_directory() {
    let place = Place::new();
    let deep = place.directory("a/b/c", 0o755);
    symlink("b", place.path("a/relative")).unwrap();
    symlink(place.path("a"), place.path("absolute")).unwrap();
    symlink("absolute/../a/./relative", place.path("both")).unwrap();
    for path in [
        "a/b/c",
        "a//b/./c/",
        "a/b/c/../c",
        "a/relative/c",
        "absolute/b/c",
        "both/c",
    ] {
        assert!(leads_to(&place.path(path), &deep), "{path}");
    }
    fs::write(place.path("file"), "").unwrap();
    symlink("loop", place.path("loop")).unwrap();
    symlink("nowhere", place.path("dangling")).unwrap();
    for (path, code) in [
        ("nowhere", Errno::ENOENT),
        ("dangling/a", Errno::ENOENT),
        ("file", Errno::ENOTDIR),
        ("file/a", Errno::ENOTDIR),
        ("loop", Errno::ELOOP),
    ] {
        let error = Directory::open(&place.path(path)).unwrap_err();
        assert_eq!(errno(&error), Some(code), "{path}");
    }
}

/// Each of these doubles the number of steps; the bound is on all of them together.
#[test]
fn links_upon_links_come_to_an_end() {
    let place = Place::new();
    symlink(".", place.path("l0")).unwrap();
    for n in 1..60 {
        let before = n - 1;
        symlink(format!("l{before}/l{before}"), place.path(&format!("l{n}"))).unwrap();
    }
    let error = Directory::open(&place.path("l59")).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::ELOOP));
    assert!(leads_to(&place.path("l3"), place.0.path()));
}

#[test]
fn the_links_of_others_are_not_followed() {
    if !geteuid().is_root() {
        return; // cannot give a link away
    }
    let place = Place::new();
    place.directory("home/secret", 0o755);
    for (name, target) in [
        ("absolute", "/etc"),
        ("relative", "home/secret"),
        ("here", "."),
    ] {
        let link = place.path(name);
        symlink(target, &link).unwrap();
        Directory::open(&link).unwrap();
        give(&link, STRANGER);
        for path in [link.clone(), link.join("x")] {
            let attempts = [
                Directory::open(&path),
                Directory::open_or_make_last(&path),
                Directory::make(&path, Some(OWNER)),
            ];
            for attempt in attempts {
                let error = attempt.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                assert!(
                    error.to_string().contains("is a link of user 54321"),
                    "{error}"
                );
            }
        }
        // A daemon of that user follows it.
        Directory::open_as(&link, STRANGER).unwrap();
    }
}

#[test]
fn where_everybody_may_write_only_certain_owners_count() {
    if !geteuid().is_root() {
        return; // cannot give a directory away
    }
    let place = Place::new();
    let daemon = User::from_name("daemon").unwrap().unwrap().uid;
    for (mode, name, owner, good) in [
        (0o1777, "a", STRANGER, false),
        (0o777, "b", STRANGER, false),
        (0o1777, "c", Uid::from_raw(0), true),
        (0o1777, "daemon", daemon, true),
        (0o1777, "mallory", daemon, false),
        (0o755, "d", STRANGER, true),
        (0o775, "e", STRANGER, true),
    ] {
        let folder = format!("{mode:o}{name}");
        let open = place.directory(&folder, mode);
        let inner = open.join(name);
        fs::create_dir(&inner).unwrap();
        chown(&inner, Some(owner), None).unwrap();
        for path in [inner.clone(), inner.join("more")] {
            let made = Directory::make(&path, None);
            assert_eq!(made.is_ok(), good, "{path:?}");
        }
        let at = Directory::open(&open).unwrap();
        assert_eq!(at.admits(OsStr::new(name), owner.as_raw()), good);
    }
}

#[test]
fn what_is_missing_is_made_private_and_given_to_the_owner() {
    let place = Place::new();
    let owner = geteuid().is_root().then_some(OWNER);
    Directory::make(&place.path("a/b/c"), owner).unwrap();
    Directory::make(&place.path("a/b/c"), owner).unwrap();
    for made in ["a", "a/b", "a/b/c"] {
        let found = fs::metadata(place.path(made)).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o700, "{made}");
        let uid = owner.map_or(geteuid(), |owner| owner.uid);
        assert_eq!(found.uid(), uid.as_raw(), "{made}");
    }
    let before = fs::metadata(place.0.path()).unwrap();
    assert_eq!(before.uid(), geteuid().as_raw(), "what exists stays");

    // At a delivery only the last one is made.
    Directory::open_or_make_last(&place.path("x/y")).unwrap_err();
    assert!(!place.path("x").exists());
    Directory::open_or_make_last(&place.path("x")).unwrap();
    Directory::open_or_make_last(&place.path("x/y/")).unwrap();
    assert!(place.path("x/y").is_dir());
}

#[test]
fn what_cannot_be_given_away_is_not_left_behind() {
    if geteuid().is_root() {
        return; // can give it away
    }
    let place = Place::new();
    let owner = Owner {
        uid: geteuid(),
        ..OWNER
    };
    for path in ["a", "a/b"] {
        Directory::make(&place.path(path), Some(owner)).unwrap_err();
        assert!(!place.path("a").exists());
    }
}

/// Between the look and the making of a directory another thread may make it, and not have synced it yet.
#[test]
fn what_another_has_just_made_is_synced_too() {
    if geteuid().is_root() {
        return; // reads all, so that a sync cannot be seen
    }
    let place = Place::new();
    place.directory("a/b", 0o700);
    let at = Directory::open(&place.directory("a", 0o300)).unwrap();
    let error = at.make_in(OsStr::new("b"), None).unwrap_err();
    assert!(error.to_string().contains("made durable"), "{error}");
    place.directory("a", 0o700);
    at.make_in(OsStr::new("b"), None).unwrap();
}

#[test]
fn nothing_is_made_behind_a_link_or_in_the_place_of_one() {
    let place = Place::new();
    place.directory("there", 0o755);
    symlink("there/missing", place.path("link")).unwrap();
    for path in ["link", "link/x"] {
        Directory::make(&place.path(path), None).unwrap_err();
        Directory::open_or_make_last(&place.path(path)).unwrap_err();
    }
    assert_eq!(fs::read_dir(place.path("there")).unwrap().count(), 0);
    // Beyond a link that leads somewhere it is as everywhere.
    symlink("there", place.path("good")).unwrap();
    Directory::make(&place.path("good/x/y"), None).unwrap();
    assert!(place.path("there/x/y").is_dir());
}

#[test]
fn where_nothing_can_be_made_it_is_an_error_and_no_endless_try() {
    for path in ["/proc/nowhere/x", "/proc/self/nowhere/x/y", "/sys/x/y"] {
        Directory::make(Path::new(path), None).unwrap_err();
    }
    let name = "a/".repeat(500);
    let place = Place::new();
    Directory::make(&place.path(&name), None).unwrap();
    Directory::make(&place.path(&"b".repeat(300)), None).unwrap_err();
    // Deeper than a `&Path` for the system may be long.
    Directory::open(&place.path(&name)).unwrap();
}
