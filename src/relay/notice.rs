use crate::smtp::address::{ForwardPath, Host, ReversePath};
use std::time::SystemTime;
/// One recipient that failed for good.
pub struct Failure {
    pub to: ForwardPath,
    /** the remote host's words or ours */
    pub diagnostic: String,
    /** e.g. mx.example.org; None if the fault is ours */
    pub remote: Option<String>,
}
pub struct Report<'a> {
    pub hostname: &'a Host,
    pub to: &'a ReversePath,
    pub id: crate::message::Id,
    pub received: SystemTime,
    pub now: SystemTime,
    pub failures: &'a [Failure],
    /** head of the original message, LF-ended */
    pub original: &'a [u8],
}
/// The report's content, LF-ended, at most 50 KiB of original headers.
pub fn compose(_report: &Report<'_>) -> Vec<u8> {
    todo!()
}
