//! The protocol of RFC 788, without the network.
//!
//! RULE: pure. Bytes in, values out: no socket, file, clock, thread or print; never panics. So every
//! promise made here is tested by plain function calls, and `tests/it/house/smtp_purity.rs` guards the rule.
//!
//! A receiver's driver cuts lines with [`line::LineReader`], passes them to [`session::Session`], does
//! what the [`session::Step`] says, and reads mail data with [`data::DataReader`]. A sender's driver
//! reads answers with [`reply::ReplyReader`] and writes mail data with [`data::DataWriter`].

pub mod address;
pub mod command;
pub mod data;
pub mod host;
pub mod line;
pub mod remote;
pub mod reply;
pub mod session;
