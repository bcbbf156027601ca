//! What became of a block: lost or not, in valgrind's words and by its rules.

use crate::graph::{Mark, Marks};

/// What became of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// No pointer to it is left.
    DefinitelyLost,
    /// Only blocks that are lost point at it.
    IndirectlyLost,
    /// What points at it points into it, or is itself held in such a way only.
    PossiblyLost,
    /// A chain of pointers to starts of blocks leads from a root to it.
    StillReachable,
}

impl Verdict {
    /// Every verdict, in the order in which valgrind sums them up.
    pub const ALL: [Self; 4] =
        [Self::DefinitelyLost, Self::IndirectlyLost, Self::PossiblyLost, Self::StillReachable];

    /// The word for it in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DefinitelyLost => "definitely_lost",
            Self::IndirectlyLost => "indirectly_lost",
            Self::PossiblyLost => "possibly_lost",
            Self::StillReachable => "still_reachable",
        }
    }

    /// The verdict of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// Whether the block is lost, or may be.
    #[must_use]
    pub const fn lost(self) -> bool {
        !matches!(self, Self::StillReachable)
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// What the mark of a block means; `None` where there is no block in use.
    #[must_use]
    pub(super) fn of(marks: &Marks, unit: usize) -> Option<Self> {
        Some(match marks.mark(unit) {
            Mark::None => return None,
            Mark::Leader => Self::DefinitelyLost,
            Mark::Member => Self::IndirectlyLost,
            Mark::Possible => Self::PossiblyLost,
            Mark::Reachable => Self::StillReachable,
        })
    }
}
