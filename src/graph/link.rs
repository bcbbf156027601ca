//! How a word points at a block: at its start, into it, or into it in a way that counts as its start.

use crate::error::Error;

/// How a word points at a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Link {
    /// At its start.
    Start,
    /// Into it.
    Interior,
    /// At the characters of a reference-counted `std::string`.
    StdString,
    /// Behind a length of eight bytes at the start.
    Length64,
    /// Behind the number of elements that `new[]` keeps.
    NewArray,
    /// At the part of an object that is another base class.
    MultipleInheritance,
}

impl Link {
    /// Every way, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Start,
        Self::Interior,
        Self::StdString,
        Self::Length64,
        Self::NewArray,
        Self::MultipleInheritance,
    ];

    /// The heuristics: ways that count as the start though they lead into a block.
    pub const HEURISTICS: [Self; 4] =
        [Self::StdString, Self::Length64, Self::NewArray, Self::MultipleInheritance];

    /// The name of a heuristic, as valgrind has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Interior => "interior",
            Self::StdString => "stdstring",
            Self::Length64 => "length64",
            Self::NewArray => "newarray",
            Self::MultipleInheritance => "multipleinheritance",
        }
    }

    /// Whether the word holds the block as one to its start does.
    #[must_use]
    pub const fn definite(self) -> bool {
        !matches!(self, Self::Interior)
    }

    /// Whether it counts as the start by a heuristic.
    #[must_use]
    pub const fn heuristic(self) -> bool {
        (self as u8) > Self::Interior as u8
    }

    pub(super) fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Interior)
    }
}

/// Which heuristics count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted(u8);

impl Wanted {
    /// All of them.
    pub const ALL: Self = Self(u8::MAX);
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Whether `link` is among them.
    #[must_use]
    pub const fn has(self, link: Link) -> bool {
        self.0 & (1 << link as u8) != 0
    }

    /// Those in a list of names, `all` or `none`.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] that lists the names.
    ///
    /// ```
    /// use gdb_leak::graph::{Link, Wanted};
    /// let wanted = Wanted::from_names("newarray,stdstring").unwrap();
    /// assert!(wanted.has(Link::NewArray) && !wanted.has(Link::Length64));
    /// ```
    pub fn from_names(names: &str) -> Result<Self, Error> {
        match names {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut wanted = Self::NONE;
        for name in names.split(',') {
            let link = Link::HEURISTICS.into_iter().find(|link| link.name() == name);
            let link = link.ok_or_else(|| Error::Request {
                thing: "-heuristics",
                value: names.to_owned(),
                rule: "is not all, none or a list of stdstring, length64, newarray and \
                       multipleinheritance"
                    .to_owned(),
            })?;
            wanted.0 |= 1 << link as u8;
        }
        Ok(wanted)
    }
}

/// How many blocks an edge can tell apart: a number of 29 bits, and three for the way.
pub const MOST_BLOCKS: usize = 1 << 29;

/// A reference as it is kept: the block's number and the way, in four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge(u32);

impl Edge {
    /// The edge to the block with that number, which must be below [`MOST_BLOCKS`].
    #[inline]
    pub(super) fn new(block: usize, link: Link) -> Option<Self> {
        let number = u32::try_from(block).ok().filter(|_| block < MOST_BLOCKS)?;
        Some(Self((number << 3) | link as u32))
    }

    /// The number of the block that is pointed at.
    #[must_use]
    #[inline]
    pub const fn block(self) -> u32 {
        self.0 >> 3
    }

    /// How it is pointed at.
    #[must_use]
    #[inline]
    pub fn link(self) -> Link {
        Link::from_number((self.0 & 7) as u8)
    }
}
