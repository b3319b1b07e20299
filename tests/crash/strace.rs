//! Faults and signals put into the daemon's system calls by strace.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::daemon::{Daemon, PATIENCE, Setup, wait_until};

/// The command of `setup`, run under strace with one injection that starts with it.
pub fn under(setup: &Setup, inject: &str) -> Command {
    let calls = inject.split(':').next().unwrap();
    let (trace, inject) = (format!("trace={calls}"), format!("inject={inject}"));
    #[rustfmt::skip]
    let words = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "--"];
    setup.command_after(&words)
}

/// A fault in a running daemon; over when dropped.
pub struct Fault(Child);

impl Fault {
    /// `inject` as strace has it: `fdatasync:error=EIO`. `path`: only calls that concern this file.
    pub fn begin(daemon: &Daemon, inject: &str, path: Option<&str>) -> Fault {
        let calls = inject.split(':').next().unwrap();
        let (trace, inject) = (format!("trace={calls}"), format!("inject={inject}"));
        let mut args = vec!["-o", "/dev/null", "-e", &trace, "-e", &inject];
        if let Some(path) = path {
            args.extend(["-P", path]);
        }
        Fault::attach(daemon, &args)
    }

    /// No fault, but a list of `calls`, with the paths of descriptors, in `file`; whole when dropped.
    pub fn none(daemon: &Daemon, calls: &str, file: &Path) -> Fault {
        let trace = format!("trace={calls}");
        let file = file.to_str().unwrap();
        Fault::attach(daemon, &["-y", "-s", "60", "-e", &trace, "-o", file])
    }

    fn attach(daemon: &Daemon, args: &[&str]) -> Fault {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-p", &daemon.child.id().to_string()])
            .args(args);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("strace");
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("attached") {
            assert!(said.read_line(&mut line).unwrap() > 0, "strace: {line}");
        }
        // It goes on to say when threads come and go, and must not block on that.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Fault(child)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // SIGINT: strace lets go of the daemon and ends.
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline && self.0.try_wait().is_ok_and(|s| s.is_none()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Ends a daemon that runs under strace, with its strace.
pub fn end(strace: &mut Child) {
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    for pid in std::fs::read_to_string(children)
        .unwrap_or_default()
        .split_whitespace()
    {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    wait_until("strace follows the daemon", || {
        strace.try_wait().unwrap().is_some()
    });
}
