//! What RFC 788 lets a receiver answer: read from its section 4.3, not from our code.

/// Whether `code` is in 4.3's list for the line's command; `503`, which 4.3 gives to none, where the order is
/// wrong; `421`, which may come at any time.
pub fn allowed(line: &[u8], code: u16) -> bool {
    let word = line.split(|octet| *octet == b' ').next();
    let word = word.unwrap_or_default().to_ascii_uppercase();
    let codes: &[u16] = match &word[..] {
        b"HELO" => &[250, 500, 501],
        b"MAIL" => &[250, 552, 451, 452, 500, 501, 503],
        b"RCPT" => &[250, 251, 550, 551, 552, 553, 450, 451, 452, 500, 501, 503],
        b"DATA" => &[354, 451, 554, 500, 501, 503],
        b"RSET" => &[250, 500, 501],
        b"NOOP" => &[250, 500],
        b"QUIT" => &[221, 500],
        b"SEND" | b"SOML" | b"SAML" | b"VRFY" | b"EXPN" | b"HELP" => &[502, 500],
        _ => &[500],
    };
    code == 421 || codes.contains(&code)
}

/// Whether `code` may answer the end of mail data.
pub fn allowed_after_data(code: u16) -> bool {
    [250, 552, 554, 451, 452, 421].contains(&code)
}

/// One line of printable ASCII, with its `<CRLF>` at most 512 octets (4.5.3).
pub fn is_presentable(reply: &[u8]) -> bool {
    let Some(text) = reply.strip_suffix(b"\r\n") else {
        return false;
    };
    reply.len() <= 512 && text.iter().all(|octet| matches!(octet, b' '..=b'~'))
}
