//! Where numbers are in a text, by the table in [`crate::inspect::template`].

/// What a byte is to a piece of text: bits that are collected over the piece.
mod class {
    pub(super) const DIGIT: u8 = 1;
    pub(super) const LOWER: u8 = 2;
    pub(super) const UPPER: u8 = 4;
    pub(super) const OTHER: u8 = 8;
    /// Letters that are hex digits.
    pub(super) const HEX: u8 = LOWER | UPPER;

    /// Of each byte: most of the time is spent here, and a match takes several comparisons.
    const OF: [u8; 256] = {
        let mut of = [0; 256];
        let mut byte = 0_u8;
        let mut rest: &mut [u8] = &mut of;
        while let [first, after @ ..] = rest {
            *first = match byte {
                b'0'..=b'9' => DIGIT,
                b'a'..=b'f' => LOWER,
                b'A'..=b'F' => UPPER,
                b'g'..=b'z' | b'G'..=b'Z' | 0x80.. => OTHER,
                _ => 0,
            };
            byte = byte.wrapping_add(1);
            rest = after;
        }
        of
    };

    #[inline]
    #[allow(clippy::indexing_slicing)] // every byte is in the table
    pub(super) const fn of(byte: u8) -> u8 {
        OF[byte as usize]
    }

    /// Whether hex digits alone, with letters of one case, have these bits.
    pub(super) const fn hex(bits: u8) -> bool {
        bits & OTHER == 0 && bits & HEX != HEX
    }
}

/// How sure it is that a piece is a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    Decimal,
    Hex,
    /// Letters that may be hex digits, with or without digits after them.
    Word,
}

/// A place in a text where a number is, or may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) start: usize,
    /// Where what is surely a number starts: after the letters of a word.
    pub(super) number: usize,
    pub(super) end: usize,
    pub(super) sort: Sort,
}

/// A piece of text that has digits, or is of hex digits alone.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    end: usize,
    bits: u8,
}

/// The places of numbers in one text; keeps its room from one to the next.
#[derive(Default, Debug)]
pub(super) struct Slots {
    pieces: Vec<Piece>,
    pub(super) all: Vec<Slot>,
}

impl Slots {
    /// Finds the places of numbers.
    pub(super) fn find(&mut self, text: &[u8]) {
        self.pieces.clear();
        self.all.clear();
        let mut at = 0_usize;
        while let Some(piece) = next_piece(text, at) {
            if piece.bits & class::DIGIT != 0 || class::hex(piece.bits) {
                self.pieces.push(piece);
            }
            at = piece.end;
        }
        let mut rest = self.pieces.as_slice();
        while !rest.is_empty() {
            let (chain, after) = rest.split_at(chain(text, rest).max(1));
            let all = chain.len() > 1;
            for piece in chain {
                slots(text, *piece, all, &mut self.all);
            }
            rest = after;
        }
    }
}

/// The first piece that starts at or after `at`.
#[inline]
fn next_piece(text: &[u8], at: usize) -> Option<Piece> {
    let mut start = at;
    while class::of(*text.get(start)?) == 0 {
        start = start.saturating_add(1);
    }
    let mut end = start;
    let mut bits = 0;
    while let Some(class) = text.get(end).map(|byte| class::of(*byte)).filter(|class| *class != 0) {
        bits |= class;
        end = end.saturating_add(1);
    }
    Some(Piece { start, end, bits })
}

/// Whether a text without digits has a piece of hex digits.
pub(super) fn may_be_hex(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(piece) = next_piece(text, at) {
        if class::hex(piece.bits) {
            return true;
        }
        at = piece.end;
    }
    false
}

/// How many pieces from the first on are joined to one number; none where they are not.
fn chain(text: &[u8], pieces: &[Piece]) -> usize {
    let [first, second, ..] = pieces else { return 0 };
    let between = |one: &Piece, other: &Piece| text.get(one.end..other.start).unwrap_or_default();
    let least = match between(first, second) {
        b"-" => 5,
        b":" | b"::" => 3,
        _ => return 0,
    };
    let joins = |joint: &[u8]| if least == 5 { joint == b"-" } else { matches!(joint, b":" | b"::") };
    let joined = |pair: &&[Piece]| match pair {
        [one, other] => class::hex(other.bits) && joins(between(one, other)),
        _ => false,
    };
    let more = pieces.windows(2).take_while(joined).count();
    let count = if class::hex(first.bits) { more.saturating_add(1) } else { 0 };
    let digits = pieces.iter().take(count).any(|piece| piece.bits & class::DIGIT != 0);
    if count >= least && digits { count } else { 0 }
}

/// Adds the places of numbers in a piece; of a chain all of it is one.
fn slots(text: &[u8], piece: Piece, chained: bool, slots: &mut Vec<Slot>) {
    let Piece { start, end, bits } = piece;
    let bytes = text.get(start..end).unwrap_or_default();
    let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if bits == class::DIGIT {
        slots.push(Slot { start, number: start, end, sort: Sort::Decimal });
        return;
    }
    if class::hex(bits) {
        let letters = bytes.iter().take_while(|byte| !byte.is_ascii_digit()).count();
        let number = start.saturating_add(letters);
        let after = bytes.get(letters..).unwrap_or_default();
        let word = !chained && letters > 0 && digits(after) == after.len();
        let (number, sort) = if word { (number, Sort::Word) } else { (start, Sort::Hex) };
        slots.push(Slot { start, number, end, sort });
        return;
    }
    // Digits, x, hex digits.
    let first = digits(bytes);
    let hex = match bytes.get(first..) {
        Some([b'x' | b'X', hex @ ..]) if first > 0 && !hex.is_empty() && class::hex(collected(hex)) => {
            Some(hex)
        }
        _ => None,
    };
    if let Some(hex) = hex {
        let middle = start.saturating_add(first);
        slots.push(Slot { start, number: start, end: middle, sort: Sort::Decimal });
        let from = middle.saturating_add(1);
        let sort = if collected(hex) == class::DIGIT { Sort::Decimal } else { Sort::Hex };
        slots.push(Slot { start: from, number: from, end, sort });
        return;
    }
    let tail = bytes.iter().rev().take_while(|byte| class::of(**byte) & class::OTHER == 0).count();
    let tail = bytes.len().saturating_sub(tail);
    let hex = bytes.get(tail..).unwrap_or_default();
    let tail = if class::hex(collected(hex)) { tail } else { bytes.len() };
    runs(bytes.get(..tail).unwrap_or_default(), start, slots);
    let hex = bytes.get(tail..).unwrap_or_default();
    let Some(letters) = hex.iter().position(u8::is_ascii_digit) else { return };
    let start = start.saturating_add(tail);
    let number = start.saturating_add(letters);
    let sort = match collected(hex) {
        _ if letters > 0 => Sort::Word,
        class::DIGIT => Sort::Decimal,
        _ => Sort::Hex,
    };
    slots.push(Slot { start, number, end, sort });
}

/// Adds each run of digits in bytes that start at `base`.
fn runs(bytes: &[u8], base: usize, slots: &mut Vec<Slot>) {
    let mut at = 0_usize;
    while let Some(skip) = bytes.get(at..).and_then(|rest| rest.iter().position(u8::is_ascii_digit)) {
        let first = at.saturating_add(skip);
        let length = bytes.iter().skip(first).take_while(|byte| byte.is_ascii_digit()).count();
        at = first.saturating_add(length);
        let (start, end) = (base.saturating_add(first), base.saturating_add(at));
        slots.push(Slot { start, number: start, end, sort: Sort::Decimal });
    }
}

fn collected(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |bits, byte| bits | class::of(*byte))
}

/// Whether five numbers are those of a UUID: 8, 4, 4, 4 and 12 digits (RFC 9562, 4).
pub(super) fn uuid(text: &[u8], parts: &[Slot; 5]) -> bool {
    let lengths = parts.map(|slot| slot.end.saturating_sub(slot.start));
    let joined = parts.iter().zip(parts.iter().skip(1));
    lengths == [8, 4, 4, 4, 12]
        && joined.map(|(one, other)| text.get(one.end..other.start)).all(|joint| joint == Some(b"-"))
}
