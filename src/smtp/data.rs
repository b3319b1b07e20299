use super::line::LineEnd;
/// Mail data in reception: removes leading dots and CRs, finds the end. Incremental: any split of the input gives the same.
#[derive(Debug)]
pub struct DataReader {}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /** octets of the input used */
    pub used: usize,
    /** the end of mail data was reached */
    pub done: bool,
}
impl DataReader {
    pub fn new(_end: LineEnd) -> Self {
        todo!()
    }
    /// Decodes `input`, handing pieces of LF-ended content to `out`. Stops just after the end of data.
    pub fn feed(&mut self, _input: &[u8], _out: &mut dyn FnMut(&[u8])) -> Progress {
        todo!()
    }
    /// A bare CR or LF was seen: 554 at the end.
    pub fn is_bad(&self) -> bool {
        todo!()
    }
}
/// Mail data on the way out: LF-ended content to CRLF with dots doubled.
#[derive(Debug, Default)]
pub struct DataWriter {}
impl DataWriter {
    pub fn feed(&mut self, _content: &[u8], _out: &mut Vec<u8>) {
        todo!()
    }
    /// Ends an unfinished line, then CRLF-dot-CRLF's dot line.
    pub fn finish(self, _out: &mut Vec<u8>) {
        todo!()
    }
}
