//! Why a frame counts as alive as a whole.

/// Why all of a frame counts as alive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unclear {
    /// Its code cannot be read, or is not code.
    Code,
    /// The rules do not say where the frame is, or say what the code does not do.
    Rules,
    /// The stack pointer itself is stored, or changed by an instruction of an unknown kind.
    Address,
    /// The frame has a variable size.
    Size,
    /// An access by the stack pointer where it is not known how far it is from the CFA.
    Depth,
    /// A jump whose target is not known.
    Jump,
    /// Code with a frame that nothing known leads to.
    Entry,
    /// It calls a function that returns twice, as `setjmp` does.
    Twice,
    /// Its function is too large to be analysed.
    Bound,
    /// A fault interrupted it: the handler may make it go on elsewhere.
    Fault,
}

impl Unclear {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Rules => "rules",
            Self::Address => "address",
            Self::Size => "size",
            Self::Depth => "depth",
            Self::Jump => "jump",
            Self::Entry => "entry",
            Self::Twice => "twice",
            Self::Bound => "bound",
            Self::Fault => "fault",
        }
    }
}
