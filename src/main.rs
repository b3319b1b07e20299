//! The command: arguments, configuration, daemon, exit status (sysexits).

use std::io;
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
use smtpd788::spool;

const OK: u8 = 0;
const USAGE: u8 = 64;
const REFUSED: u8 = 71;
const CONFIG: u8 = 78;

/// At SIGTERM, the time for messages under way.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let status = match cli::parse(std::env::args_os().skip(1)) {
        Err(what) => {
            err(&format!("smtpd788: {what}\n{}", cli::usage()));
            USAGE
        }
        Ok(Task::Help) => {
            out(&cli::usage());
            OK
        }
        Ok(Task::Version) => {
            out(&format!("{}\n", cli::VERSION));
            OK
        }
        Ok(Task::Test(files)) => show_findings(&files),
        Ok(Task::Queue { mail_conf }) => list_queue(&mail_conf),
        Ok(Task::Run(files)) => match run(&files) {
            Ok(()) => OK,
            Err(error) => fail(&error),
        },
    };
    ExitCode::from(status)
}

/// `-t`: `configuration OK`, or every error; and every warning.
fn show_findings(files: &Files) -> u8 {
    let findings = match test(files) {
        Ok(findings) => findings,
        Err(error) => return fail(&error),
    };
    for warning in &findings.warnings {
        err(&format!("warning: {warning}\n"));
    }
    match findings.into_result() {
        Err(error) => fail(&error),
        Ok(()) => {
            out("configuration OK\n");
            OK
        }
    }
}

/// `-q`: what waits in the spool.
fn list_queue(mail_conf: &Path) -> u8 {
    let mail = match MailConf::load(mail_conf) {
        Ok(mail) => mail,
        Err(errors) => return fail(&StartError::Config(errors)),
    };
    // A relative one is most often looked for in the wrong place.
    let dir = std::path::absolute(&mail.spool_dir).unwrap_or(mail.spool_dir);
    match spool::table(&dir) {
        Ok(table) => {
            out(table.as_deref().unwrap_or("queue is empty\n"));
            return OK;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            err(&format!("no spool at {}\n", dir.display()));
        }
        Err(error) => err(&format!(
            "smtpd788: cannot read {}: {error}\n",
            dir.display()
        )),
    }
    REFUSED
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
        if signals
            .forever()
            .any(|signal| matches!(signal, SIGTERM | SIGINT))
        {
            stopped();
            std::process::exit(OK.into());
        }
    });
    daemon.stop(GRACE);
    stopped();
    Ok(())
}

fn stopped() {
    info!("stopped");
    output::flush();
}

/// Says why nothing runs; the exit status for it.
fn fail(error: &StartError) -> u8 {
    output::flush();
    err(&format!("{error}\n"));
    match error {
        StartError::Config(_) => CONFIG,
        _ => REFUSED,
    }
}
