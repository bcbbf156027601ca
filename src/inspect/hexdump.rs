//! Memory as `od -A x -t x8z` shows it, in pieces.
//!
//! One way to dump is `format!("{word:016x}")` for each word. For the 132 KiB
//! of a fresh heap that is 16,896 calls of the formatter; here each byte is
//! two letters of a table, put straight into the line.

use std::fmt::Write;

use crate::error::Error;
use crate::memory::{Buffer, Gap, Memory, Missing};
use crate::range::AddressRange;
use crate::word::{ByteOrder, WordFormat};

/// Bytes of memory asked for at a time.
const VIEW: u64 = 1 << 20;

/// Bytes of memory that one piece goes over at most, however few lines they make.
const PIECE: u64 = 64 << 20;

/// How the bytes of a line are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Words of eight bytes, two a line.
    X8,
    /// Words of four bytes, four a line.
    X4,
    /// Bytes, sixteen a line.
    X1,
    /// Words of the target's size, sixteen bytes a line.
    Words,
    /// Text alone, 64 bytes a line.
    Text,
}

impl Style {
    /// The words at the prompt, each with its style.
    pub const NAMES: [(&'static str, Self); 5] =
        [("x8", Self::X8), ("x4", Self::X4), ("x1", Self::X1), ("words", Self::Words), ("text", Self::Text)];

    /// The style of that name.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] that lists the names.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let found = Self::NAMES.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, style)| style).ok_or_else(|| Error::Request {
            thing: "-as",
            value: name.to_owned(),
            rule: "is not x8, x4, x1, words or text".to_owned(),
        })
    }

    /// Bytes in a line.
    const fn line(self) -> usize {
        if matches!(self, Self::Text) { 64 } else { 16 }
    }

    /// Bytes in a word, none where no words are shown.
    const fn word(self, format: WordFormat) -> usize {
        match self {
            Self::X8 => 8,
            Self::X4 => 4,
            Self::X1 => 1,
            Self::Words => format.size,
            Self::Text => 0,
        }
    }
}

/// A dump that is written piece by piece.
///
/// ```
/// use gdb_leak::inspect::hexdump::{Dump, Style};
/// use gdb_leak::range::AddressRange;
/// use gdb_leak::source::captured::Captured;
/// let memory = Captured::new().with(0x7000, b"leaked memory\0\0\0and");
/// let range = AddressRange::new(0x7000, 0x7013).unwrap();
/// let mut text = String::new();
/// Dump::new(&memory, range, Style::X8, true).unwrap().next_piece(&memory, &mut text, 4096).unwrap();
/// assert_eq!(text, "\
/// 0x0000000000007000  6d2064656b61656c 00000079726f6d65  >leaked memory...<
/// 0x0000000000007010  0000000000646e61                   >and<
/// 0x0000000000007013
/// ");
/// ```
pub struct Dump {
    format: WordFormat,
    range: AddressRange,
    style: Style,
    fold: bool,
    /// Digits of an address.
    digits: usize,
    at: u64,
    /// The line before, where the next one may be equal to it.
    previous: Option<[u8; 64]>,
    /// Whether the `*` for lines equal to it stands already.
    folded: bool,
    /// The gap that ends at `at`, not yet written: it may go on.
    gap: Option<Gap>,
    lines: u64,
    missing: u64,
    ended: bool,
    buffer: Buffer,
}

impl Dump {
    /// A dump of `range`; with `fold` equal lines become one `*`.
    ///
    /// # Errors
    ///
    /// What [`Memory::recheck`] finds, and the first missing byte where the
    /// whole range is missing: part of it missing is said in the dump.
    pub fn new(memory: &dyn Memory, range: AddressRange, style: Style, fold: bool) -> Result<Self, Error> {
        memory.recheck()?;
        if !range.is_empty() {
            let mut buffer = Buffer::default();
            let nothing = memory.view(range, &mut buffer).gap.filter(|gap| gap.range.covers(range));
            if let Some(gap) = nothing {
                return Err(gap.error());
            }
        }
        let wide = memory.word_format().size >= 8 || range.end() >> 32 != 0;
        let digits = if wide { 16 } else { 8 };
        Ok(Self {
            format: memory.word_format(),
            range,
            style,
            fold,
            digits,
            at: range.start(),
            previous: None,
            folded: false,
            gap: None,
            lines: 0,
            missing: 0,
            ended: false,
            buffer: Buffer::default(),
        })
    }

    /// Lines written so far, those with a `*`, a gap or the end address among them.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// Bytes of the range that could not be had so far.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.missing
    }

    /// Appends whole lines of `memory`, the same each time, to `out`; says whether there are more.
    ///
    /// Stops once `most_bytes` of text were added, a line more at most, or after
    /// 64 MiB of memory, whose equal lines may add no text at all: the caller
    /// asks in between whether the person still wants the rest.
    ///
    /// # Errors
    ///
    /// What [`Memory::recheck`] finds. Missing memory is no error here.
    pub fn next_piece(
        &mut self,
        memory: &dyn Memory,
        out: &mut String,
        most_bytes: usize,
    ) -> Result<bool, Error> {
        memory.recheck()?;
        let most = out.len().saturating_add(most_bytes);
        let until = self.at.saturating_add(PIECE);
        let mut buffer = std::mem::take(&mut self.buffer);
        while self.at < self.range.end() && out.len() < most && self.at < until {
            self.step(memory, &mut buffer, out, most);
        }
        self.buffer = buffer;
        if self.at >= self.range.end() && !self.ended {
            self.ended = true;
            self.end_gap(out);
            self.address(self.range.end(), out);
            self.end_line(out);
        }
        Ok(!self.ended)
    }

    /// Writes the lines of one view.
    fn step(&mut self, memory: &dyn Memory, buffer: &mut Buffer, out: &mut String, most: usize) {
        let line = self.style.line();
        let rest = self.range.end().saturating_sub(self.at);
        if self.folded && self.previous == Some([0; 64]) {
            // What would be folded one line after the other.
            let zeros = memory.zeros(AddressRange::saturating(self.at, rest));
            let lines = zeros.checked_div(line as u64).unwrap_or(0);
            if lines > 0 {
                self.at = self.at.saturating_add(lines.saturating_mul(line as u64));
                return;
            }
        }
        let view = memory.view(AddressRange::saturating(self.at, rest.min(VIEW)), buffer);
        let mut gap = view.gap;
        if !view.bytes.is_empty() {
            self.end_gap(out);
        }
        let mut short = view.bytes;
        while let Some((bytes, after)) = short.split_at_checked(line) {
            self.line(bytes, out);
            short = if self.folded { self.fold_away(bytes, after) } else { after };
            if out.len() >= most {
                return;
            }
        }
        if gap.is_none() && short.len() < view.bytes.len() {
            // What is left of the view is looked at again as the start of the next one.
            return self.short_end(short, out);
        }
        if gap.is_none() {
            // A piece that is shorter than a line: the line is put together.
            let mut joined = Vec::with_capacity(line);
            let wanted = AddressRange::saturating(self.at, rest.min(line as u64));
            gap = memory.append(wanted, &mut joined);
            self.line(&joined, out);
        } else if !short.is_empty() {
            self.line(short, out);
        }
        if let Some(gap) = gap {
            self.skip(gap, out);
        }
    }

    /// Writes the bytes after the last whole line of a view if nothing follows them.
    fn short_end(&mut self, short: &[u8], out: &mut String) {
        let end = self.at.saturating_add(short.len() as u64);
        if end >= self.range.end() && !short.is_empty() {
            self.line(short, out);
        }
    }

    /// Takes note of a gap at `at`, which touches the one before it or starts another.
    fn skip(&mut self, gap: Gap, out: &mut String) {
        let end = gap.range.end().min(self.range.end());
        let length = end.saturating_sub(self.at);
        self.missing = self.missing.saturating_add(length);
        match &mut self.gap {
            Some(open) if open.missing == gap.missing => {
                let start = open.range.start();
                open.range = AddressRange::saturating(start, end.saturating_sub(start));
            }
            _ => {
                self.end_gap(out);
                let range = AddressRange::saturating(self.at, length);
                self.gap = Some(Gap { range, missing: gap.missing });
            }
        }
        self.at = end;
        self.previous = None;
    }

    /// Writes the line of a gap that is known to be over.
    fn end_gap(&mut self, out: &mut String) {
        let Some(gap) = self.gap.take() else { return };
        self.address(gap.range.start(), out);
        out.push_str(" - ");
        self.address(gap.range.end(), out);
        // Writing to a String cannot go wrong.
        let _ = match gap.missing {
            Missing::NoRegion => write!(out, " is in no region"),
            Missing::NotSaved(place) => write!(out, " was not saved in the {place}"),
            Missing::Unreadable(cause) => write!(out, " could not be read: {cause}"),
        };
        self.end_line(out);
    }

    /// Writes one line of memory, or folds it, and goes on behind it.
    fn line(&mut self, bytes: &[u8], out: &mut String) {
        if bytes.is_empty() {
            return;
        }
        let whole = bytes.len() == self.style.line();
        let equal = self.previous.is_some_and(|previous| previous.get(..bytes.len()) == Some(bytes));
        if self.fold && whole && equal {
            if !self.folded {
                out.push('*');
                self.end_line(out);
            }
            self.folded = true;
        } else {
            self.folded = false;
            self.address(self.at, out);
            out.push_str("  ");
            self.words(bytes, out);
            self.end_line(out);
            if whole {
                let mut previous = [0; 64];
                previous.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                self.previous = Some(previous);
            }
        }
        self.at = self.at.saturating_add(bytes.len() as u64);
    }

    /// Goes on behind the lines in `after` that are equal to `line`, and comes back with the rest.
    ///
    /// Takes some lines at a time and may leave the last few: a fresh heap is
    /// mostly zeros, of which 132 KiB line by line took 0.16 ms.
    fn fold_away<'a>(&mut self, line: &[u8], after: &'a [u8]) -> &'a [u8] {
        const LINES: usize = 16;
        let block = line.repeat(LINES);
        let equal = after.chunks_exact(block.len()).take_while(|lines| *lines == block).count();
        let equal = equal.saturating_mul(block.len());
        self.at = self.at.saturating_add(equal as u64);
        after.get(equal..).unwrap_or_default()
    }

    /// Writes the words of a line and the text beside them.
    fn words(&self, bytes: &[u8], out: &mut String) {
        let format = self.format;
        let size = self.style.word(format);
        // Room for 16 times two digits and a blank, or for 64 letters, with what is around them.
        let mut line = [b' '; 128];
        match size {
            8 => digits_of_words::<8>(bytes, format.order, &mut line),
            4 => digits_of_words::<4>(bytes, format.order, &mut line),
            1 => digits_of_words::<1>(bytes, format.order, &mut line),
            _ => {}
        }
        // A blank after each word, and one before the text.
        let digits = self.style.line().saturating_mul(2);
        let words = self.style.line().checked_div(size);
        let start = words.map_or(0, |words| digits.saturating_add(words).saturating_add(1));
        let end = start.saturating_add(bytes.len()).saturating_add(2);
        if let Some([open, text @ .., close]) = line.get_mut(start..end) {
            (*open, *close) = (b'>', b'<');
            for (letter, byte) in text.iter_mut().zip(bytes) {
                *letter = if matches!(byte, b' '..=b'~') { *byte } else { b'.' };
            }
        }
        out.push_str(ascii(line.get(..end).unwrap_or_default()));
    }

    fn address(&self, address: u64, out: &mut String) {
        out.push_str("0x");
        hex(address, self.digits, out);
    }

    fn end_line(&mut self, out: &mut String) {
        out.push('\n');
        self.lines = self.lines.saturating_add(1);
    }
}

/// The two digits of each byte.
static DIGITS: [[u8; 2]; 256] = {
    let letters = *b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    // Both indices stay below the lengths that stand above.
    #[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
    while byte < 256 {
        table[byte] = [letters[byte / 16], letters[byte % 16]];
        byte += 1;
    }
    table
};

/// Writes the two digits of each byte.
#[inline]
fn digits(bytes: &[u8], out: &mut [u8]) {
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(DIGITS.get(usize::from(*byte)).unwrap_or(b"00"));
    }
}

/// Writes the digits of words of `SIZE` bytes, with room for one letter after each.
fn digits_of_words<const SIZE: usize>(bytes: &[u8], order: ByteOrder, mut out: &mut [u8]) {
    for word in bytes.chunks(SIZE) {
        // As od does: a word that is not all there is filled with zeros, and the
        // text beside it shows how many bytes there are.
        let mut whole = [0_u8; SIZE];
        whole.iter_mut().zip(word).for_each(|(to, from)| *to = *from);
        if order == ByteOrder::Little {
            whole.reverse();
        }
        let Some((place, [_, rest @ ..])) = out.split_at_mut_checked(SIZE.saturating_mul(2)) else { return };
        digits(&whole, place);
        out = rest;
    }
}

/// Appends the last `count` digits of `value`; `count` is at most 16.
fn hex(value: u64, count: usize, out: &mut String) {
    let mut text = [0_u8; 16];
    digits(&value.to_be_bytes(), &mut text);
    out.push_str(ascii(text.get(16_usize.saturating_sub(count)..).unwrap_or_default()));
}

/// Bytes that are known to be ASCII as text.
fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
