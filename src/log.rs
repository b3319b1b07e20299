/// Shows text from outside in one printable line: controls, DEL, backslash and non-ASCII as `\n`, `\xNN`.
pub struct Escaped<T>(pub T);
impl<T: AsRef<[u8]>> std::fmt::Display for Escaped<T> {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
/// Installs the logger on standard output. RUST_LOG overrides `info`.
pub fn init() {
    todo!()
}
