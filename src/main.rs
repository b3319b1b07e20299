//! The command: arguments, what they ask for, exit status (sysexits).

use std::io::ErrorKind::NotFound;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use log::info;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use smtpd788::cli::{self, Task};
use smtpd788::config::{Files, MailConf};
use smtpd788::daemon::Daemon;
use smtpd788::daemon::start::{StartError, test};
use smtpd788::log::{self as output, err, out};
use smtpd788::spool::{self, SpoolError};

const USAGE: u8 = 64;
const REFUSED: u8 = 71;
const CONFIG: u8 = 78;

/// At SIGTERM, the time for messages under way.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let task = match cli::parse(std::env::args_os().skip(1)) {
        Ok(task) => task,
        Err(what) => {
            err(&format!("smtpd788: {what}\n{}", cli::usage()));
            return USAGE.into();
        }
    };
    let done = match task {
        Task::Help => show(&cli::usage()),
        Task::Version => show(&format!("{}\n", cli::VERSION)),
        Task::Test(files) => test_files(&files),
        Task::Queue { mail_conf } => list_queue(&mail_conf),
        Task::Run(files) => run(&files),
    };
    output::flush();
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    let (status, who) = match error {
        StartError::Config(_) => (CONFIG, ""),
        StartError::Refused(_) | StartError::NoSpool(_) => (REFUSED, ""),
        _ => (REFUSED, "smtpd788: "),
    };
    err(&format!("{who}{error}\n"));
    status.into()
}

fn show(text: &str) -> Result<(), StartError> {
    out(text);
    Ok(())
}

/// `-t`: every warning, and `configuration OK` or every error.
fn test_files(files: &Files) -> Result<(), StartError> {
    let mut findings = test(files)?;
    for warning in &findings.warnings {
        err(&format!("warning: {warning}\n"));
    }
    findings.judge()?;
    show("configuration OK\n")
}

/// `-q`: what waits in the spool.
fn list_queue(mail_conf: &Path) -> Result<(), StartError> {
    let mail = MailConf::load(mail_conf).map_err(StartError::Config)?;
    // A relative one is most often looked for in the wrong place.
    let dir = std::path::absolute(&mail.spool_dir).unwrap_or(mail.spool_dir);
    let table = spool::table(&dir).map_err(|error| match error.kind() {
        NotFound => StartError::NoSpool(dir),
        _ => SpoolError::Io(dir, error).into(),
    })?;
    show(table.as_deref().unwrap_or("queue is empty\n"))
}

/// The daemon, until a signal ends it.
fn run(files: &Files) -> Result<(), StartError> {
    output::init().map_err(|error| StartError::System("start the log", error))?;
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]);
    let mut signals = signals.map_err(|error| StartError::System("watch signals", error))?;
    let daemon = Daemon::start(files)?;
    for signal in signals.forever() {
        match signal {
            SIGHUP => daemon.reload(),
            SIGUSR1 => daemon.retry_all(),
            _ => break,
        }
    }
    info!("stopping");
    std::thread::spawn(move || {
        // A second signal of this kind ends it at once.
        let mut more = signals.forever();
        if more.any(|signal| matches!(signal, SIGTERM | SIGINT)) {
            info!("stopped");
            output::flush();
            std::process::exit(0);
        }
    });
    daemon.stop(GRACE);
    info!("stopped");
    Ok(())
}
