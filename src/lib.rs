//! smtpd788
#![forbid(unsafe_code)]
mod appending;
mod commit;
pub mod config;
mod dotlock;
mod gather;
pub mod log;
pub mod mailbox;
mod mbox;
mod mboxfile;
mod mboxlock;
pub mod message;
pub mod post;
mod quote;
pub mod relay;
pub mod server;
pub mod smtp;
pub mod spool;
pub mod wire;
