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
//! [`server`], [`handler`], [`message`], [`send`], [`relay::client`], [`relay::mx`] and [`smtp`] are the library: they
//! change as semantic versions do, and their types grow only where they are `#[non_exhaustive]`. Any number of servers
//! and mailers may run in one process: what they share is the counter that keeps two ids from being equal. Nothing
//! prints: events go to the crate `log`, and whoever wants to see them installs a logger. The other modules are public
//! for the command and its tests, and promise nothing.
//!
//! # The path of a message
//!
//! ```text
//!  client                                                                      next hop
//!    | TCP                                                                         ^ TCP
//!    v                                                                             |
//!  receive/listener --> receive/connection      a thread a client             relay/client
//!                          |        \\                                              ^
//!                          |         smtp/      pure: lines, commands, data        |
//!                          v                                                  relay/mx, net/dns
//!                  receive/handler              a program's own, or the daemon's   ^
//!                          |                                                       |
//!                          v   whose is it?                                        |
//!                    daemon/router --------+--> store/spool   one file a message --> relay/queue
//!                          |               |         ^                             |
//!                          | mailboxes     |         | "not now"                   | "never"
//!                          v               v         |                             v
//!                  store/mailbox (group commit) -----+                       relay/bounce --> router
//! ```
//!
//! `250` is said when the router returns: every copy is on stable storage, in a mailbox or in the spool.
//!
//! # The map
//!
//! | where | what | rule |
//! | --- | --- | --- |
//! | `daemon` | the command, both files, the log, the router | flows decide and log, leaves return errors |
//! | `receive` | flow 1; [`server`] and [`handler`] are the receiver as a library | no second way in |
//! | [`relay`] | flow 2; [`send`] is the sender as a library | everything that calls out |
//! | `store` | mailboxes and spool, each durable before it is acknowledged | nothing else opens an mbox or a spool file |
//! | [`message`] | envelope, id, content, dates | values |
//! | `net` | a stream with deadlines, DNS | the only file that knows `async` is `dns` |
//! | [`smtp`] | addresses, commands, replies, lines, mail data, the session | pure: octets in, values out |
//!
//! Imports point down: `daemon` > `receive`, `relay` > `store` > `message`, `net` > `smtp`. A test reads every import
//! (`tests/it/house/layers.rs`) and names the line that breaks this.
//!
//! | to change | look at |
//! | --- | --- |
//! | a key of mail.conf | `daemon/config/mail.rs`: a row of its table |
//! | a reply's text | `smtp/reply.rs`, and the transcripts under `tests/transcripts` |
//! | what a command may do when | the table of `smtp/session.rs` |
//! | whose mail is whose, and what is safe before `250` | `daemon/router.rs` |
//! | how an mbox is written, locked, recovered | the table of `store/mailbox/mod.rs` |
//! | what a spool file goes through | the table of `store/spool/mod.rs` |
//! | when and where mail is tried | `relay/queue/mod.rs` |
//! | what is said to a next hop | `relay/client.rs` |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

// Hidden ones are the command's own, public for it and for its tests.
#[doc(hidden)]
pub mod daemon;
pub mod message;
mod net;
mod receive;
pub mod relay;
pub mod smtp;
#[doc(hidden)]
pub mod store;

#[doc(hidden)]
pub use daemon::{cli, config, log};
pub use receive::{handler, server};
pub use relay::mailer as send;
#[doc(hidden)]
pub use store::{mailbox, spool};
