/// A session's line end, taken from its first command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    CrLf,
    Lf,
}
/// Cuts command lines out of input. Bounded: 512 octets with the line end.
#[derive(Debug, Default)]
pub struct LineReader {
    end: Option<LineEnd>,
}
#[derive(Debug, PartialEq, Eq)]
pub enum LineStep<'a> {
    /// A whole line, `used` octets of the input with its end; `fault` = it must get 500 (too long, bare CR or LF,
    /// control or 8-bit characters).
    Line {
        line: &'a [u8],
        used: usize,
        fault: bool,
    },
    /// No whole line yet: drop `used` octets (of an overlong line that is being skipped) and read more.
    More { used: usize },
}
impl LineReader {
    pub fn end(&self) -> Option<LineEnd> {
        self.end
    }
    pub fn next<'a>(&mut self, _input: &'a [u8]) -> LineStep<'a> {
        todo!()
    }
}
