//! How well the words of frames are known, in figures.

use super::Unclear;
use super::frames::Frame;

/// What is known of the words of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Each of them by data flow.
    Precise,
    /// An address of a local escaped: the words that were never written before are dead, and no
    /// others.
    Escaped,
    /// Nothing: the function jumps to a place that is not known.
    Jumps,
    /// Nothing: the function calls one that returns twice, as `setjmp` does.
    ReturnsTwice,
    /// Nothing: the frame has a variable size, or accesses by a stack pointer that is not known.
    Dynamic,
    /// Nothing: the code or its rules cannot be read, or do not agree.
    NoRules,
    /// Nothing: the function is too large to be analysed.
    TooLarge,
    /// Nothing: a fault interrupted it, whose handler may make it go on elsewhere.
    Faults,
}

impl Class {
    /// All of them, the best known first.
    pub const ALL: [Self; 8] = [
        Self::Precise,
        Self::Escaped,
        Self::Jumps,
        Self::ReturnsTwice,
        Self::Dynamic,
        Self::NoRules,
        Self::TooLarge,
        Self::Faults,
    ];

    /// The class of a frame.
    #[must_use]
    pub const fn of(frame: &Frame) -> Self {
        match frame.unclear {
            None if frame.escaped => Self::Escaped,
            None => Self::Precise,
            Some(Unclear::Jump | Unclear::Entry) => Self::Jumps,
            Some(Unclear::Twice) => Self::ReturnsTwice,
            Some(Unclear::Size | Unclear::Depth | Unclear::Address) => Self::Dynamic,
            Some(Unclear::Code | Unclear::Rules) => Self::NoRules,
            Some(Unclear::Bound) => Self::TooLarge,
            Some(Unclear::Fault) => Self::Faults,
        }
    }

    /// Its name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Precise => "precise",
            Self::Escaped => "escaped",
            Self::Jumps => "jumps",
            Self::ReturnsTwice => "returns_twice",
            Self::Dynamic => "dynamic",
            Self::NoRules => "no_rules",
            Self::TooLarge => "too_large",
            Self::Faults => "faults",
        }
    }
}

/// How many frames there are of each class.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Classes([u64; Class::ALL.len()]);

impl Classes {
    /// Counts a frame.
    pub(super) fn add(&mut self, frame: &Frame) {
        if let Some(count) = self.0.get_mut(Class::of(frame) as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// How many frames there are of a class.
    #[must_use]
    pub fn count(&self, class: Class) -> u64 {
        self.0.get(class as usize).copied().unwrap_or(0)
    }
}
