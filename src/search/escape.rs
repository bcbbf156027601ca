//! C escapes in needles, and how a needle is shown in an error.

use crate::error::Error;

/// The bytes that a text with C escapes stands for.
///
/// `\n \t \r \a \b \f \v \e \\ \" \'`, octal `\0` to `\377`, `\xH` or `\xHH`
/// for one byte, `\uHHHH` for a character as UTF-8. Unlike in C, `\x` takes at
/// most two digits, so that `\x00leak` means what it says (in C `\x00` would
/// go on for as long as hex digits follow).
///
/// # Errors
///
/// [`Error::Needle`] that names an unknown escape, a last backslash without a
/// letter, or digits that make no byte or character.
///
/// ```
/// use gdb_leak::search::unescape;
/// assert_eq!(unescape(br"leaked\0\x41\n").unwrap(), b"leaked\0A\n");
/// assert!(unescape(br"\q").is_err());
/// ```
pub fn unescape(raw: &[u8]) -> Result<Vec<u8>, Error> {
    let refuse = |rule: String| Error::Needle { needle: shown(raw), rule };
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let Some(letter) = rest.next() else {
            return Err(refuse(r"ends in a lone backslash; write \\ for a backslash".to_owned()));
        };
        // Up to `most` digits to `base`, after those that `value` holds already.
        let mut number = |value: u32, base: u32, most: usize| {
            let mut value = value;
            let mut count = 0_usize;
            while count < most {
                let Some(digit) = rest.peek().and_then(|byte| char::from(*byte).to_digit(base)) else {
                    break;
                };
                value = value.saturating_mul(base).saturating_add(digit);
                count = count.saturating_add(1);
                rest.next();
            }
            (value, count)
        };
        match letter {
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'r' => bytes.push(b'\r'),
            b'a' => bytes.push(0x07),
            b'b' => bytes.push(0x08),
            b'f' => bytes.push(0x0c),
            b'v' => bytes.push(0x0b),
            b'e' => bytes.push(0x1b),
            b'\\' | b'"' | b'\'' => bytes.push(letter),
            b'0'..=b'7' => {
                let (value, _) = number(u32::from(letter.saturating_sub(b'0')), 8, 2);
                let byte = u8::try_from(value);
                bytes.push(byte.map_err(|_| refuse(format!(r"\{value:o} is more than a byte (\377)")))?);
            }
            b'x' => match number(0, 16, 2) {
                (_, 0) => return Err(refuse(r"\x needs one or two hex digits".to_owned())),
                (value, _) => bytes.push(u8::try_from(value).unwrap_or_default()),
            },
            b'u' => match number(0, 16, 4) {
                (value, 4) => {
                    let character = char::from_u32(value);
                    let rule = || refuse(format!(r"\u{value:04x} is half of a pair, no character"));
                    let character = character.ok_or_else(rule)?;
                    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err(refuse(r"\u needs four hex digits".to_owned())),
            },
            letter => {
                let letter = letter.escape_ascii();
                return Err(refuse(format!(
                    r#"unknown escape \{letter} (\n \t \r \a \b \f \v \e \\ \" \' \0 \377 \xHH \uHHHH)"#
                )));
            }
        }
    }
    Ok(bytes)
}

/// The needle as an error shows it: on one line, without control characters, not endless.
pub(super) fn shown(raw: &[u8]) -> String {
    const MOST: usize = 60;
    let plain = std::str::from_utf8(raw).ok().filter(|text| !text.chars().any(char::is_control));
    let text = plain.map_or_else(|| raw.escape_ascii().to_string(), str::to_owned);
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    if text.chars().nth(MOST).is_none() {
        return text;
    }
    text.chars().take(MOST).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(raw: &[u8]) -> String {
        unescape(raw).unwrap_err().to_string()
    }

    #[test]
    fn every_escape_of_c_stands_for_its_byte() {
        let bytes = unescape(br#"\n\t\r\a\b\f\v\e\\\"\'\0\12\101\x9\x41b"#).unwrap();
        assert_eq!(bytes, b"\n\t\r\x07\x08\x0c\x0b\x1b\\\"'\0\nA\x09Ab");
    }

    #[test]
    fn bytes_that_are_no_text_pass_as_they_are() {
        assert_eq!(unescape(b"\xff\x00a").unwrap(), b"\xff\x00a");
    }

    #[test]
    fn a_character_by_number_becomes_utf8() {
        assert_eq!(unescape(br"\u00e4\u20acx").unwrap(), "ä€x".as_bytes());
    }

    #[test]
    fn an_unknown_escape_is_named() {
        assert!(refused(br"a\qb").starts_with(r"needle a\qb: unknown escape \q ("), "{}", refused(br"a\qb"));
    }

    #[test]
    fn a_last_backslash_is_refused() {
        assert_eq!(refused(br"leak\"), r"needle leak\: ends in a lone backslash; write \\ for a backslash");
    }

    #[test]
    fn an_octal_escape_beyond_a_byte_is_refused() {
        assert_eq!(refused(br"\400"), r"needle \400: \400 is more than a byte (\377)");
    }

    #[test]
    fn a_hex_escape_without_digits_is_refused() {
        assert_eq!(refused(br"\xg"), r"needle \xg: \x needs one or two hex digits");
    }

    #[test]
    fn a_character_needs_four_digits_and_is_no_surrogate() {
        assert_eq!(refused(br"\u12"), r"needle \u12: \u needs four hex digits");
        assert_eq!(refused(br"\ud800"), r"needle \ud800: \ud800 is half of a pair, no character");
    }

    #[test]
    fn a_long_or_binary_needle_is_shown_on_one_short_line() {
        assert_eq!(shown(b"\x1b[0m\n"), r"\x1b[0m\n");
        assert_eq!(shown(&[b'a'; 100]).chars().count(), 61);
    }
}
