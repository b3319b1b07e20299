//! What both files have in common: lines, comments, and faults with their lines.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest file that is read: far more than any list of users, and a bound for `/dev/zero`.
const FILE_MAX: u64 = 64 << 20;

/// One fault: `FILE:LINE: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}", file = file.display())]
pub struct ConfigError {
    /// The file, as the command line names it.
    pub file: PathBuf,
    /// The line, from 1; 1 also for what belongs to no line.
    pub line: usize,
    /// What is wrong, and mostly what to write instead.
    pub what: String,
}

/// What is wrong with one line of a file, and the line's number.
pub(crate) type Fault = (usize, String);

/// The faults of one file, in the order of its lines.
pub(crate) fn faults_of(file: &Path, mut faults: Vec<Fault>) -> Vec<ConfigError> {
    faults.sort_by_key(|(line, _)| *line);
    let with_file = |(line, what)| ConfigError {
        file: file.into(),
        line,
        what,
    };
    faults.into_iter().map(with_file).collect()
}

/// Hands each line of a file that says something to `take`, with its number, and collects the faults. `Err`: the
/// file cannot be read.
pub(crate) fn read_lines(
    file: &Path,
    mut take: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<Vec<Fault>, Fault> {
    let mut octets = Vec::new();
    let read = File::open(file).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut octets));
    match read {
        Ok(len) if len as u64 <= FILE_MAX => {}
        Ok(_) => return Err((1, "the file is larger than 64 MiB".into())),
        Err(error) => return Err((1, format!("the file cannot be read: {error}"))),
    }
    let lines = (1..).zip(octets.split(|&octet| octet == b'\n'));
    let judged = lines.map(|(number, text)| (number, line(number, text)));
    let taken = judged.map(|(number, text)| match text {
        Ok("") => (number, Ok(())),
        Ok(text) => (number, take(number, text)),
        Err(what) => (number, Err(what.into())),
    });
    Ok(taken
        .filter_map(|(number, taken)| Some((number, taken.err()?)))
        .collect())
}

/// One line, trimmed; empty if it is blank or a comment.
fn line(number: usize, octets: &[u8]) -> Result<&str, &'static str> {
    let octets = octets.strip_suffix(b"\r").unwrap_or(octets);
    if number == 1 && octets.starts_with(b"\xef\xbb\xbf") {
        return Err("a byte order mark: save the file as UTF-8 without one");
    }
    // Looked for in comments too: in a file with CR line ends, all would be one comment.
    if octets.contains(&b'\r') {
        return Err("a carriage return inside the line: end lines with LF or CRLF");
    }
    let octets = octets.trim_ascii();
    if octets.starts_with(b"#") {
        return Ok("");
    }
    match str::from_utf8(octets) {
        Err(_) => Err("not valid UTF-8"),
        Ok(text) if text.contains(|c: char| c.is_control() && c != '\t') => {
            Err("a control character")
        }
        Ok(text) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_skip_what_says_nothing_and_report_what_is_no_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = b"\xef\xbb\xbfa = 1\r\n\r\n \n# \xff comment\n\t#x\nb\xff\nc\x00\n  d = \xc3\xa9 \ne\rf\n#g\rh\nlast";
        std::fs::write(file.path(), text).unwrap();
        let mut lines = Vec::new();
        let mut take = |number, text: &str| {
            lines.push((number, text.to_owned()));
            Ok(())
        };
        let faults = read_lines(file.path(), &mut take).unwrap();
        let expected = [(8, "d = é"), (11, "last")].map(|(n, text)| (n, text.to_owned()));
        assert_eq!(lines, expected);
        let numbers: Vec<usize> = faults.iter().map(|(line, _)| *line).collect();
        assert_eq!(numbers, [1, 6, 7, 9, 10]);
    }
}
