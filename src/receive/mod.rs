//! The first flow: clients are taken from listeners, served by the session, and their messages given to a handler.

pub(crate) mod connection;
pub mod handler;
pub(crate) mod limits;
pub(crate) mod listener;
pub mod server;
pub(crate) mod socket;
pub(crate) mod wire;
