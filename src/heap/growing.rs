//! The groups of one slice of blocks while they grow.

use std::collections::HashMap;

use twox_hash::XxHash3_128;

use crate::heap::allocator::Count;
use crate::heap::block::Unit;
use crate::heap::content::Content;
use crate::heap::wanted::Label;
use crate::inspect::text;

/// How many blocks of a group are named.
const NAMED: usize = 5;

/// What blocks are grouped by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Size, kind and text together.
    All,
    /// By their stack alone where their label has one. Else as before, but for texts of blocks that
    /// are no text: these may be there by chance.
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
    /// The text in them, where that is one and was looked at.
    pub text: Option<String>,
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

/// What tells a group: size, kind, arena or stack, a hash of the text.
pub(super) type Key = (u64, u8, u32, u128);

/// A group while it grows.
#[derive(Clone, Debug)]
pub(super) struct Growing {
    pub(super) group: Group,
    /// Whether sizes, kinds or texts differ by now.
    pub(super) mixed: (bool, bool, bool),
}

impl Growing {
    pub(super) fn merge(&mut self, other: Self) {
        let own = &mut self.group;
        own.blocks = own.blocks.saturating_add(other.group.blocks);
        own.bytes = own.bytes.saturating_add(other.group.bytes);
        own.behind.merge(other.group.behind);
        let room = NAMED.saturating_sub(own.sample.len());
        own.sample.extend(other.group.sample.into_iter().take(room));
        self.mixed.0 |= other.mixed.0 || own.size != other.group.size;
        self.mixed.1 |= other.mixed.1 || own.kind != other.group.kind;
        self.mixed.2 |= other.mixed.2 || own.text != other.group.text;
        self.level();
    }

    fn new(size: u64, kind: Option<Content>, text: Option<&[u8]>, arena: Option<u32>) -> Self {
        let text = text.map(text::lossless);
        let sample = Vec::new();
        let (blocks, bytes, class, stack, behind) = (0, 0, 0, 0, Count::default());
        let group =
            Group { size: Some(size), kind, text, arena, blocks, bytes, class, stack, behind, sample };
        Self { group, mixed: (false, false, false) }
    }

    /// Counts a block that is like the others.
    #[inline]
    fn count(&mut self, unit: &Unit, bytes: u64) {
        let own = &mut self.group;
        own.blocks = own.blocks.saturating_add(1);
        own.bytes = own.bytes.saturating_add(bytes);
        if own.sample.len() < NAMED {
            own.sample.push(unit.block().start());
        }
    }

    /// Counts a block that may have another size, kind or text.
    fn add(&mut self, unit: &Unit, bytes: u64, kind: Option<Content>, text: Option<&[u8]>) {
        self.count(unit, bytes);
        self.mixed.0 |= self.group.size != Some(bytes);
        self.mixed.1 |= self.group.kind != kind;
        if !self.mixed.2 {
            self.mixed.2 = self.group.text != text.map(text::lossless);
        }
        self.level();
    }

    /// What differs within the group is not its own.
    fn level(&mut self) {
        let own = &mut self.group;
        own.size = own.size.filter(|_| !self.mixed.0);
        own.kind = own.kind.filter(|_| !self.mixed.1);
        if self.mixed.2 {
            own.text = None;
        }
    }
}

/// Sizes below this are found in a table instead of by a hash.
const SMALL: usize = 4096;

/// The groups of one slice.
pub(super) struct Table {
    by: By,
    rows: Vec<(Key, Growing)>,
    /// Where the row of a key is.
    places: HashMap<Key, usize>,
    /// Where the rows of small sizes are, counted from one, where blocks are grouped by size alone.
    small: Vec<u32>,
}

impl Table {
    pub(super) fn new(by: By) -> Self {
        Self { by, rows: Vec::new(), places: HashMap::new(), small: vec![0; SMALL] }
    }

    pub(super) fn add(&mut self, unit: &Unit, kind: Option<Content>, text: Option<&[u8]>, label: Label) {
        let size = label.bytes.unwrap_or_else(|| unit.block().len());
        let text = text.filter(|_| self.by != By::Record || kind == Some(Content::Text));
        if self.by == By::Size && kind.is_none() {
            return self.add_size(unit, size);
        }
        let number = kind.map_or(0, |kind| kind as u8) | label.class.wrapping_shl(4);
        let hash = || text.map_or(0, XxHash3_128::oneshot);
        // Of one size, kind and text by the key: only the numbers grow.
        let alike = self.by == By::All || (self.by == By::Record && label.stack == 0);
        let key: Key = match self.by {
            By::All | By::Record if alike => (size, number, 0, hash()),
            By::All | By::Record | By::Stack => (0, label.class.wrapping_shl(4), label.stack, 0),
            By::Size => (size, 0, 0, 0),
            By::Kind => (0, number, 0, 0),
            By::Text => (0, 0, 0, hash()),
            By::Arena => (0, 0, unit.arena.unwrap_or(u32::MAX), 0),
        };
        let rows = &mut self.rows;
        let place = *self.places.entry(key).or_insert_with(|| {
            let arena = if self.by == By::Arena { unit.arena } else { None };
            rows.push((key, Growing::new(size, kind, text, arena)));
            rows.len().saturating_sub(1)
        });
        if let Some((_, growing)) = self.rows.get_mut(place) {
            growing.group.class = label.class;
            growing.group.stack = label.stack;
            growing.group.behind.merge(label.behind);
            if alike {
                growing.count(unit, size);
            } else {
                growing.add(unit, size, kind, text);
            }
        }
    }

    /// Adds a block of which only the size matters.
    fn add_size(&mut self, unit: &Unit, size: u64) {
        let slot = usize::try_from(size / 8).ok().and_then(|slot| self.small.get_mut(slot));
        let known =
            slot.as_ref().and_then(|slot| slot.checked_sub(1)).and_then(|at| usize::try_from(at).ok());
        let rows = &mut self.rows;
        let key: Key = (size, 0, 0, 0);
        let mut fresh = || {
            rows.push((key, Growing::new(size, None, None, None)));
            rows.len().saturating_sub(1)
        };
        let place = match (known, slot) {
            (Some(place), _) => place,
            (None, Some(slot)) => {
                let place = fresh();
                *slot = u32::try_from(place.saturating_add(1)).unwrap_or(0);
                place
            }
            (None, None) => *self.places.entry(key).or_insert_with(fresh),
        };
        if let Some((_, growing)) = self.rows.get_mut(place) {
            growing.count(unit, size);
        }
    }

    pub(super) fn rows(self) -> impl Iterator<Item = (Key, Growing)> {
        self.rows.into_iter()
    }
}
