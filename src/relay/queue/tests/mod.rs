//! The queue at work, with real threads and a real spool; the neighbours are played.

mod bench;
mod clock_tests;
mod destinations_tests;
mod fakes;
mod panic_tests;
mod queue_tests;
