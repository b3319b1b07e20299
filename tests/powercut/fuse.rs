//! The FUSE protocol of the kernel (fuse(4), `linux/fuse.h`), as much of it as a file system needs that is one file.
//!
//! The mount point is a plain file, and the root of the file system is a plain file too: what a loop device is set up
//! on. Every read, write and sync of that file arrives here, one after another, without a page cache in between.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::disk::Disk;

/// The most octets in one write, and what a request needs beside them.
const MAX_WRITE: usize = 1 << 20;
const ROOM: usize = 4096;

const IN_HEADER: usize = 40;
/// `struct fuse_write_in`, between the header and the data.
const WRITE_IN: usize = 40;

/// The opcodes that are answered; all others are ENOSYS.
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;

const ENOSYS: i32 = 38;
/// Reads and writes pass the page cache by.
const FOPEN_DIRECT_IO: u32 = 1;
/// Asynchronous reads, writes of more than a page, and as many pages as `max_pages` says.
const FLAGS: u32 = 1 | 1 << 5 | 1 << 22;

/// Mounts `disk` on the file `at` and serves it in a thread of its own, which ends when it is unmounted.
pub fn serve(disk: Arc<Disk>, at: &Path) -> JoinHandle<()> {
    File::create(at).unwrap();
    let channel = File::options().read(true).write(true).open("/dev/fuse");
    let mut channel = channel.expect("/dev/fuse");
    // The file system's end of the channel is the command's standard input.
    let status = Command::new("mount")
        .args(["-i", "-t", "fuse", "-o"])
        .arg("fd=0,rootmode=100000,user_id=0,group_id=0")
        .arg("powercut")
        .arg(at)
        .stdin(channel.try_clone().unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "mount of FUSE: {status}");
    thread::spawn(move || {
        let mut request = vec![0; MAX_WRITE + ROOM];
        // ENODEV: unmounted.
        while let Ok(len) = channel.read(&mut request) {
            let Some((unique, answer)) = answer(&disk, &request[..len]) else {
                continue;
            };
            // ENOENT: the request was given up meanwhile.
            let _ = channel.write(&reply(unique, answer));
        }
    })
}

fn reply(unique: u64, answer: Result<Vec<u8>, i32>) -> Vec<u8> {
    let (error, body) = match answer {
        Ok(body) => (0, body),
        Err(errno) => (-errno, Vec::new()),
    };
    let mut reply = Vec::with_capacity(16 + body.len());
    reply.extend((16 + body.len() as u32).to_ne_bytes());
    reply.extend(error.to_ne_bytes());
    reply.extend(unique.to_ne_bytes());
    reply.extend(body);
    reply
}

fn u32_at(request: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(request[at..at + 4].try_into().unwrap())
}

fn u64_at(request: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(request[at..at + 8].try_into().unwrap())
}

/// The answer to one request, and which it is for; none for those that want none.
fn answer(disk: &Disk, request: &[u8]) -> Option<(u64, Result<Vec<u8>, i32>)> {
    let (opcode, unique) = (u32_at(request, 4), u64_at(request, 8));
    let (offset, size) = match opcode {
        READ | WRITE => (
            u64_at(request, IN_HEADER + 8),
            u32_at(request, IN_HEADER + 16),
        ),
        _ => (0, 0),
    };
    let answer = match opcode {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init(request)),
        GETATTR | SETATTR => Ok(attributes(disk.size())),
        // `struct fuse_open_out`: a handle, the flags, padding.
        OPEN => Ok([0, 0, FOPEN_DIRECT_IO, 0].map(u32::to_ne_bytes).concat()),
        READ => Ok(disk.read(offset, size as usize)),
        WRITE => {
            let data = &request[IN_HEADER + WRITE_IN..][..size as usize];
            let written = disk.write(offset, data);
            written.map(|()| [size, 0].map(u32::to_ne_bytes).concat())
        }
        FSYNC => {
            disk.flush();
            Ok(Vec::new())
        }
        STATFS => Ok(vec![0; 80]),
        RELEASE | FLUSH | DESTROY => Ok(Vec::new()),
        _ => Err(ENOSYS),
    };
    Some((unique, answer))
}

/// `struct fuse_init_out`.
fn init(request: &[u8]) -> Vec<u8> {
    let (major, minor) = (7u32, u32_at(request, IN_HEADER + 4).min(31));
    let max_readahead = u32_at(request, IN_HEADER + 8);
    let mut out = Vec::new();
    for word in [major, minor, max_readahead, FLAGS] {
        out.extend(word.to_ne_bytes());
    }
    // Requests in the background, and from how many on it is called congested.
    out.extend([64u16, 48].map(u16::to_ne_bytes).concat());
    // The most octets of a write, the grain of times in nanoseconds.
    out.extend([MAX_WRITE as u32, 1].map(u32::to_ne_bytes).concat());
    let max_pages = (MAX_WRITE / 4096) as u16;
    out.extend(max_pages.to_ne_bytes());
    out.resize(64, 0);
    out
}

/// `struct fuse_attr_out` of the one file.
fn attributes(size: u64) -> Vec<u8> {
    let mut out = vec![0; 104];
    let attr = &mut out[16..];
    attr[..8].copy_from_slice(&1u64.to_ne_bytes());
    attr[8..16].copy_from_slice(&size.to_ne_bytes());
    let (mode, links) = (0o100_600u32, 1u32);
    attr[60..64].copy_from_slice(&mode.to_ne_bytes());
    attr[64..68].copy_from_slice(&links.to_ne_bytes());
    attr[80..84].copy_from_slice(&4096u32.to_ne_bytes());
    out
}
