//! A small synchronous mail daemon and the library that it is made of.
//!
//! smtpd788 listens with blocking sockets, gives each client a thread of its own, and speaks the
//! minimum implementation of [RFC 788](https://www.rfc-editor.org/rfc/rfc788) with it. A program
//! that wants to receive mail starts a [`server::Server`] and gets each message over a channel, or
//! provides a [`handler::Handler`] that decides on recipients and takes messages; the daemon is
//! written on the same two. A program that wants to send uses a [`send::Mailer`].
//!
//! ```
//! use smtpd788::server::Server;
//! use std::io::{Read, Write};
//!
//! let (server, mail) = Server::channel("127.0.0.1:0")?;
//! let mut client = std::net::TcpStream::connect(server.addr())?;
//! client.write_all(b"HELO me\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\nDATA\nHi!\n.\nQUIT\n")?;
//! let message = mail.recv().unwrap();
//! assert_eq!(message.envelope.to[0].to_string(), "<c@d>");
//! assert_eq!(message.body.as_bytes(), Some(&b"Hi!\n"[..]));
//! server.join(std::time::Duration::from_secs(1));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What to rely on
//!
//! [`server`], [`handler`], [`message`], [`send`], [`relay::sender`], [`relay::mx`] and [`smtp`] are the library: they
//! change as semantic versions do, and their types grow only where they are `#[non_exhaustive]`. Nothing in it is
//! global, and nothing prints: events go to the crate `log`, and whoever wants to see them installs a logger. The
//! other modules are public for the command and its tests, and promise nothing.
//!
//! # The path of a message
//!
//! ```text
//!  client                                                                       next hop
//!    | TCP                                                                          ^ TCP
//!    v                                                                              |
//!  accept ---> client ---> wire      octets, deadlines, replies             relay/sender
//!  (a thread     |  \                                                               ^
//!   a client)    |   smtp/           pure: lines, commands, session, data           |
//!                v                                                            relay/mx (DNS)
//!             handler                a program's own, or the daemon's:              ^
//!                |                                                                  |
//!                v      whose is it?                                                |
//!              post ----------+----> spool/    one durable file a message ---> relay/queue
//!                |            |                  ^                                  |
//!                |  mailboxes |                  | "not now"                        | "never"
//!                v            v                  |                                  v
//!            mailbox/ (group commit) ------------+                       relay/notice --> post
//! ```
//!
//! `250` is said when `post` returns: every copy is on stable storage, in a
//! mailbox or in the spool.
//!
//! # The map
//!
//! | where | what | rule |
//! | --- | --- | --- |
//! | [`smtp`] | addresses, commands, replies, lines, mail data, the session | pure: octets in, values out |
//! | `config` | both files, every fault with its line | reads and judges, changes nothing |
//! | `mailbox` | mbox delivery: locks, quoting, group commit, cut back | nothing else opens an mbox |
//! | `spool` | durable queue files | nothing else touches the spool's messages |
//! | [`relay`] | DNS, the sender, the queue, reports | everything that calls out |
//! | [`server`], [`handler`] | the receiver as a library | no second way in: the daemon uses it |
//! | [`send`] | the sender as a library | a thin cover of `relay::sender` and `relay::mx` |
//! | `daemon`, `post` | the two flows put together | flows decide and log, leaves return errors |
//!
//! Imports point down only: `main`, then `daemon`, then `server` and `relay::queue` (the two
//! flows), then `post`, then the leaves, then values ([`message`], `config`), then [`smtp`].

#![forbid(unsafe_code)]
#![deny(missing_docs)]

// Hidden ones: the command's own, public for it and for its tests.
mod accept;
mod ahead;
mod body;
#[doc(hidden)]
pub mod cli;
mod client;
mod clients;
mod commit;
mod company;
#[doc(hidden)]
pub mod config;
mod crowd;
#[doc(hidden)]
pub mod daemon;
mod date;
pub mod handler;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod mailbox;
pub mod message;
mod post;
pub mod relay;
pub mod send;
pub mod server;
pub mod smtp;
#[doc(hidden)]
pub mod spool;
mod stream;
#[doc(hidden)]
pub mod system;
mod wire;
