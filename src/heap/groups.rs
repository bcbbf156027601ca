//! Blocks by size, by what they hold, by the text in them, by arena, by who allocated them.
//!
//! One way is to make a row for every block and to sort them. Of eight million
//! blocks that are rows for nobody. Here they are counted while they are gone
//! over, in parallel, into tables that are put together in address order; the
//! blocks of one group are then known by number, bytes and the first of them.

use std::collections::HashMap;
use std::ops::Range;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use twox_hash::XxHash3_128;

use crate::error::Error;
use crate::heap::allocator::Count;
use crate::heap::block::{Blocks, State, Unit};
use crate::heap::content::{Addresses, Content, zeros};
use crate::inspect::text;
use crate::memory::{Buffer, Memory};
use crate::pass::Job;
use crate::range::AddressRange;

/// Units that one worker takes at a time.
const SLICE: usize = 1 << 15;

/// Slices of which results wait to be put together, for each thread.
const AHEAD: usize = 4;

/// Groups that are told apart; what comes later has its text left out.
const MOST: usize = 1 << 20;

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

/// What somebody above knows of a block that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Label {
    /// A number that blocks of one group have in common, below eight.
    pub class: u8,
    /// Other blocks that it stands for, and their bytes.
    pub behind: Count,
    /// The number of the stack that allocated it; zero where that is not known.
    pub stack: u32,
    /// The bytes that it counts for, where these are not its usable ones.
    pub bytes: Option<u64>,
}

/// Says what is known of a unit; `None` where it is not wanted.
pub type Labels<'w> = dyn Fn(&Unit) -> Option<Label> + Sync + 'w;

/// Which blocks count.
#[derive(Clone, Default)]
pub struct Wanted<'w> {
    /// Only free ones, or only used ones.
    pub free: Option<bool>,
    /// Only those with so many usable bytes.
    pub size: Option<u64>,
    /// Only those that hold this.
    pub kind: Option<Content>,
    /// Only those that lie in these ranges, in order; no ranges are all.
    pub within: Vec<AddressRange>,
    /// Only those that have a label here.
    pub labels: Option<&'w Labels<'w>>,
}

impl Wanted<'_> {
    fn takes(&self, unit: &Unit) -> bool {
        let state = unit.state.block() && self.free.is_none_or(|free| unit.state.free() == free);
        let size = self.size.is_none_or(|size| unit.block().len() == size);
        let labelled = || self.labels.is_none_or(|labels| labels(unit).is_some());
        state && size && (self.within.is_empty() || self.inside(unit)) && labelled()
    }

    fn label(&self, unit: &Unit) -> Label {
        self.labels.and_then(|labels| labels(unit)).unwrap_or_default()
    }

    fn inside(&self, unit: &Unit) -> bool {
        let start = unit.range.start();
        let at = self.within.partition_point(|range| range.end() <= start);
        self.within.get(at).is_some_and(|range| range.contains(start))
    }
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

/// All groups, those with the most bytes first.
#[derive(Clone, Default, Debug)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
    /// Blocks in all.
    pub blocks: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Blocks whose text was left out, since too many differ.
    pub untracked: u64,
}

/// What tells a group: size, kind, arena or stack, a hash of the text.
type Key = (u64, u8, u32, u128);

/// A group while it grows.
#[derive(Clone, Debug)]
struct Growing {
    group: Group,
    /// Whether sizes, kinds or texts differ by now.
    mixed: (bool, bool, bool),
}

/// Goes over the wanted blocks of a slice of units, with what each holds where that is asked for.
fn each(
    memory: &dyn Memory,
    blocks: &Blocks,
    slice: Range<usize>,
    wanted: &Wanted<'_>,
    contents: bool,
    mut take: impl FnMut(&Unit, Option<Content>, Option<&[u8]>),
) {
    let mut addresses = Addresses::new(memory);
    let mut buffer = Buffer::default();
    let mut further = Buffer::default();
    let mut units = blocks.units_in(slice).filter(|unit| wanted.takes(unit)).peekable();
    while let Some(first) = units.peek().copied() {
        if !contents {
            take(&first, None, None);
            units.next();
            continue;
        }
        // Whatever lies in one piece from here on, so that a process is read in pieces too.
        let start = first.block().start();
        let span = blocks.span_at(start).map_or(start, |span| span.range.end());
        let reach = span.saturating_sub(start).min(1 << 20).max(first.block().len());
        let view = memory.view(AddressRange::saturating(start, reach), &mut buffer);
        let mut progressed = false;
        while let Some(unit) = units.peek().copied() {
            let block = unit.block();
            let offset = usize::try_from(block.start().wrapping_sub(start)).unwrap_or(usize::MAX);
            let length = usize::try_from(block.len()).unwrap_or(usize::MAX);
            let here = view.bytes.get(offset..).unwrap_or_default();
            if here.len() < length && progressed {
                break;
            }
            progressed = true;
            units.next();
            let here = here.get(..length.min(here.len())).unwrap_or_default();
            let (mut kind, text) = addresses.content(here);
            if kind == Content::Zero && here.len() < length {
                let behind = block.start().saturating_add(here.len() as u64);
                let rest = AddressRange::saturating(behind, block.end().saturating_sub(behind));
                if !zeros(memory, rest, &mut further) {
                    kind = Content::Data;
                }
            }
            if unit.state == State::Allocator {
                kind = Content::Allocator;
            }
            take(&unit, Some(kind), text.filter(|_| kind != Content::Allocator));
        }
    }
}

fn slices(blocks: &Blocks) -> Vec<Range<usize>> {
    (0..blocks.len())
        .step_by(SLICE)
        .map(|start| start..start.saturating_add(SLICE).min(blocks.len()))
        .collect()
}

/// How many slices are worked on at once.
fn batch() -> usize {
    rayon::current_num_threads().saturating_mul(AHEAD).max(1)
}

fn needs_contents(by: By, wanted: &Wanted<'_>) -> bool {
    wanted.kind.is_some() || matches!(by, By::All | By::Record | By::Kind | By::Text)
}

/// The blocks that are wanted, in groups.
///
/// Memory: a row for each group, a million at the most, and those of a few slices of
/// 32,768 units for each thread.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn groups(
    memory: &dyn Memory,
    blocks: &Blocks,
    by: By,
    wanted: &Wanted<'_>,
    job: &Job,
) -> Result<Groups, Error> {
    let contents = needs_contents(by, wanted);
    let mut all: HashMap<Key, Growing> = HashMap::new();
    let mut found = Groups::default();
    let slices = slices(blocks);
    for batch in slices.chunks(batch()) {
        let work = |slice: &Range<usize>| {
            let mut table = Table::new(by);
            if !job.stopped() {
                each(memory, blocks, slice.clone(), wanted, contents, |unit, kind, text| {
                    if wanted.kind.is_none_or(|wanted| kind == Some(wanted)) {
                        table.add(unit, kind, text, wanted.label(unit));
                    }
                });
            }
            table
        };
        let tables: Vec<Table> = batch.par_iter().map(work).collect();
        job.check()?;
        for table in tables {
            job.check()?;
            for (key, growing) in table.rows() {
                merge(&mut all, &mut found, key, growing);
            }
        }
    }
    let mut groups: Vec<Group> = all.into_values().map(|growing| growing.group).collect();
    groups.sort_by(|one, other| {
        other.bytes.cmp(&one.bytes).then(other.blocks.cmp(&one.blocks)).then(one.sample.cmp(&other.sample))
    });
    found.groups = groups;
    Ok(found)
}

fn merge(all: &mut HashMap<Key, Growing>, found: &mut Groups, key: Key, growing: Growing) {
    found.blocks = found.blocks.saturating_add(growing.group.blocks);
    found.bytes = found.bytes.saturating_add(growing.group.bytes);
    let mut key = key;
    let mut growing = growing;
    if all.len() >= MOST && !all.contains_key(&key) {
        found.untracked = found.untracked.saturating_add(growing.group.blocks);
        growing.mixed = (true, true, true);
        growing.group = Group { size: None, kind: None, text: None, ..growing.group };
        key = (u64::MAX, u8::MAX, u32::MAX, 0);
    }
    match all.entry(key) {
        std::collections::hash_map::Entry::Vacant(slot) => {
            slot.insert(growing);
        }
        std::collections::hash_map::Entry::Occupied(mut slot) => slot.get_mut().merge(growing),
    }
}

impl Growing {
    fn merge(&mut self, other: Self) {
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
struct Table {
    by: By,
    rows: Vec<(Key, Growing)>,
    /// Where the row of a key is.
    places: HashMap<Key, usize>,
    /// Where the rows of small sizes are, counted from one, where blocks are grouped by size alone.
    small: Vec<u32>,
}

impl Table {
    fn new(by: By) -> Self {
        Self { by, rows: Vec::new(), places: HashMap::new(), small: vec![0; SMALL] }
    }

    fn add(&mut self, unit: &Unit, kind: Option<Content>, text: Option<&[u8]>, label: Label) {
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

    fn rows(self) -> impl Iterator<Item = (Key, Growing)> {
        self.rows.into_iter()
    }
}

/// The wanted blocks one by one.
#[derive(Clone, Default, Debug)]
pub struct Listed {
    /// Their numbers and what they hold, in address order, as many as were asked for.
    pub blocks: Vec<(u32, Option<Content>)>,
    /// How many there are.
    pub count: u64,
    /// Their usable bytes together.
    pub bytes: u64,
}

/// The blocks that are wanted, the first `limit` of them with their numbers.
///
/// Memory: eight bytes for each that is kept.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn list(
    memory: &dyn Memory,
    blocks: &Blocks,
    wanted: &Wanted<'_>,
    limit: usize,
    job: &Job,
) -> Result<Listed, Error> {
    let mut listed = Listed::default();
    let slices = slices(blocks);
    for batch in slices.chunks(batch()) {
        let room = limit.saturating_sub(listed.blocks.len());
        let work = |slice: &Range<usize>| {
            let mut part = Listed::default();
            if job.stopped() {
                return part;
            }
            // What a block holds is looked at only if it may be listed, or decides whether it counts.
            let contents = wanted.kind.is_some() || room > 0;
            each(memory, blocks, slice.clone(), wanted, contents, |unit, kind, _| {
                if wanted.kind.is_some_and(|wanted| kind != Some(wanted)) {
                    return;
                }
                part.count = part.count.saturating_add(1);
                part.bytes = part.bytes.saturating_add(unit.block().len());
                if part.blocks.len() < room {
                    part.blocks.extend(u32::try_from(unit.index).ok().map(|index| (index, kind)));
                }
            });
            part
        };
        let parts: Vec<Listed> = batch.par_iter().map(work).collect();
        job.check()?;
        for part in parts {
            let room = limit.saturating_sub(listed.blocks.len());
            listed.blocks.extend(part.blocks.into_iter().take(room));
            listed.count = listed.count.saturating_add(part.count);
            listed.bytes = listed.bytes.saturating_add(part.bytes);
        }
    }
    Ok(listed)
}

/// What one block holds, and the text in it.
#[must_use]
pub fn content(memory: &dyn Memory, blocks: &Blocks, index: usize) -> (Option<Content>, Option<String>) {
    let mut found = (None, None);
    let end = index.saturating_add(1);
    each(memory, blocks, index..end, &Wanted::default(), true, |_, kind, text| {
        found = (kind, text.map(text::lossless));
    });
    found
}
