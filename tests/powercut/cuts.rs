//! Power cuts under load, and the audit after the next start.
//!
//! In each life of a machine its daemon is loaded while cuts are taken; then each cut is what the next start finds. Of
//! the last one the next life is made.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Folder, Setup, wait_until};
use crate::device::{Damaged, Device, Kind};
use crate::disk::{Cut, Dice, Image};
use crate::hops::Hops;
use crate::ledger::{Counts, Ledger, MAILBOXES, Target};
use crate::load::{self, Client};

const CLIENTS: usize = 4;
const CUTS_A_LIFE: usize = 5;
/// Between a cut and the next start: what is dated in whole seconds is older than the boot then, as on a real machine.
const OFF: Duration = Duration::from_millis(2100);
/// A mailbox whose delivery takes longer is shut. A lock that is held is waited for 10 s, a stale one up to 5 minutes.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A machine whose power is cut again and again.
struct Machine {
    device: Device,
    hops: Hops,
    ledger: Arc<Mutex<Ledger>>,
    dice: Dice,
    boots: usize,
    counts: Counts,
    faults: Vec<String>,
    /// Found to be lost at an earlier cut.
    lost: BTreeSet<u64>,
    /// Last: it is removed when nothing is mounted in it any more.
    folder: Arc<Folder>,
}

impl Machine {
    fn new(kind: Kind) -> Machine {
        let folder = Arc::new(Folder::new());
        // The daemon may become somebody else.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), open).unwrap();
        let ledger = Arc::default();
        Machine {
            device: Device::new(kind, folder.path()),
            hops: Hops::start(kind as u8 + 1, &ledger),
            ledger,
            dice: Dice(0x788 + kind as u64),
            boots: 0,
            counts: Counts::default(),
            faults: Vec::new(),
            lost: BTreeSet::new(),
            folder,
        }
    }

    /// Starts the daemon as after a boot: the kernel says another boot id, and that it has just begun.
    fn start(&mut self) -> Daemon {
        self.boots += 1;
        let boot_id = self.folder.path().join("boot_id");
        let text = format!("{:08x}-0000-4000-8000-000000000788\n", self.boots);
        fs::write(&boot_id, text).unwrap();
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let run_as = match self.device.kind {
            Kind::Ext4 | Kind::Btrfs => "RUN_AS = nobody\n",
            _ => "",
        };
        let mut setup = Setup::with(&format!(
            "RELAY_PORT = {}\nNAMESERVER = 127.0.0.1:9\nSPOOL_DIR = {{dir}}/disk/spool\n{run_as}",
            self.hops.port
        ));
        setup.mail = setup.mail.replacen("SPOOL_DIR = {dir}/spool\n", "", 1);
        setup.users = MAILBOXES
            .map(|(user, file)| format!("{user}:{{dir}}/disk/{}\n", file.trim_end_matches("mbox")))
            .concat();
        setup.folder = Arc::clone(&self.folder);
        let command = setup.command_after(&[
            "unshare",
            "--mount",
            "--time",
            "--boottime",
            &format!("-{}", uptime.split('.').next().unwrap()),
            "sh",
            "-c",
            "mount --bind boot_id /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"",
        ]);
        Daemon::run(command, Arc::clone(&self.folder))
    }

    /// One life: the daemon is started and loaded, cuts are taken, the power goes. No letter is in anybody's hands then.
    fn live(&mut self, cuts: usize) -> Vec<(Cut<Ledger>, Instant)> {
        let (syncs, at) = (self.dice.percent(50), self.device.at().to_owned());
        // The user's folder is made again by the daemon.
        load::empty(&at, 2, &self.ledger);
        let _ = fs::remove_dir_all(at.join("made"));
        self.ledger.lock().unwrap().tidy(&at.join("spool"));
        let disk = Arc::clone(&self.device.disk);
        let (ledger, stop) = (Arc::clone(&self.ledger), AtomicBool::new(false));
        let mut after = self.dice.clone();
        let mut seeds = Vec::new();
        seeds.resize_with(CLIENTS + 1, || Dice(self.dice.below(u64::MAX) | 1));
        let others = seeds.pop().unwrap();
        thread::scope(|scope| {
            // Begun before the daemon: a cut may hit its start.
            let taken = scope.spawn(|| {
                let mut take = || {
                    let look = || ledger.lock().unwrap().clone();
                    let cut = disk.cut(1 + after.below(250), Duration::from_secs(2), look);
                    (cut, Instant::now())
                };
                let taken: Vec<_> = (0..cuts).map(|_| take()).collect();
                stop.store(true, Ordering::SeqCst);
                taken
            });
            let daemon = self.start();
            let addr = daemon.addr();
            let (hops, ledger, stop) = (&self.hops, &self.ledger, &stop);
            let clients: Vec<_> = seeds
                .into_iter()
                .map(|dice| scope.spawn(move || load::client(addr, hops, ledger, dice, stop)))
                .collect();
            load::others(&at, ledger, others, syncs, stop);
            let taken = taken.join().unwrap();
            daemon.kill();
            clients
                .into_iter()
                .for_each(|client| client.join().unwrap());
            taken
        })
    }

    /// Unmounts once everything that belongs to this life is over.
    fn off(&self) {
        wait_until("every connection to a next hop has ended", || {
            self.hops.connections() == 0
        });
        self.device.unmount();
    }

    fn on(&self, image: &Image, ledger: &Ledger) -> Damaged {
        *self.ledger.lock().unwrap() = ledger.clone();
        self.device.power_on(image)
    }

    /// Starts once more after a cut, delivers, stops, and looks at everything.
    fn audit(&mut self, image: &Image, cut: &Ledger) -> Damaged {
        let damaged = self.on(image, cut);
        let at = self.device.at().to_owned();
        if self.dice.percent(33) {
            // Somebody is quicker than the daemon.
            load::append(&at, "jack", 3000, &self.ledger);
            load::append(&at, "john", 3000, &self.ledger);
        }
        let daemon = self.start();
        let mut client = Client::connect(daemon.addr(), &self.hops).unwrap();
        let probes: [&'static [Target]; 4] = [&["john"], &["jack"], &["carl"], &["ann"]];
        for aim in probes {
            let id = self.ledger.lock().unwrap().begin(aim);
            let begun = Instant::now();
            let sent = client.send(id, aim, 1500);
            let mut ledger = self.ledger.lock().unwrap();
            let spent = begun.elapsed();
            if sent.is_err() || spent > AT_ONCE {
                let text = format!("shut: {aim:?} after {spent:?}: {sent:?}");
                ledger.faults.push(text);
            }
            if sent.is_ok() {
                ledger.promised(id);
            }
        }
        drop(client);
        let put_off = daemon.matching("deferred id=");
        let put_off = put_off.iter().filter(|line| line.contains("mailbox="));
        let put_off = put_off.map(|line| format!("shut: {line}"));
        self.ledger.lock().unwrap().faults.extend(put_off);
        self.counts.recovered += daemon.matching("recovered mailbox=").len();
        let (status, log) = daemon.stop();
        assert!(status.success(), "{status}: {log:#?}");
        wait_until("every connection to a next hop has ended", || {
            self.hops.connections() == 0
        });
        let mut ledger = self.ledger.lock().unwrap();
        self.counts.cuts += 1;
        if damaged == Damaged(true) {
            self.counts.damaged += 1;
            drop(ledger);
            self.device.unmount();
            return damaged;
        }
        ledger.audit(&at, &mut self.counts, &mut self.lost);
        if !ledger.faults.is_empty() {
            let cut = self.counts.cuts;
            let kind = self.device.kind;
            let kept = self.folder.path().join(format!("cut-{cut}.log"));
            fs::write(&kept, format!("{:#?}\n{log:#?}", ledger.faults)).unwrap();
            image.save(&self.folder.path().join(format!("cut-{cut}.image")));
            let text = ledger
                .faults
                .iter()
                .take(5)
                .map(|f| format!("{kind:?}, cut {cut}: {f}"));
            self.faults.extend(text);
        }
        drop(ledger);
        self.device.unmount();
        damaged
    }
}

fn cut_again_and_again(kind: Kind) {
    let mut cuts = if crate::full() { 250 } else { 15 };
    let mut machine = Machine::new(kind);
    let mut base = (machine.device.disk.image(), Ledger::default());
    while cuts > 0 {
        machine.on(&base.0, &base.1);
        let taken = machine.live(cuts.min(CUTS_A_LIFE));
        cuts -= taken.len();
        machine.off();
        for (cut, moment) in taken {
            let image = cut.image(kind.grain(), &mut machine.dice);
            thread::sleep((moment + OFF).saturating_duration_since(Instant::now()));
            if machine.audit(&image, &cut.seen) == Damaged(false) {
                base = (image, cut.seen);
            }
        }
    }
    let c = &machine.counts;
    println!(
        "{kind:?}: {} cuts; {} letters answered 250, {} lost; {} of another agent, {} lost; {} mailboxes shut; {} odd; \
         {} torn ends that nobody was promised, {} cut off at the start; {} relayed twice; {} cuts at which the file \
         system lost files by itself",
        c.cuts,
        c.promised,
        c.lost,
        c.others,
        c.others_lost,
        c.shut,
        c.odd,
        c.torn_ends,
        c.recovered,
        c.relayed_twice,
        c.damaged
    );
    assert!(machine.faults.is_empty(), "{:#?}", machine.faults);
    assert!(c.promised > 0 && c.others > 0, "nothing was at stake");
}

#[test]
#[ignore = "needs root, /dev/fuse, loop devices and e2fsprogs"]
fn on_ext4_nothing_promised_is_lost() {
    cut_again_and_again(Kind::Ext4);
}

#[test]
#[ignore = "needs root, /dev/fuse, loop devices and e2fsprogs"]
fn on_ext4_without_a_journal_nothing_promised_is_lost() {
    cut_again_and_again(Kind::Ext4NoJournal);
}

#[test]
#[ignore = "needs root, /dev/fuse, loop devices and xfsprogs"]
fn on_xfs_nothing_promised_is_lost() {
    cut_again_and_again(Kind::Xfs);
}

#[test]
#[ignore = "needs root, /dev/fuse, loop devices and btrfs-progs"]
fn on_btrfs_nothing_promised_is_lost() {
    cut_again_and_again(Kind::Btrfs);
}
