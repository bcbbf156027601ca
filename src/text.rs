//! Which characters a terminal shows as themselves, and how all other bytes are written.
//!
//! The one rule for names of files, texts of the target and whatever else is printed.

use std::fmt::Write;

/// Whether a terminal shows the character as itself, and as nothing else.
///
/// Not so: control characters (Unicode's Cc, C1 included, but for tab); what
/// turns the direction of the text, has no width or no ink of its own, and
/// could thus make one text look like another; non-characters; private use and
/// planes in which nothing is assigned, which in memory are mere chance.
///
/// ```
/// use gdb_leak::text::printable;
/// assert!(printable('é') && printable('\t') && printable('漢'));
/// assert!(!printable('\u{9b}') && !printable('\u{202e}') && !printable('\u{200b}'));
/// ```
#[must_use]
pub fn printable(character: char) -> bool {
    match character {
        '\t' | ' '..='~' => true,
        character if character.is_control() => false,
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{e000}'..='\u{f8ff}'
        | '\u{fdd0}'..='\u{fdef}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{40000}'..='\u{10ffff}' => false,
        character => u32::from(character) & 0xfffe != 0xfffe,
    }
}

/// All bytes as text for a terminal: printable text as it is, every other byte as `\xHH`.
///
/// ```
/// use gdb_leak::text::escaped;
/// assert_eq!(escaped("é\u{1b}[2J".as_bytes()), "é\\x1b[2J");
/// assert_eq!(escaped(b"cut \xe2\x82"), "cut \\xe2\\x82");
/// ```
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if printable(character) {
                text.push(character);
            } else {
                escape(character.encode_utf8(&mut [0; 4]).as_bytes(), &mut text);
            }
        }
        escape(chunk.invalid(), &mut text);
    }
    text
}

/// All bytes as text for JSON: valid UTF-8 as it is, every other byte as `\xHH`.
///
/// ```
/// use gdb_leak::text::lossless;
/// assert_eq!(lossless(b"caf\xc3\xa9 \xff\n"), "café \\xff\n");
/// ```
#[must_use]
pub fn lossless(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        escape(chunk.invalid(), &mut text);
    }
    text
}

/// Appends each byte as `\xHH`.
pub(crate) fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        // Writing to a String cannot go wrong.
        let _ = write!(text, "\\x{byte:02x}");
    }
}
