//! The command line: arguments in, what to do out. Prints nothing and touches no file.
//!
//! A wrong command line is an `Err` with one line that says what is wrong; the caller shows it with
//! [`usage`] on standard error and exits with status 64.

use std::ffi::OsStr;
use std::path::PathBuf;

use getopts::{Matches, Options};

use crate::daemon::config::Files;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// `-h`: print [`usage`] on standard output.
    Help,
    /// `-V`: print [`VERSION`] on standard output.
    Version,
    /// `-t`: make every check that a start makes, short of binding.
    Test(Files),
    /// `-q`: list the spool. It needs no users, so USER_CONF may be left out, and is not read.
    Queue {
        /// MAIL_CONF.
        mail_conf: PathBuf,
    },
    /// No option: be the daemon.
    Run(Files),
}

/// What `-V` prints, without a line end.
pub const VERSION: &str = concat!("smtpd788 ", env!("CARGO_PKG_VERSION"));

/// Reads the arguments, without the program's own name. `-h`, then `-V`, win over anything that is
/// missing or too much.
///
/// # Errors
///
/// One line that says what is wrong.
pub fn parse<I>(arguments: I) -> Result<Task, String>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let matches = options()
        .parse(arguments)
        .map_err(|fail| fail.to_string())?;
    if matches.opt_present("h") {
        return Ok(Task::Help);
    }
    if matches.opt_present("V") {
        return Ok(Task::Version);
    }
    let (test, queue) = (matches.opt_present("t"), matches.opt_present("q"));
    if test && queue {
        return Err("-t and -q cannot be given together".into());
    }
    if queue && matches.free.len() == 1 {
        return Ok(Task::Queue {
            mail_conf: PathBuf::from(&matches.free[0]),
        });
    }
    let files = files(&matches)?;
    Ok(match (test, queue) {
        (true, _) => Task::Test(files),
        (_, true) => Task::Queue {
            mail_conf: files.mail_conf,
        },
        _ => Task::Run(files),
    })
}

fn files(matches: &Matches) -> Result<Files, String> {
    match &matches.free[..] {
        [mail, user] => Ok(Files {
            mail_conf: mail.into(),
            user_conf: user.into(),
        }),
        [] => Err("MAIL_CONF and USER_CONF are missing".into()),
        [_] => Err("USER_CONF is missing".into()),
        [_, _, more, ..] => Err(format!("one file too many: {more:?}")),
    }
}

/// The usage text, ending in a line end.
pub fn usage() -> String {
    let brief = "Usage: smtpd788 [OPTIONS] MAIL_CONF USER_CONF\n\n\
        A small mail daemon (RFC 788). MAIL_CONF holds the settings, USER_CONF the users.\n\
        It stays in the foreground and logs on standard output (RUST_LOG=debug for more).";
    let signals = "\nSignals: TERM, INT stop; HUP reads both files again; USR1 retries the queue now.\n\
        Exit status: 0 fine, 64 wrong usage, 71 refused by the system, 78 wrong configuration.\n";
    options().usage(brief) + signals
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .optflagmulti("h", "help", "print this text")
        .optflagmulti("V", "version", "print the version")
        .optflagmulti(
            "t",
            "test",
            "check both files and the system, start nothing",
        )
        .optflagmulti("q", "queue", "list the mail that waits in the spool");
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Task, String> {
        parse(line.split_whitespace())
    }

    #[test]
    fn every_task_has_its_option() {
        let (mail_conf, user_conf) = (PathBuf::from("m"), PathBuf::from("u"));
        let files = Files {
            mail_conf: mail_conf.clone(),
            user_conf,
        };
        let (run, test) = (Task::Run(files.clone()), Task::Test(files));
        let queue = Task::Queue { mail_conf };
        let rows = [
            ("m u", &run),
            ("-- m u", &run),
            ("-t m u", &test),
            ("m u --test", &test),
            ("-tt m u", &test),
            ("-q m u", &queue),
            ("--queue m", &queue),
            ("-h", &Task::Help),
            ("m --help", &Task::Help),
            ("-V -h", &Task::Help),
            ("-V", &Task::Version),
            ("-t -q --version", &Task::Version),
        ];
        for (line, task) in rows {
            assert_eq!(parse_line(line).as_ref(), Ok(task), "{line}");
        }
    }

    #[test]
    fn wrong_usage_says_what_is_wrong() {
        let rows = [
            ("", "MAIL_CONF and USER_CONF are missing"),
            ("m", "USER_CONF is missing"),
            ("-t m", "USER_CONF is missing"),
            ("-q", "MAIL_CONF and USER_CONF are missing"),
            ("m u x y", "one file too many: \"x\""),
            ("-q -t m u", "-t and -q cannot be given together"),
            ("-x m u", "Unrecognized option: 'x'"),
            ("--tests m u", "Unrecognized option: 'tests'"),
            ("--test=1 m u", "Option 'test' does not take an argument"),
        ];
        for (line, reason) in rows {
            assert_eq!(parse_line(line), Err(reason.to_string()), "{line}");
        }
    }

    #[test]
    fn an_argument_that_is_no_text_is_wrong_usage() {
        use std::os::unix::ffi::OsStrExt;
        assert!(parse([OsStr::from_bytes(b"\xff"), OsStr::new("u")]).is_err());
    }

    #[test]
    fn usage_names_every_option() {
        for word in [
            "MAIL_CONF USER_CONF",
            "-h, --help",
            "-V, --version",
            "-t, --test",
            "-q, --queue",
        ] {
            assert!(usage().contains(word), "{word}\n{}", usage());
        }
        assert!(usage().ends_with(".\n"));
        assert!(VERSION.starts_with("smtpd788 0."));
    }
}
