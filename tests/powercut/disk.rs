//! A disk in memory with a write cache: what was written since the last flush is lost with the power, or a part of it.
//!
//! At a cut the disk stands still while the test takes down what had been promised by then. What is on the medium after
//! it is all that was written before the last flush, and of the later writes any part: none, all, the first ones, some
//! of them, or some sectors of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

const BLOCK: usize = 4096;
pub const SECTOR: usize = 512;

/// `EIO`, as the protocol has it.
const EIO: i32 = 5;

/// A generator that can be started anew from its seed (xorshift).
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    pub fn percent(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }
}

/// The content of a disk; a copy shares what is equal. A block that is absent is zeros.
#[derive(Clone)]
pub struct Image {
    blocks: Vec<Option<Arc<[u8; BLOCK]>>>,
}

impl Image {
    pub fn empty(size: u64) -> Image {
        let blocks = vec![None; size as usize / BLOCK];
        Image { blocks }
    }

    /// The blocks that `len` octets at `offset` lie in: index, place in the block, length there.
    fn parts(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let (mut at, end) = (offset as usize, offset as usize + len);
        std::iter::from_fn(move || {
            let (index, start) = (at / BLOCK, at % BLOCK);
            let len = (end - at).min(BLOCK - start);
            at += len;
            (len > 0).then_some((index, start, len))
        })
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(len);
        for (index, start, len) in Image::parts(offset, len) {
            match self.blocks.get(index).and_then(Option::as_ref) {
                Some(block) => data.extend_from_slice(&block[start..start + len]),
                None => data.resize(data.len() + len, 0),
            }
        }
        data
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) {
        for (index, start, len) in Image::parts(offset, data.len()) {
            let (part, rest) = data.split_at(len);
            data = rest;
            let Some(block) = self.blocks.get_mut(index) else {
                return;
            };
            if len == BLOCK && part.iter().all(|&octet| octet == 0) {
                *block = None;
                continue;
            }
            let block = block.get_or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(block)[start..start + len].copy_from_slice(part);
        }
    }

    /// Writes it down as a file with holes.
    pub fn save(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len((self.blocks.len() * BLOCK) as u64).unwrap();
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(block) = block {
                let at = (index * BLOCK) as u64;
                file.write_all_at(block.as_slice(), at).unwrap();
            }
        }
    }

    /// Whether any block holds `text`, which lies in one of them.
    pub fn holds(&self, text: &[u8]) -> bool {
        let holds =
            |block: &Arc<[u8; BLOCK]>| memchr::memmem::find(block.as_slice(), text).is_some();
        self.blocks.iter().flatten().any(holds)
    }
}

struct Write {
    offset: u64,
    data: Arc<[u8]>,
}

/// In what pieces a write that was under way reaches the medium.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    Sector = SECTOR as isize,
    Block = BLOCK as isize,
}

/// The disk at a moment.
pub struct Cut<T> {
    durable: Image,
    pending: Vec<Write>,
    /// What the test took down at that moment.
    pub seen: T,
}

impl<T> Cut<T> {
    /// What the next start finds: one of the many states that the medium may be in.
    pub fn image(&self, grain: Grain, dice: &mut Dice) -> Image {
        let mut image = self.durable.clone();
        let count = self.pending.len() as u64;
        let (first, chance, torn) = match dice.below(6) {
            0 => (0, 0, false),
            1 => (count, 0, false),
            2 => (dice.below(count + 1), 0, false),
            3 => (0, 10 + 40 * dice.below(3), false),
            _ => (0, 10 + 40 * dice.below(3), true),
        };
        for (number, write) in self.pending.iter().enumerate() {
            let grain = match torn {
                true => grain as usize,
                false => write.data.len(),
            };
            let mut offset = write.offset;
            for piece in write.data.chunks(grain) {
                if (number as u64) < first || dice.percent(chance) {
                    image.write(offset, piece);
                }
                offset += piece.len() as u64;
            }
        }
        image
    }

    /// Whether `text` would survive whatever becomes of the later writes.
    pub fn holds(&self, text: &[u8]) -> bool {
        self.durable.holds(text)
    }
}

type Fault = Box<dyn FnMut(&[u8]) -> bool + Send>;

struct State {
    now: Image,
    durable: Image,
    pending: Vec<Write>,
    flushes: usize,
    /// Writes and flushes until the disk is to stand still.
    countdown: Option<u64>,
    /// Which writes fail with EIO.
    fault: Option<Fault>,
}

/// The disk.
pub struct Disk {
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Disk {
    pub fn new(size: u64) -> Disk {
        let state = State {
            now: Image::empty(size),
            durable: Image::empty(size),
            pending: Vec::new(),
            flushes: 0,
            countdown: None,
            fault: None,
        };
        Disk {
            size,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.state().now.read(offset, len)
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), i32> {
        let mut state = self.state();
        if state.fault.as_mut().is_some_and(|fault| fault(data)) {
            return Err(EIO);
        }
        state.now.write(offset, data);
        let data = Arc::from(data);
        state.pending.push(Write { offset, data });
        self.counted(state);
        Ok(())
    }

    /// From here on everything that was written survives.
    pub fn flush(&self) {
        let mut state = self.state();
        state.durable = state.now.clone();
        state.pending.clear();
        state.flushes += 1;
        self.counted(state);
    }

    pub fn flushes(&self) -> usize {
        self.state().flushes
    }

    /// After a request, before its answer: at the moment of a cut nobody is told anything more.
    fn counted(&self, mut state: MutexGuard<'_, State>) {
        state.countdown = state.countdown.map(|left| left.saturating_sub(1));
        while state.countdown == Some(0) {
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Waits for that many more writes and flushes, or until `patience` is over, and takes the disk as it is then; `look`
    /// sees the world while the disk stands still.
    pub fn cut<T>(&self, after: u64, patience: Duration, look: impl FnOnce() -> T) -> Cut<T> {
        let mut state = self.state();
        state.countdown = Some(after.max(1));
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, patience, |state| state.countdown != Some(0))
            .unwrap();
        let seen = look();
        let copy = |write: &Write| Write {
            offset: write.offset,
            data: Arc::clone(&write.data),
        };
        let cut = Cut {
            durable: state.durable.clone(),
            pending: state.pending.iter().map(copy).collect(),
            seen,
        };
        state.countdown = None;
        drop(state);
        self.changed.notify_all();
        cut
    }

    /// Puts another content in; no file system may be mounted.
    pub fn load(&self, image: Image) {
        let mut state = self.state();
        state.durable = image.clone();
        state.now = image;
        state.pending.clear();
    }

    /// The content now.
    pub fn image(&self) -> Image {
        self.state().now.clone()
    }

    /// Writes for which `fault` is true fail with EIO from now on.
    pub fn fail_writes(&self, fault: impl FnMut(&[u8]) -> bool + Send + 'static) {
        self.state().fault = Some(Box::new(fault));
    }

    pub fn fail_no_writes(&self) {
        self.state().fault = None;
    }
}

#[test]
fn what_was_flushed_survives_every_cut_and_what_was_not_some() {
    let disk = Disk::new(1 << 20);
    disk.write(1000, &[1; 5000]).unwrap();
    disk.flush();
    disk.write(8192, &[2; 4096]).unwrap();
    disk.write(3000, &[3; 512]).unwrap();
    let cut = disk.cut(1, Duration::ZERO, || ());
    let mut dice = Dice(0x788);
    let (mut survived, mut torn) = ([0; 2], 0);
    for _ in 0..300 {
        let image = cut.image(Grain::Sector, &mut dice);
        assert_eq!(image.read(1000, 2000), [1; 2000]);
        assert_eq!(image.read(3512, 2488), [1; 2488]);
        let later = image.read(8192, 4096);
        let twos = later.iter().filter(|&&octet| octet == 2).count();
        assert_eq!(twos % SECTOR, 0);
        survived[usize::from(twos > 0)] += 1;
        torn += usize::from(twos > 0 && twos < 4096);
        let over = image.read(3000, 512);
        assert!(over == [1; 512] || over == [3; 512]);
    }
    assert!(survived[0] > 50 && survived[1] > 50 && torn > 20);
    assert_eq!(disk.read(8192, 1), [2]);
}
