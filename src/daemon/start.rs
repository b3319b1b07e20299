//! A start, step by step: what stops it, and as whom each step is done.
//!
//! 1. Both files are read, and checked as the user that started us.
//! 2. Listeners are opened, or taken from a service manager.
//! 3. Missing folders are made, and given to the user of RUN_AS.
//! 4. The process becomes that user, for good.
//! 5. What that user finds is checked.
//!
//! A test ([`test`]) is steps 1, 4 and 5; a reload is 1, 3 and 5.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::take;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use listenfd::ListenFd;
use log::warn;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{
    Gid, Uid, User, getresgid, getresuid, initgroups, setgroups, setresgid, setresuid,
};

use crate::daemon::config::{Config, ConfigError, Files, RunAs};
use crate::daemon::preflight::Findings;
use crate::receive::server;
use crate::store::spool::SpoolError;

/// Why a daemon cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Every fault of the two files.
    #[error("{}", one_a_line(.0))]
    Config(Vec<ConfigError>),
    /// The files are good, but the system refuses what a line of them asks for.
    #[error("{}", one_a_line(.0))]
    Refused(Vec<ConfigError>),
    /// An address of LISTEN_ADDR cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The spool cannot be used, or belongs to another daemon.
    #[error("cannot use the spool: {0}")]
    Spool(#[from] SpoolError),
    /// There is no spool here to be listed.
    #[error("no spool at {path}", path = .0.display())]
    NoSpool(PathBuf),
    /// Anything else.
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

fn one_a_line(errors: &[ConfigError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// `-t`: every check that a start makes, short of binding, as the user that it would run as.
///
/// # Errors
/// What stops the checks themselves.
pub fn test(files: &Files) -> Result<Findings, StartError> {
    let config = read(files)?;
    let mut findings = Findings::default();
    config.check_before(files, &mut findings);
    if config.check_run_as(files, &mut findings) {
        become_run_as(&config)?;
        config.check_as_user(files, &mut findings);
    }
    let mut paths = config.users.mailboxes().into_keys();
    if (config.mail.spool_dir.is_relative() || paths.any(Path::is_relative))
        && let Ok(here) = std::env::current_dir()
    {
        let here = here.display();
        let warning = format!("relative paths are taken from {here}, where this test runs");
        findings.warnings.push(warning);
    }
    Ok(findings)
}

/// All that a start does before the first thread that serves anybody. Warnings go to the log.
///
/// # Errors
/// Faults of the files, and what the system refused.
pub(crate) fn prepare(files: &Files) -> Result<(Config, Vec<TcpListener>), StartError> {
    let failed = |what| move |error| StartError::System(what, error);
    if let Err(error) = raise_file_limit() {
        warn!("the limit on open files stays as it is: {error}");
    }
    survive_file_size_limit().map_err(failed("watch SIGXFSZ"))?;
    let config = read(files)?;
    let mut findings = Findings::default();
    config.check_before(files, &mut findings);
    config.check_run_as(files, &mut findings);
    findings.judge()?;
    let mut listeners = inherited().map_err(failed("use LISTEN_FDS"))?;
    if listeners.is_empty() {
        let mail = &config.mail;
        let open = |addr| server::listen(addr, mail.client_timeout);
        listeners = listen(&mail.listen_addr, mail.listen_port, open)?;
    }
    config.make_folders(files, &mut findings);
    findings.judge()?;
    become_run_as(&config)?;
    config.check_as_user(files, &mut findings);
    findings.log_and_judge()?;
    Ok((config, listeners))
}

/// Both files; every fault of them.
pub(crate) fn read(files: &Files) -> Result<Config, StartError> {
    Config::load(&files.mail_conf, &files.user_conf).map_err(StartError::Config)
}

fn become_run_as(config: &Config) -> Result<(), StartError> {
    match config.mail.run_as.as_ref().map(become_user) {
        Some(Err(error)) => Err(StartError::System("become RUN_AS", error)),
        _ => Ok(()),
    }
}

impl Findings {
    /// Whether a start can go on.
    ///
    /// # Errors
    /// What stops it.
    pub fn judge(&mut self) -> Result<(), StartError> {
        match (take(&mut self.faults), take(&mut self.refused)) {
            (faults, refused) if !faults.is_empty() => {
                Err(StartError::Config([faults, refused].concat()))
            }
            (_, refused) if !refused.is_empty() => Err(StartError::Refused(refused)),
            _ => Ok(()),
        }
    }

    /// The same, with the warnings in the log.
    pub(crate) fn log_and_judge(&mut self) -> Result<(), StartError> {
        self.warnings.iter().for_each(|warning| warn!("{warning}"));
        self.judge()
    }
}

/// Listeners that a service manager opened for us (systemd's LISTEN_FDS); they replace LISTEN_ADDR and LISTEN_PORT.
fn inherited() -> io::Result<Vec<TcpListener>> {
    let mut fds = ListenFd::from_env();
    let mut listeners = Vec::new();
    for number in 0..fds.len() {
        listeners.extend(fds.take_tcp_listener(number)?);
    }
    Ok(listeners)
}

/// Opens a listener for each address. A host without IPv6 does without `::`, if it has another address to listen on.
fn listen(
    addrs: &[IpAddr],
    port: u16,
    open: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> Result<Vec<TcpListener>, StartError> {
    let (mut listeners, mut missing) = (Vec::new(), None);
    for ip in addrs {
        let addr = SocketAddr::new(*ip, port);
        match open(addr).map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
            Ok(listener) => listeners.push(listener),
            Err((Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL), error))
                if *ip == Ipv6Addr::UNSPECIFIED =>
            {
                missing = Some(StartError::Listen(addr, error));
            }
            Err((_, error)) => return Err(StartError::Listen(addr, error)),
        }
    }
    match missing {
        Some(error) if listeners.is_empty() => return Err(error),
        Some(error) => warn!("{error}: this host has no IPv6"),
        None => {}
    }
    Ok(listeners)
}

/// Raises the soft limit on open files to the hard one.
///
/// # Errors
/// What the system reports; the daemon can go on with the old limit.
fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Makes a write beyond the file size limit an error (`EFBIG`) instead of the end of the process.
///
/// # Errors
/// What the system reports.
fn survive_file_size_limit() -> io::Result<()> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(nix::libc::SIGXFSZ, flag).map(drop)
}

/// Becomes `owner` for good: groups, group and user, real, effective and saved.
///
/// # Errors
/// What the system refused, or that root could be had back; the daemon must not go on then.
fn become_user(owner: &RunAs) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    if !Uid::effective().is_root() {
        let same = Uid::effective() == uid && Gid::effective() == gid;
        return if same {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        };
    }
    match User::from_uid(uid)?.and_then(|user| CString::new(user.name).ok()) {
        Some(name) => initgroups(&name, gid)?,
        None => setgroups(&[gid])?,
    }
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let (users, groups) = (getresuid()?, getresgid()?);
    let given_up = [users.real, users.effective, users.saved] == [uid; 3]
        && [groups.real, groups.effective, groups.saved] == [gid; 3];
    let root = Uid::from_raw(0);
    if !given_up || !uid.is_root() && setresuid(root, root, root).is_ok() {
        return Err(io::Error::other("root was not given up"));
    }
    // Securebits can make a change of user keep what it should end (capabilities(7)).
    match fs::read_to_string("/proc/self/status")? {
        status if !uid.is_root() && has_capabilities(&status) => {
            Err(io::Error::other("capabilities of root were not given up"))
        }
        _ => Ok(()),
    }
}

/// Whether a process with this `/proc/PID/status` has capabilities, or could take them (proc_pid_status(5)).
fn has_capabilities(status: &str) -> bool {
    let sets = ["CapPrm:", "CapEff:", "CapAmb:"];
    let none = |set| {
        status.lines().any(|line| {
            line.strip_prefix(set)
                .is_some_and(|bits| bits.trim_matches(['0', '\t']).is_empty())
        })
    };
    !sets.into_iter().all(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_ipv6_listens_on_the_rest() {
        let addrs = |text: &str| {
            text.split(' ')
                .map(|ip| ip.parse().unwrap())
                .collect::<Vec<IpAddr>>()
        };
        let open = |errno: Errno| {
            move |addr: SocketAddr| match addr.ip() {
                IpAddr::V4(_) => TcpListener::bind("127.0.0.1:0"),
                IpAddr::V6(_) => Err(errno.into()),
            }
        };
        for errno in [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL] {
            let rows = [
                ("0.0.0.0 ::", Some(1)),
                (":: 127.0.0.1 0.0.0.0", Some(2)),
                ("::", None),
                ("0.0.0.0 ::1", None), // asked for by its number
            ];
            for (text, count) in rows {
                let found = listen(&addrs(text), 0, open(errno)).ok();
                assert_eq!(found.map(|all| all.len()), count, "{errno} {text}");
            }
        }
        assert!(listen(&addrs("0.0.0.0 ::"), 0, open(Errno::EADDRINUSE)).is_err());
    }

    #[test]
    fn capabilities_are_seen_in_each_set() {
        let status = |sets: [&str; 3]| {
            let [permitted, effective, ambient] = sets;
            format!(
                "Name:\tx\nCapInh:\t0000000000000400\nCapPrm:\t{permitted}\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\nCapAmb:\t{ambient}\n"
            )
        };
        let (none, some) = ("0000000000000000", "0000000000000400");
        assert!(!has_capabilities(&status([none; 3])));
        for number in 0..3 {
            let mut sets = [none; 3];
            sets[number] = some;
            assert!(has_capabilities(&status(sets)), "{sets:?}");
        }
        assert!(
            has_capabilities("Name:\tx\n"),
            "what cannot be read is no reason to go on"
        );
    }
}
