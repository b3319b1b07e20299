//! The tests of the library's public face and of the whole daemon, in one program, so that they are linked once.
//! This file is the table of contents; `cargo test --test it forwarding::` runs one part.
//!
//! Beside it are `tests/crash` and `tests/hostile.rs`, which have a full size of their own. Tests of one module's
//! inside stand beside the module, in `src`.
//!
//! All tests share one process. A test that sets a limit of the process, or is killed, runs its program once more as
//! a child ([`again`]).

#[path = "../common/mod.rs"]
mod common;

/// The protocol: octets in, values out.
mod smtp {
    mod addresses; // mailboxes and paths, good and bad
    mod data_endings; // the end of mail data, in every form seen in the wild
    mod properties; // generated input: nothing panics, every split gives the same
    mod session; // the table of states, its limits, what clears a transaction
    mod transcripts; // every file of tests/transcripts against the receiver
}

/// Where a message rests.
mod store {
    /// Delivery to an mbox file.
    mod mailbox {
        mod content; // what lies in the file, octet by octet
        mod crash; // writes that fail or are cut short, and the next start
        mod files; // modes, links, directories, mailboxes by the hundred
        mod locks; // fcntl locks and dotlocks of others
        mod place; // a mailbox with a spool beside it, for the others
    }
    mod recycled_files; // finished files serve the next messages
    mod spool; // the folder in every state that a crash can leave
    mod spool_killed; // a process killed at any moment
    mod spool_measured; // figures, on demand
}

/// Mail comes in: the whole daemon.
mod receive {
    mod budget; // what a client may do before it has brought a message
    mod limits; // clients, recipients and time are bounded
    mod log; // what the log says of a session
    mod mail; // a message comes in and lies in the mbox
    mod transcripts; // every file of tests/transcripts over a socket
}

/// The parts of the way out: the library.
mod relay {
    mod mx; // where a domain's mail goes
    mod notice; // reports of undeliverable mail
    mod sender; // the client of the next hop
    mod sender_faults;
    mod too_many; // a next hop that takes only so many recipients at a time // the client against a next hop that misbehaves at each step
}

/// Mail goes out: the whole daemon, real DNS, next hops that fail.
mod forwarding {
    mod backscatter; // reports that a stranger causes
    mod cluster; // several daemons
    mod fallback; // several MX hosts and addresses
    mod faults; // each kind of answer, and what becomes of the message
    mod journey; // a message from client to client over two daemons
    mod killed; // the daemon is killed while it sends
    mod neighbours; // silent hosts and name servers delay nobody else
    mod resolv_conf; // the system's name servers, from files of all kinds
    mod returned; // bounces
    mod spool; // what waits, and outlives the daemon
    mod stopping; // SIGTERM while it sends
    mod strangers; // who may relay
    mod world; // the daemons, hops and names that the others use
}

/// Starts, stops, reloads, and what the daemon is told.
mod daemon {
    mod checks; // what -t, a start and a reload find before any mail comes
    mod config_files; // the files that are shipped, pySMTPD's, and bad ones
    mod lifecycle; // start, stop, reload, command line
    mod neighbours; // links, locks and files of others in a mailbox's way
    mod service; // units, handed-over sockets, giving up root
    mod spool_folder; // SPOOL_DIR: whose it is, and when it goes away or is full
}

/// The library as others use it.
mod library {
    mod examples; // the examples, run as the README has them
    mod servers; // servers and a mailer in a program of one's own
}

/// Programs of others; most are run on demand.
mod programs {
    mod clients; // mail clients send to the daemon
    mod postfix; // Postfix on both sides
    mod readers; // mail readers read the mbox
}

/// The house itself.
mod house {
    mod format_properties; // generated input for all that is read from files and next hops
    mod layers; // who may name whom in `src`, and how large a file and a folder may be
    mod manuals; // the manual pages agree with the program
    mod package; // what `cargo package` carries
    mod smtp_purity; // `src/smtp` does no input or output
    mod source; // the source as the rules see it
}

/// This program, to run only the test `name` of the module `module_path!()`, in a process of its own.
fn again(module: &str, name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let (_, module) = module.split_once("::").unwrap();
    command.args(["--exact", &format!("{module}::{name}")]);
    command
}
