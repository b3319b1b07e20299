//! A file system on a loop device over the disk in memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

use crate::daemon::wait_until;
use crate::disk::{Disk, Grain, Image};
use crate::fuse;

/// The least that mkfs.xfs takes, in octets.
const SIZE: u64 = 304 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ext4,
    Ext4NoJournal,
    Xfs,
    Btrfs,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Ext4, Kind::Ext4NoJournal, Kind::Xfs, Kind::Btrfs];

    fn mkfs(self) -> &'static str {
        match self {
            Kind::Ext4 => {
                "mkfs.ext4 -q -F -b 4096 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0"
            }
            Kind::Ext4NoJournal => {
                "mkfs.ext4 -q -F -b 4096 -O ^has_journal -E nodiscard,lazy_itable_init=0"
            }
            Kind::Xfs => "mkfs.xfs -q -f -K",
            Kind::Btrfs => "mkfs.btrfs -q -f -K",
        }
    }

    fn mount_type(self) -> &'static str {
        match self {
            Kind::Ext4 | Kind::Ext4NoJournal => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
        }
    }

    /// What it relies on being whole: a journal with checksums mends torn blocks; a block of a folder, or btrfs's first
    /// block, is taken for whole where nothing could mend it.
    pub fn grain(self) -> Grain {
        match self {
            Kind::Ext4 | Kind::Xfs => Grain::Sector,
            Kind::Ext4NoJournal | Kind::Btrfs => Grain::Block,
        }
    }
}

/// What e2fsck says when the addresses of a file's content are missing, or are those of another time or another file.
const NO_ADDRESSES: [&str; 5] = [
    "invalid extent",
    "checksum does not match extent",
    "end of extent exceeds",
    "i_blocks is",
    "multiply-claimed",
];

/// Whether the file system has lost files by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Damaged(pub bool);

/// Unmounted and detached when it is dropped.
pub struct Device {
    pub kind: Kind,
    pub disk: Arc<Disk>,
    file: PathBuf,
    device: String,
    at: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Device {
    /// A new file system, not mounted yet; it will be at `folder/disk`, for the calling thread and those that it starts.
    pub fn new(kind: Kind, folder: &Path) -> Device {
        // Nobody else's namespace may hold on to what is mounted here: neither those of other tests' daemons, nor, when
        // this process is killed, the machine's.
        unshare(CloneFlags::CLONE_NEWNS).expect("root");
        let mut private = Command::new("mount");
        assert!(
            private
                .args(["--make-rprivate", "/"])
                .status()
                .unwrap()
                .success()
        );
        let (file, at) = (folder.join("disk.image"), folder.join("disk"));
        std::fs::create_dir(&at).unwrap();
        let disk = Arc::new(Disk::new(SIZE));
        let server = fuse::serve(Arc::clone(&disk), &file);
        let mut device = Device {
            kind,
            disk,
            file,
            device: String::new(),
            at,
            server: Some(server),
        };
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&device.file)
            .output()
            .unwrap();
        assert!(output.status.success(), "losetup: {output:?}");
        device.device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        device.run(kind.mkfs(), &[0]);
        device
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Runs `command` on the device; what it says.
    fn run(&self, command: &str, good: &[i32]) -> String {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap())
            .args(words)
            .arg(&self.device)
            .output()
            .unwrap_or_else(|error| panic!("{command}: {error}"));
        let code = output.status.code().unwrap_or(-1);
        assert!(
            good.contains(&code),
            "{command} {}: {output:?}",
            self.device
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Mounts what is on the disk: the journal is recovered, or without one the file system checked. Whether it is the
    /// file system's own fault if a file is not there: without a journal nothing orders what it writes of itself, so
    /// that a block with the addresses of a file's content may be missing, and the check then clears the file.
    pub fn mount(&self) -> Damaged {
        let mut damaged = false;
        if self.kind == Kind::Ext4NoJournal {
            // 1: errors were corrected.
            let said = self.run("e2fsck -f -y", &[0, 1]);
            damaged = NO_ADDRESSES.iter().any(|fault| said.contains(fault));
        }
        let mut mount = Command::new("mount");
        mount
            .args(["-t", self.kind.mount_type(), "-o", "noatime"])
            .args([Path::new(&self.device), &self.at]);
        let mut mounted = mount.status().unwrap().success();
        if !mounted && self.kind == Kind::Ext4 {
            // The first block is torn, and has no journal: the check takes a copy of it, as at a boot.
            self.run("e2fsck -f -y", &[0, 1]);
            mounted = mount.status().unwrap().success();
        }
        assert!(mounted, "{:?} cannot be mounted", self.kind);
        Damaged(damaged)
    }

    /// Unmounts it, as soon as nobody uses it any more.
    pub fn unmount(&self) {
        let mut command = Command::new("umount");
        command.arg(&self.at).stderr(Stdio::null());
        wait_until("the file system can be unmounted", || {
            command.status().unwrap().success()
        });
    }

    /// The power comes back with `image` on the disk.
    pub fn power_on(&self, image: &Image) -> Damaged {
        self.disk.load(image.clone());
        self.mount()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let quiet = |program: &str, arguments: &[&Path]| {
            let mut command = Command::new(program);
            let _ = command.args(arguments).stderr(Stdio::null()).status();
        };
        quiet("umount", &[Path::new("-l"), &self.at]);
        quiet("losetup", &[Path::new("-d"), Path::new(&self.device)]);
        quiet("umount", &[Path::new("-l"), &self.file]);
        if let Some(server) = self.server.take().filter(JoinHandle::is_finished) {
            let _ = server.join();
        }
    }
}
