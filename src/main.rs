//! The command: arguments, configuration, daemon, exit status (sysexits).

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use listenfd::ListenFd;
use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use smtpd788::cli::{self, Task};
use smtpd788::config::{Config, ConfigError, MailConf};
use smtpd788::daemon::{Daemon, StartError, listen};
use smtpd788::log::{self as output, err, out};
use smtpd788::{spool, system};

const USAGE: u8 = 64;
const REFUSED: u8 = 71;
const CONFIG: u8 = 78;

/// At SIGTERM, the time for messages under way.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let result = match cli::parse(std::env::args_os().skip(1)) {
        Err(what) => {
            err(&format!("smtpd788: {what}\n{}", cli::usage()));
            Err(USAGE)
        }
        Ok(Task::Help) => {
            out(&cli::usage());
            Ok(())
        }
        Ok(Task::Version) => {
            out(&format!("{}\n", cli::VERSION));
            Ok(())
        }
        Ok(Task::Test {
            mail_conf,
            user_conf,
        }) => read(&mail_conf, &user_conf).map(|config| {
            for warning in config.warnings() {
                err(&format!("warning: {warning}\n"));
            }
            out("configuration OK\n");
        }),
        Ok(Task::Queue { mail_conf }) => list_queue(&mail_conf),
        Ok(Task::Run {
            mail_conf,
            user_conf,
        }) => run(&mail_conf, &user_conf),
    };
    result.map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
}

fn report(errors: Vec<ConfigError>) -> u8 {
    for error in errors {
        err(&format!("{error}\n"));
    }
    CONFIG
}

/// Both files, with every check that a start makes before it touches anything.
fn read(mail_conf: &Path, user_conf: &Path) -> Result<Config, u8> {
    let config = Config::load(mail_conf, user_conf).map_err(report)?;
    let faults = config.check_system(mail_conf, user_conf);
    if !faults.is_empty() {
        return Err(report(faults));
    }
    if let Err(fault) = config.check_spool_dir(mail_conf) {
        report(vec![fault]);
        return Err(REFUSED);
    }
    Ok(config)
}

fn list_queue(mail_conf: &Path) -> Result<(), u8> {
    let mail = MailConf::load(mail_conf).map_err(report)?;
    let table = spool::table(&mail.spool_dir).map_err(|error| {
        err(&format!(
            "smtpd788: cannot read {}: {error}\n",
            mail.spool_dir.display()
        ));
        REFUSED
    })?;
    out(&table.unwrap_or_else(|| "queue is empty\n".to_owned()));
    Ok(())
}

fn run(mail_conf: &Path, user_conf: &Path) -> Result<(), u8> {
    let config = read(mail_conf, user_conf)?;
    output::init().map_err(|e| refused(&StartError::System("start the log", e)))?;
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]);
    let mut signals = signals.map_err(|e| refused(&StartError::System("watch signals", e)))?;
    let daemon = start(config).map_err(|error| refused(&error))?;
    for signal in signals.forever() {
        match signal {
            SIGHUP => daemon.reload(Config::load(mail_conf, user_conf)),
            SIGUSR1 => daemon.retry_all(),
            _ => break,
        }
    }
    info!("stopping");
    // A second signal of this kind ends it at once.
    std::thread::spawn(move || {
        if signals
            .forever()
            .any(|signal| matches!(signal, SIGTERM | SIGINT))
        {
            info!("stopped");
            output::flush();
            std::process::exit(0);
        }
    });
    daemon.stop(GRACE);
    info!("stopped");
    output::flush();
    Ok(())
}

fn refused(error: &StartError) -> u8 {
    err(&format!("smtpd788: {error}\n"));
    REFUSED
}

fn start(config: Config) -> Result<Daemon, StartError> {
    if let Err(error) = system::raise_file_limit() {
        warn!("the limit on open files stays as it is: {error}");
    }
    system::survive_file_size_limit().map_err(|e| StartError::System("watch SIGXFSZ", e))?;
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let mut listeners = inherited().map_err(|e| StartError::System("use LISTEN_FDS", e))?;
    if listeners.is_empty() {
        listeners = listen(&config)?;
    }
    if let Some(owner) = &config.mail.run_as {
        system::make_folders(&config, owner)
            .map_err(|(folder, e)| StartError::Mailbox(folder, e))?;
        system::become_user(owner).map_err(|e| StartError::System("become RUN_AS", e))?;
    }
    Daemon::start(config, listeners)
}

/// Listeners that a service manager opened for us (systemd's LISTEN_FDS); they replace LISTEN_ADDR and LISTEN_PORT.
fn inherited() -> io::Result<Vec<std::net::TcpListener>> {
    let mut fds = ListenFd::from_env();
    let mut listeners = Vec::new();
    for number in 0..fds.len() {
        listeners.extend(fds.take_tcp_listener(number)?);
    }
    Ok(listeners)
}
