//! How to get from a frame to its caller's, in eight bytes.

use gimli::{CfaRule, Expression, NativeEndian, Operation, Reader, ReaderOffset, Register, RegisterRule};
use gimli::{UnwindContextStorage, UnwindTableRow};

const BP: Register = Register(6);
const SP: Register = Register(7);
const RETURN: Register = Register(16);

/// Where the frame's address comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Frame {
    /// Nothing is known.
    Unknown = 1,
    /// The stack pointer and an offset.
    Sp,
    /// The frame pointer and an offset.
    Bp,
    /// The word at an offset from the frame pointer: where a function aligned its stack.
    AtBp,
    /// There is no caller.
    End,
    /// What a signal interrupted.
    Signal,
}

/// Where the caller's frame pointer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Saved {
    /// Where it was.
    Same,
    /// At an offset from the frame's address.
    AtFrame,
    /// At an offset from the frame pointer.
    AtBp,
}

/// The way from a place in a function to its caller: the return address is the word below
/// the frame's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule(u64);

impl Rule {
    pub(crate) const UNKNOWN: Self = Self(Frame::Unknown as u64);
    pub(crate) const END: Self = Self(Frame::End as u64);
    pub(crate) const SIGNAL: Self = Self(Frame::Signal as u64);

    const fn new(frame: Frame, offset: i32, saved: Saved, saved_at: i16) -> Self {
        Self(
            frame as u64
                | (saved as u64) << 4
                | (saved_at as u16 as u64) << 16
                | (offset as u32 as u64) << 32,
        )
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(crate) const fn frame(self) -> Frame {
        match self.0 & 15 {
            2 => Frame::Sp,
            3 => Frame::Bp,
            4 => Frame::AtBp,
            5 => Frame::End,
            6 => Frame::Signal,
            _ => Frame::Unknown,
        }
    }

    /// The offset from the stack pointer, of a function that leaves the frame pointer alone.
    #[inline]
    pub(crate) const fn plain(self) -> Option<u64> {
        if self.0 & 0xffff_ffff == Frame::Sp as u64 { Some(self.0 >> 32) } else { None }
    }

    #[inline]
    pub(crate) const fn offset(self) -> i64 {
        (self.0 >> 32) as u32 as i32 as i64
    }

    #[inline]
    pub(crate) const fn saved(self) -> Saved {
        match (self.0 >> 4) & 15 {
            1 => Saved::AtFrame,
            2 => Saved::AtBp,
            _ => Saved::Same,
        }
    }

    /// In bytes.
    #[inline]
    pub(crate) const fn saved_at(self) -> i64 {
        ((self.0 >> 16) as u16 as i16 as i64) * 8
    }

    /// The rule of a row; [`Rule::UNKNOWN`] where it is of a kind that compilers do not write
    /// for a place that a call returns to.
    pub(crate) fn of<R, S>(
        row: &UnwindTableRow<R::Offset, S>,
        expression: impl Fn(&gimli::UnwindExpression<R::Offset>) -> Option<Expression<R>>,
        encoding: gimli::Encoding,
    ) -> Self
    where
        R: Reader,
        S: UnwindContextStorage<R::Offset>,
    {
        let simple = |kept: &gimli::UnwindExpression<R::Offset>| at_bp(expression(kept)?, encoding);
        match row.register(RETURN) {
            RegisterRule::Undefined => return Self::END,
            RegisterRule::Offset(-8) => {}
            _ => return Self::UNKNOWN,
        }
        let frame = match row.cfa() {
            CfaRule::RegisterAndOffset { register: SP, offset } => {
                i32::try_from(*offset).ok().map(|at| (Frame::Sp, at))
            }
            CfaRule::RegisterAndOffset { register: BP, offset } => {
                i32::try_from(*offset).ok().map(|at| (Frame::Bp, at))
            }
            CfaRule::RegisterAndOffset { .. } => None,
            CfaRule::Expression(kept) => match simple(kept) {
                Some((at, true)) => Some((Frame::AtBp, at)),
                _ => None,
            },
        };
        let eighth = |at: i64| (at % 8 == 0).then(|| i16::try_from(at / 8).ok()).flatten();
        let saved = match row.register(BP) {
            RegisterRule::Undefined | RegisterRule::SameValue => Some((Saved::Same, 0)),
            RegisterRule::Offset(at) => eighth(at).map(|at| (Saved::AtFrame, at)),
            RegisterRule::Expression(kept) => match simple(&kept) {
                Some((at, false)) => eighth(i64::from(at)).map(|at| (Saved::AtBp, at)),
                _ => None,
            },
            _ => None,
        };
        match (frame, saved) {
            (Some((frame, offset)), Some((saved, at))) => Self::new(frame, offset, saved, at),
            _ => Self::UNKNOWN,
        }
    }
}

/// The offset of "the frame pointer and an offset", and whether the word there is meant.
fn at_bp<R: Reader>(expression: Expression<R>, encoding: gimli::Encoding) -> Option<(i32, bool)> {
    let mut operations = expression.operations(encoding);
    let Some(Operation::RegisterOffset { register: BP, offset, .. }) = operations.next().ok()? else {
        return None;
    };
    let offset = i32::try_from(offset).ok()?;
    match operations.next().ok()? {
        None => Some((offset, false)),
        Some(Operation::Deref { size: 8, space: false, .. }) => match operations.next().ok()? {
            None => Some((offset, true)),
            Some(_) => None,
        },
        Some(_) => None,
    }
}

/// How gimli reads what this process has in memory.
pub(crate) type Bytes<'m> = gimli::EndianSlice<'m, NativeEndian>;

/// Room for the rows of one function, on a stack that may be small: a rule for each register.
pub(crate) struct Room;

impl<T: ReaderOffset> UnwindContextStorage<T> for Room {
    type Rules = [(Register, RegisterRule<T>); 17];
    type Stack = [UnwindTableRow<T, Self>; 4];
}
