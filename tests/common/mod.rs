//! What whole-daemon tests share. Each binary uses its part.

pub mod codes;
pub mod daemon;
pub mod dns;
pub mod hop;
pub mod programs;
pub mod sending;
pub mod transcript;
