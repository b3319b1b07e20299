//! The protocol. RULE: pure. Bytes in, values out: no socket, file, clock, thread or print; never panics.
pub mod address;
pub mod command;
pub mod data;
pub mod line;
pub mod reply;
pub mod session;
