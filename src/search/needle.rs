//! What is looked for, as a person gives it.

use std::ops::ControlFlow;

use super::bytes::{ByteNeedle, Sink, Zeros};
use super::escape::shown;
use super::pattern::{LONGEST, Pattern};
use super::window::{Reach, Window};
use super::words::WordNeedle;
use crate::error::Error;
use crate::pass::Job;
use crate::range::AddressRange;
use crate::word::{ByteOrder, WordFormat};

/// Something to look for in memory.
#[derive(Clone, Debug)]
pub struct Needle(Matcher);

#[derive(Clone, Debug)]
enum Matcher {
    Bytes(Box<ByteNeedle>),
    Words(WordNeedle),
    Pattern(Pattern),
}

impl Needle {
    /// The bytes of a text, escapes already read; `terminated` adds one NUL.
    ///
    /// `ignore_case` makes the letters A to Z match in either case. Letters
    /// beyond ASCII match as they are: which bytes they are in memory depends
    /// on an encoding that is not known.
    ///
    /// # Errors
    ///
    /// [`Error::Needle`] when the text is empty.
    pub fn text(bytes: &[u8], terminated: bool, ignore_case: bool) -> Result<Self, Error> {
        let mut needle = not_empty(bytes, "\"\"")?.to_vec();
        if terminated {
            needle.push(0);
        }
        Ok(Self::bytes(if ignore_case {
            ByteNeedle::ignoring_case(needle, Vec::new())
        } else {
            ByteNeedle::new(needle)
        }))
    }

    /// Bytes in memory order, as `6c6561`, `6c 65 61` or `6c:65:61`.
    ///
    /// # Errors
    ///
    /// [`Error::Needle`] when there is no digit, something that is no digit
    /// (`0x` too: it would say that this is a number), or half a byte.
    ///
    /// ```
    /// use gdb_leak::search::Needle;
    /// assert_eq!(Needle::hex("6c:65 61").unwrap().hex_bytes(), "6c6561");
    /// assert!(Needle::hex("6c656").is_err());
    /// ```
    pub fn hex(digits: &str) -> Result<Self, Error> {
        let refuse = |rule: String| Error::Needle { needle: shown(digits.as_bytes()), rule };
        let groups = digits.split(|letter: char| letter.is_ascii_whitespace() || letter == ':');
        let mut bytes = Vec::new();
        for group in groups.filter(|group| !group.is_empty()) {
            if group.starts_with("0x") || group.starts_with("0X") {
                let rule = "0x is for numbers; write the bytes in memory order without it, as in 6c 65 61";
                return Err(refuse(rule.to_owned()));
            }
            if let Some(letter) = group.chars().find(|letter| !letter.is_ascii_hexdigit()) {
                return Err(refuse(format!("{letter:?} is no hex digit")));
            }
            bytes.extend(hex::decode(group).map_err(|_| {
                let place = if group == digits { String::new() } else { format!(" in {group}") };
                refuse(format!("an odd number of hex digits{place} ({}); a byte takes two", group.len()))
            })?);
        }
        let shown = shown(digits.as_bytes());
        Ok(Self::bytes(ByteNeedle::new(not_empty(&bytes, &shown)?.to_vec())))
    }

    /// An integer of 1, 2, 4 or 8 bytes; a negative one in two's complement.
    ///
    /// # Errors
    ///
    /// [`Error::Needle`] when it does not fit, [`Error::Request`] for another size.
    ///
    /// ```
    /// use gdb_leak::search::Needle;
    /// use gdb_leak::word::ByteOrder;
    /// let needle = Needle::integer(-2, 2, ByteOrder::Little).unwrap();
    /// assert_eq!(needle.hex_bytes(), "feff");
    /// ```
    pub fn integer(value: i128, size: usize, order: ByteOrder) -> Result<Self, Error> {
        let (max, min): (u64, i64) = match size {
            1 => (u8::MAX.into(), i8::MIN.into()),
            2 => (u16::MAX.into(), i16::MIN.into()),
            4 => (u32::MAX.into(), i32::MIN.into()),
            8 => (u64::MAX, i64::MIN),
            _ => {
                let rule = "an integer has 1, 2, 4 or 8 bytes".to_owned();
                return Err(Error::Request { thing: "integer size", value: size.to_string(), rule });
            }
        };
        let unsigned = u64::try_from(value).ok().filter(|value| *value <= max);
        let signed = || i64::try_from(value).ok().filter(|value| *value >= min && *value < 0);
        let complement = |value: i64| u64::from_le_bytes(value.to_le_bytes());
        let Some(word) = unsigned.or_else(|| signed().map(complement)) else {
            let sign = if value < 0 { "-" } else { "" };
            let unit = if size == 1 { "byte" } else { "bytes" };
            let least = min.unsigned_abs();
            return Err(Error::Needle {
                needle: format!("{sign}{:#x}", value.unsigned_abs()),
                rule: format!("does not fit into {size} {unit} (0 to {max:#x}, or -{least:#x} to -1)"),
            });
        };
        Ok(Self::bytes(ByteNeedle::new(order.bytes(word, size))))
    }

    /// A text in UTF-16, at even and at odd addresses; `terminated` adds one NUL character.
    ///
    /// `ignore_case` as in [`Needle::text`]: only A to Z.
    ///
    /// # Errors
    ///
    /// [`Error::Needle`] when the text is empty.
    pub fn utf16(text: &str, order: ByteOrder, terminated: bool, ignore_case: bool) -> Result<Self, Error> {
        not_empty(text.as_bytes(), "\"\"")?;
        let mut bytes = Vec::new();
        // Half of a character such as U+4E2D may look like a letter and is none.
        let mut strict = Vec::new();
        for unit in text.encode_utf16().chain(terminated.then_some(0)) {
            for byte in order.bytes(unit.into(), 2) {
                if unit >= 0x80 && byte.is_ascii_alphabetic() {
                    strict.push(bytes.len());
                }
                bytes.push(byte);
            }
        }
        Ok(Self::bytes(if ignore_case {
            ByteNeedle::ignoring_case(bytes, strict)
        } else {
            ByteNeedle::new(bytes)
        }))
    }

    /// Aligned words equal to an address.
    ///
    /// # Errors
    ///
    /// [`Error::Needle`] when a word of the target cannot hold it.
    pub fn pointer(value: u64, format: WordFormat) -> Result<Self, Error> {
        fits(value, format, || format!("{value:#x}"))?;
        Ok(Self(Matcher::Words(WordNeedle { first: value, count: 1, format })))
    }

    /// Aligned words that are addresses in a range.
    ///
    /// # Errors
    ///
    /// [`Error::Needle`] when the range is empty or lies beyond every word of the target.
    pub fn pointers_into(range: AddressRange, format: WordFormat) -> Result<Self, Error> {
        let text = || format!("{:#x},{:#x}", range.start(), range.end());
        if range.is_empty() {
            let rule = "the range holds no address".to_owned();
            return Err(Error::Needle { needle: text(), rule });
        }
        fits(range.start(), format, text)?;
        Ok(Self(Matcher::Words(WordNeedle { first: range.start(), count: range.len(), format })))
    }

    /// A pattern of bytes in the syntax of Rust's `regex` crate.
    ///
    /// Classes are those of bytes: `\xff` is one byte, `.` any byte but a
    /// newline, `\w` and `ignore_case` know ASCII letters only, and other
    /// letters stand for their UTF-8. `(?u)` turns Unicode classes on. `^` and
    /// `$` are the borders of lines. Matches are leftmost, do not overlap, and
    /// have 1 to [`LONGEST`] bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Needle`] for a bad pattern, one that matches the empty text or
    /// nothing up to the longest match, one that compiles to more than 256 KiB,
    /// and anchors that have no meaning in memory: `\A`, `\z`, Unicode's `\b`.
    pub fn regex(pattern: &str, ignore_case: bool) -> Result<Self, Error> {
        Self::regex_up_to(pattern, ignore_case, LONGEST)
    }

    /// The same with matches of at most `longest` bytes.
    ///
    /// # Errors
    ///
    /// As [`Needle::regex`].
    pub fn regex_up_to(pattern: &str, ignore_case: bool, longest: usize) -> Result<Self, Error> {
        Pattern::new(pattern, ignore_case, longest).map(|pattern| Self(Matcher::Pattern(pattern)))
    }

    /// The needle's bytes in hex, as they lie in memory and in the case given.
    ///
    /// For pointers into a range `START,END`, for a pattern the pattern itself:
    /// they have no bytes of their own.
    #[must_use]
    pub fn hex_bytes(&self) -> String {
        match &self.0 {
            Matcher::Bytes(needle) => hex::encode(needle.bytes()),
            Matcher::Words(WordNeedle { first, count: 1, format }) => {
                hex::encode(format.order.bytes(*first, format.size))
            }
            Matcher::Words(WordNeedle { first, count, .. }) => {
                format!("{first:#x},{:#x}", first.saturating_add(*count))
            }
            Matcher::Pattern(pattern) => pattern.given().to_owned(),
        }
    }

    fn bytes(needle: ByteNeedle) -> Self {
        Self(Matcher::Bytes(Box::new(needle)))
    }

    /// Which bytes around a start decide about a match.
    pub(super) fn reach(&self) -> Reach {
        match &self.0 {
            Matcher::Bytes(needle) => needle.reach(),
            Matcher::Words(needle) => needle.reach(),
            Matcher::Pattern(pattern) => pattern.reach(),
        }
    }

    /// What it finds at `starts`, around which the whole reach is zeros.
    pub(super) fn zeros(&self, starts: AddressRange) -> Zeros {
        match &self.0 {
            Matcher::Bytes(needle) => needle.zeros(starts),
            Matcher::Words(needle) => needle.zeros(starts),
            Matcher::Pattern(pattern) if pattern.in_zeros() => Zeros::Look,
            Matcher::Pattern(_) => Zeros::Nothing,
        }
    }

    /// Whether a match keeps later ones from starting before its end.
    pub(super) fn exclusive(&self) -> bool {
        matches!(self.0, Matcher::Pattern(_))
    }

    /// Tells `sink` of all matches in the window; `next` is kept for [`Pattern::scan`].
    pub(super) fn scan(
        &self,
        window: &Window<'_>,
        next: &mut u64,
        job: &Job,
        sink: &mut Sink<'_>,
    ) -> ControlFlow<()> {
        match &self.0 {
            Matcher::Bytes(needle) => needle.scan(window, job, sink),
            Matcher::Words(needle) => needle.scan(window, job, sink),
            Matcher::Pattern(pattern) => pattern.scan(window, next, job, sink),
        }
    }
}

fn not_empty<'a>(bytes: &'a [u8], needle: &str) -> Result<&'a [u8], Error> {
    if bytes.is_empty() {
        let rule = "an empty needle is everywhere; give it a byte".to_owned();
        return Err(Error::Needle { needle: needle.to_owned(), rule });
    }
    Ok(bytes)
}

fn fits(value: u64, format: WordFormat, needle: impl Fn() -> String) -> Result<(), Error> {
    if value <= format.max() {
        return Ok(());
    }
    let rule = format!("does not fit into a word of {} bytes (0 to {:#x})", format.size, format.max());
    Err(Error::Needle { needle: needle(), rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(needle: Result<Needle, Error>) -> String {
        needle.unwrap_err().to_string()
    }

    const LITTLE: ByteOrder = ByteOrder::Little;
    const BIG_32: WordFormat = WordFormat { size: 4, order: ByteOrder::Big };

    #[test]
    fn an_empty_needle_is_refused() {
        let rule = ": an empty needle is everywhere; give it a byte";
        for needle in [
            Needle::text(b"", false, false),
            Needle::text(b"", true, false),
            Needle::hex(""),
            Needle::hex(" : "),
            Needle::utf16("", LITTLE, true, true),
        ] {
            assert!(refused(needle).ends_with(rule));
        }
    }

    #[test]
    fn a_text_has_a_terminator_only_when_asked() {
        assert_eq!(Needle::text(b"le", false, false).unwrap().hex_bytes(), "6c65");
        assert_eq!(Needle::text(b"le", true, true).unwrap().hex_bytes(), "6c6500");
    }

    #[test]
    fn an_odd_number_of_hex_digits_is_refused() {
        let rule = "needle 6c656: an odd number of hex digits (5); a byte takes two";
        assert_eq!(refused(Needle::hex("6c656")), rule);
        let rule = "needle 6 c6 5: an odd number of hex digits in 6 (1); a byte takes two";
        assert_eq!(refused(Needle::hex("6 c6 5")), rule);
    }

    #[test]
    fn hex_digits_are_taken_together_and_apart() {
        for digits in ["6c6561", "6c 65 61", "6C:65:61", " 6c65  61 "] {
            assert_eq!(Needle::hex(digits).unwrap().hex_bytes(), "6c6561");
        }
    }

    #[test]
    fn what_is_no_hex_digit_is_named() {
        assert_eq!(refused(Needle::hex("6g")), "needle 6g: 'g' is no hex digit");
        assert!(refused(Needle::hex("0x6c65")).contains("0x is for numbers"));
    }

    #[test]
    fn an_integer_that_does_not_fit_is_refused_with_its_limits() {
        let message = "needle 0x64656b61656c: does not fit into 1 byte (0 to 0xff, or -0x80 to -1)";
        assert_eq!(refused(Needle::integer(0x6465_6b61_656c, 1, LITTLE)), message);
        let message = "needle -0x8001: does not fit into 2 bytes (0 to 0xffff, or -0x8000 to -1)";
        assert_eq!(refused(Needle::integer(-0x8001, 2, LITTLE)), message);
        assert!(Needle::integer(1 << 64, 8, LITTLE).is_err());
        assert!(Needle::integer(i128::MIN, 8, LITTLE).is_err());
    }

    #[test]
    fn integers_at_their_limits_fit() {
        let hex = |value, size, order| Needle::integer(value, size, order).unwrap().hex_bytes();
        assert_eq!(hex(-0x80, 1, LITTLE), "80");
        assert_eq!(hex(0xff, 1, LITTLE), "ff");
        assert_eq!(hex(0x0102, 4, ByteOrder::Big), "00000102");
        assert_eq!(hex(i128::from(u64::MAX), 8, LITTLE), "ffffffffffffffff");
        assert_eq!(hex(i128::from(i64::MIN), 8, ByteOrder::Big), "8000000000000000");
    }

    #[test]
    fn an_integer_of_three_bytes_is_refused() {
        let message = "integer size 3: an integer has 1, 2, 4 or 8 bytes";
        assert_eq!(refused(Needle::integer(1, 3, LITTLE)), message);
    }

    #[test]
    fn a_pointer_beyond_the_words_of_the_target_is_refused() {
        let message = "needle 0x100000000: does not fit into a word of 4 bytes (0 to 0xffffffff)";
        assert_eq!(refused(Needle::pointer(1 << 32, BIG_32)), message);
        assert_eq!(Needle::pointer(0x0102, BIG_32).unwrap().hex_bytes(), "00000102");
    }

    #[test]
    fn pointers_into_an_empty_range_are_refused() {
        let empty = AddressRange::saturating(0x10, 0);
        let message = "needle 0x10,0x10: the range holds no address";
        assert_eq!(refused(Needle::pointers_into(empty, BIG_32)), message);
        let high = AddressRange::saturating(1 << 33, 4);
        assert!(refused(Needle::pointers_into(high, BIG_32)).contains("does not fit into a word"));
    }

    #[test]
    fn a_needle_without_bytes_of_its_own_is_shown_as_given() {
        let range = AddressRange::saturating(0x1000, 0x20);
        assert_eq!(Needle::pointers_into(range, BIG_32).unwrap().hex_bytes(), "0x1000,0x1020");
        assert_eq!(Needle::regex("leak[a-z]+", false).unwrap().hex_bytes(), "leak[a-z]+");
    }
}
