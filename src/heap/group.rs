//! What blocks are grouped by, and what a group of them is.

use crate::heap::allocator::Count;
use crate::heap::content::Content;
use crate::inspect::template::{Numbers, template};
use crate::inspect::text::lossless;
use crate::memory::Memory;
use crate::range::AddressRange;

/// What blocks are grouped by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Size, kind and text together.
    All,
    /// By their stack alone where their label has one. Else as before, but not by the texts of blocks
    /// that hold other data: these may be there by chance. Where all agree they are named all the same.
    Record,
    /// The stack in their label.
    Stack,
    /// Usable bytes.
    Size,
    /// What they hold.
    Kind,
    /// The text in them.
    Text,
    /// Their arena.
    Arena,
}

/// Blocks that are alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The bytes of each, where that is one number.
    pub size: Option<u64>,
    /// What they hold, where that is one kind and was looked at.
    pub kind: Option<Content>,
    /// The text of the first of them that has one, where texts were looked at: address and bytes.
    pub first: Option<(u64, u16)>,
    /// Whether that is the text of all, but for the numbers in it that differ.
    pub alike: bool,
    /// The numbers in their texts, if these are alike and have any.
    pub numbers: Option<Numbers>,
    /// How many texts there are where the smallest groups were put together; else zero.
    pub texts: u64,
    /// Whether there are more texts than that that were not distinguished.
    pub more_texts: bool,
    /// Their arena, where they are grouped by it; none for mapped ones.
    pub arena: Option<u32>,
    /// How many.
    pub blocks: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// The class of their labels.
    pub class: u8,
    /// The stack that allocated them, where they are grouped by it; zero where that is not known.
    pub stack: u32,
    /// What they stand for together.
    pub behind: Count,
    /// The addresses of the first of them.
    pub sample: Vec<u64>,
}

impl Group {
    /// The text in them, where that is one, and the first text, as they stand in `memory`.
    ///
    /// In the first there is `#` for each number that differs ([`crate::inspect::template`]).
    #[must_use]
    pub fn texts(&self, memory: &dyn Memory) -> (Option<String>, Option<String>) {
        let Some((address, length)) = self.first else { return (None, None) };
        let mut bytes = Vec::new();
        // What has gone missing meanwhile is left out.
        let _ = memory.append(AddressRange::saturating(address, length.into()), &mut bytes);
        let example = lossless(&bytes);
        let differ = self.numbers.filter(Numbers::differ);
        let text = differ.map_or_else(|| example.clone(), |numbers| lossless(&template(&bytes, &numbers)));
        (Some(text).filter(|_| self.alike), Some(example))
    }
}
