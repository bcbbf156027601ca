//! The groups of one slice of blocks while they grow.

use std::collections::HashMap;

use crate::heap::allocator::Count;
use crate::heap::block::Unit;
use crate::heap::content::Content;
use crate::heap::group::{By, Group};
use crate::heap::wanted::{Label, Text};
use crate::inspect::template::{Company, Read, Reader};

/// How many blocks of a group are named.
const NAMED: usize = 5;

/// Bytes of a text that count, of which each number is one.
pub(super) const TEXT: usize = 64;

/// Identifies a group: size, kind, arena or stack, a hash of the text.
pub(super) type Key = (u64, u8, u32, u128);

/// A group while it grows.
#[derive(Clone, Debug)]
pub(super) struct Growing {
    pub(super) group: Group,
    /// Whether sizes or kinds differ by now.
    pub(super) mixed: (bool, bool),
    /// The hash of what the texts have in common; zero without one.
    hash: u128,
}

impl Growing {
    /// Adds a group of blocks that come later, also such whose sizes, kinds or texts differ.
    pub(super) fn merge(&mut self, other: Self) {
        self.group.alike &= other.group.alike && self.hash == other.hash;
        self.join(other);
    }

    /// Adds a group whose texts are alike although their words differ.
    pub(super) fn absorb(&mut self, mut other: Self) {
        if other.group.sample.first() < self.group.sample.first() {
            std::mem::swap(self, &mut other);
        }
        self.join(other);
    }

    /// Puts groups together whose texts differ, in address order.
    pub(super) fn fold(&mut self, other: Self) {
        let texts = |group: &Group| match group.texts {
            0 => u64::from(group.first.is_some()),
            texts => texts,
        };
        self.group.texts = texts(&self.group).saturating_add(texts(&other.group));
        self.group.alike = false;
        self.join(other);
    }

    /// What it is to others that may absorb it, if its texts have numbers.
    pub(super) fn company(&self, key: Key) -> Option<Company<Key>> {
        let (size, number, stack, _) = key;
        let common = u128::from(size) << 64 | u128::from(number) << 32 | u128::from(stack);
        let first = self.group.sample.first().copied().unwrap_or(0);
        Some(Company { common, count: self.group.blocks, first, key, numbers: self.group.numbers? })
    }

    fn join(&mut self, other: Self) {
        let own = &mut self.group;
        let other_group = other.group;
        own.blocks = own.blocks.saturating_add(other_group.blocks);
        own.bytes = own.bytes.saturating_add(other_group.bytes);
        own.behind.merge(other_group.behind);
        own.more_texts |= other_group.more_texts;
        // Nearly always the others come later.
        if own.sample.len() < NAMED || other_group.sample.first() < own.sample.last() {
            own.sample.extend(other_group.sample);
            own.sample.sort_unstable();
            own.sample.truncate(NAMED);
        }
        self.mixed.0 |= other.mixed.0 || own.size != other_group.size;
        self.mixed.1 |= other.mixed.1 || own.kind != other_group.kind;
        own.first = own.first.or(other_group.first);
        if let Some((own, other)) = own.numbers.as_mut().zip(other_group.numbers) {
            own.merge(&other);
        }
        self.level();
    }

    fn new(size: u64, kind: Option<Content>, arena: Option<u32>, hash: u128) -> Self {
        let group = Group {
            size: Some(size),
            kind,
            first: None,
            alike: true,
            numbers: None,
            texts: 0,
            more_texts: false,
            arena,
            blocks: 0,
            bytes: 0,
            class: 0,
            stack: 0,
            behind: Count::default(),
            sample: Vec::new(),
        };
        Self { group, mixed: (false, false), hash }
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
    fn add(&mut self, unit: &Unit, bytes: u64, kind: Option<Content>, hash: u128) {
        self.count(unit, bytes);
        self.mixed.0 |= self.group.size != Some(bytes);
        self.mixed.1 |= self.group.kind != kind;
        self.group.alike &= self.hash == hash;
        self.level();
    }

    /// Takes in the text of a block that was just counted and read.
    fn read(&mut self, reader: &mut Reader, (address, text): Text<'_>, read: &Read) {
        let own = &mut self.group;
        if own.first.is_none() {
            own.first = Some((address, u16::try_from(read.length).unwrap_or(u16::MAX)));
            own.numbers = reader.first(text, read);
        } else if let Some(numbers) = own.numbers.as_mut().filter(|_| own.alike) {
            reader.add(numbers, text, read);
        }
    }

    /// What differs within the group is not its own.
    fn level(&mut self) {
        let own = &mut self.group;
        own.size = own.size.filter(|_| !self.mixed.0);
        own.kind = own.kind.filter(|_| !self.mixed.1);
    }
}

/// Whether the blocks of a group, whose stack is `stack`, have one size, kind and text.
pub(super) fn alike(by: By, stack: u32) -> bool {
    by == By::All || (by == By::Record && stack == 0)
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
    reader: Reader,
}

impl Table {
    pub(super) fn new(by: By) -> Self {
        let reader = Reader::default();
        Self { by, rows: Vec::new(), places: HashMap::new(), small: vec![0; SMALL], reader }
    }

    pub(super) fn add(&mut self, unit: &Unit, kind: Option<Content>, text: Option<Text<'_>>, label: Label) {
        let size = label.bytes.unwrap_or_else(|| unit.block().len());
        let chance = self.by == By::Record && kind != Some(Content::Text);
        if self.by == By::Size && kind.is_none() {
            return self.add_size(unit, size);
        }
        let number = kind.map_or(0, |kind| kind as u8) | label.class.wrapping_shl(4);
        let read = text.map(|text| (text, self.reader.read(text.1, TEXT)));
        let hash = read.map_or(0, |(_, read)| read.hash);
        // Of one size and kind by the key, and of one text unless that is left to chance.
        let alike = alike(self.by, label.stack);
        let key: Key = match self.by {
            By::All | By::Record if alike => (size, number, 0, if chance { 0 } else { hash }),
            By::All | By::Record | By::Stack => (0, label.class.wrapping_shl(4), label.stack, 0),
            By::Size => (size, 0, 0, 0),
            By::Kind => (0, number, 0, 0),
            By::Text => (0, 0, 0, hash),
            By::Arena => (0, 0, unit.arena.unwrap_or(u32::MAX), 0),
        };
        let (rows, reader) = (&mut self.rows, &mut self.reader);
        let place = *self.places.entry(key).or_insert_with(|| {
            let arena = if self.by == By::Arena { unit.arena } else { None };
            rows.push((key, Growing::new(size, kind, arena, hash)));
            rows.len().saturating_sub(1)
        });
        let Some((_, growing)) = rows.get_mut(place) else { return };
        growing.group.class = label.class;
        growing.group.stack = label.stack;
        growing.group.behind.merge(label.behind);
        if alike && !chance {
            growing.count(unit, size);
        } else {
            growing.add(unit, size, kind, hash);
        }
        if let Some((text, read)) = read {
            growing.read(reader, text, &read);
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
            rows.push((key, Growing::new(size, None, None, 0)));
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
