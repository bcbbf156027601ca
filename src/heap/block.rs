//! The blocks of a heap, whoever made them: in address order, packed.
//!
//! One way to keep eight million blocks is a vector of structures with a start,
//! a size and a state: 24 bytes each, and a binary search for each address that
//! somebody asks about. But blocks tile the memory that they were cut from, so a
//! block ends where the next one starts. What is kept of a unit is where it
//! starts, in steps of eight bytes from the start of its span, and its state:
//! five bytes. A table with one entry for each page says which unit is the first
//! to start there or later, so that the unit of any byte is found among the few
//! that start in one page.
//!
//! A *unit* is a stretch as the allocator cuts it: a block with its header, free
//! or in use, or what lies between (a header of the allocator's own, a gap that
//! somebody else took). A *block* is what a program sees of a unit.

use crate::range::AddressRange;

/// Starts of units are kept in steps of this many bytes from the start of their span.
pub const STEP: u64 = 8;

/// Pages of the table that leads from addresses to units.
const PAGE: u64 = 4096;

/// How far from its span's start a unit can start: starts are kept in 32 bits.
pub const MOST_SPAN: u64 = STEP << 32;

/// What a unit is to its allocator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// A block that the program holds.
    Used,
    /// A block that the allocator took from itself for its own tables.
    Allocator,
    /// A free block in a cache of one thread.
    Tcache,
    /// A free block on a list that is not merged with its neighbours.
    Fast,
    /// A free block that was not sorted into a list by size yet.
    Unsorted,
    /// A free block on a list of blocks of one size.
    Small,
    /// A free block on a list of blocks of a range of sizes.
    Large,
    /// A free block that is on no list.
    Unlisted,
    /// What new blocks are cut from.
    Top,
    /// What the allocator keeps beside blocks: headers, marks, padding.
    Overhead,
    /// What somebody else took between two parts of a heap.
    Foreign,
    /// Memory whose blocks cannot be identified because structures are damaged.
    Damaged,
    /// Blocks whose headers are not there to read.
    Unreadable,
}

impl State {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Used,
        Self::Allocator,
        Self::Tcache,
        Self::Fast,
        Self::Unsorted,
        Self::Small,
        Self::Large,
        Self::Unlisted,
        Self::Top,
        Self::Overhead,
        Self::Foreign,
        Self::Damaged,
        Self::Unreadable,
    ];

    /// The lists that a free block can be on, in the order in which people list them.
    pub const LISTS: [Self; 5] = [Self::Tcache, Self::Fast, Self::Unsorted, Self::Small, Self::Large];

    fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Damaged)
    }

    /// Whether the unit is a block: something that the program had or can have.
    #[must_use]
    pub const fn block(self) -> bool {
        (self as u8) <= Self::Unlisted as u8
    }

    /// Whether the unit is a block in use, the allocator's own included.
    #[must_use]
    pub const fn used(self) -> bool {
        matches!(self, Self::Used | Self::Allocator)
    }

    /// Whether the unit is a free block.
    #[must_use]
    pub const fn free(self) -> bool {
        self.block() && !self.used()
    }

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Allocator => "allocator",
            Self::Tcache => "tcache",
            Self::Fast => "fast",
            Self::Unsorted => "unsorted",
            Self::Small => "small",
            Self::Large => "large",
            Self::Unlisted => "unlisted",
            Self::Top => "top",
            Self::Overhead => "overhead",
            Self::Foreign => "foreign",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
        }
    }
}

/// How the blocks of a span lie in their units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// How many bytes before a block its unit starts.
    pub lead: u8,
    /// How many bytes of a unit the program cannot use.
    ///
    /// Less than `lead` where a block reaches into the unit behind it.
    pub cost: u8,
}

/// One stretch of memory that an allocator got at once or grew, as it was cut into units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Where it lies; its units tile it.
    pub range: AddressRange,
    /// How blocks lie in its units.
    pub shape: Shape,
    /// The number of the arena that it belongs to; none for a block that was mapped on its own.
    pub arena: Option<u32>,
    /// The number of its first unit.
    first: usize,
    /// The number after its last unit.
    last: usize,
    /// Where its part of the page table starts, where it has one.
    pages: Option<usize>,
}

/// One unit of a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// Its number, from zero in address order.
    pub index: usize,
    /// What it covers, header included.
    pub range: AddressRange,
    /// What it is.
    pub state: State,
    /// How a block lies in it.
    pub shape: Shape,
    /// The number of its arena.
    pub arena: Option<u32>,
}

impl Unit {
    /// The bytes that the program may use, of a block.
    #[must_use]
    pub fn block(&self) -> AddressRange {
        let start = self.range.start().saturating_add(u64::from(self.shape.lead));
        AddressRange::saturating(start, self.range.len().saturating_sub(u64::from(self.shape.cost)))
    }
}

/// The units of one span while they are found, in address order.
#[derive(Clone, Debug)]
pub struct Part {
    range: AddressRange,
    shape: Shape,
    arena: Option<u32>,
    starts: Vec<u32>,
    states: Vec<u8>,
}

impl Part {
    /// No units yet, of a span that starts at `start`.
    #[must_use]
    pub fn new(start: u64, shape: Shape, arena: Option<u32>) -> Self {
        let range = AddressRange::saturating(start, 0);
        Self { range, shape, arena, starts: Vec::new(), states: Vec::new() }
    }

    /// Where the next unit will start.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.range.end()
    }

    /// Whether the span can take no more units: the next would start too far from its start.
    #[must_use]
    pub fn full(&self) -> bool {
        self.range.len() >= MOST_SPAN
    }

    /// Adds a unit behind the last one, up to `end`; nothing where that is not behind it.
    #[inline]
    pub fn push(&mut self, end: u64, state: State) {
        let offset = self.range.len() / STEP;
        let Ok(start) = u32::try_from(offset) else { return };
        if end > self.range.end() {
            self.starts.push(start);
            self.states.push(state as u8);
            self.range = AddressRange::saturating(self.range.start(), end.saturating_sub(self.range.start()));
        }
    }

    /// Takes the last unit away again, and comes back with where it started.
    pub fn pop(&mut self) -> Option<u64> {
        let start = u64::from(self.starts.pop()?).saturating_mul(STEP);
        self.states.pop();
        self.range = AddressRange::saturating(self.range.start(), start);
        Some(self.range.end())
    }

    /// Where the last unit starts.
    #[must_use]
    pub fn last_start(&self) -> Option<u64> {
        let start = u64::from(*self.starts.last()?).saturating_mul(STEP);
        Some(self.range.start().saturating_add(start))
    }

    /// What the last unit is.
    #[must_use]
    pub fn last_state(&self) -> Option<State> {
        self.states.last().copied().map(State::from_number)
    }

    /// Makes the last unit something else.
    #[inline]
    pub fn set_last(&mut self, state: State) {
        if let Some(last) = self.states.last_mut() {
            *last = state as u8;
        }
    }

    /// The range that the units tile.
    #[must_use]
    pub fn range(&self) -> AddressRange {
        self.range
    }

    /// The number of the arena that the span belongs to.
    #[must_use]
    pub fn arena(&self) -> Option<u32> {
        self.arena
    }
}

/// All units of a heap in address order.
///
/// Memory: five bytes for each unit, 64 for each span, and four for each page of
/// the spans that have more units than pages; in the others, where blocks are
/// large, units are searched for instead.
#[derive(Clone, Default, Debug)]
pub struct Blocks {
    spans: Vec<Span>,
    starts: Vec<u32>,
    states: Vec<u8>,
    /// For each page of each span the number, within the span, of the first unit
    /// that starts in the page or behind it.
    pages: Vec<u32>,
}

impl Blocks {
    /// The units of these spans, put into address order.
    ///
    /// A span that overlaps one before it is left out; comes back with where these were.
    #[must_use]
    pub fn new(mut parts: Vec<Part>) -> (Self, Vec<AddressRange>) {
        parts.retain(|part| !part.starts.is_empty());
        parts.sort_by_key(|part| part.range);
        let mut blocks = Self::default();
        let mut dropped = Vec::new();
        for mut part in parts {
            let before = blocks.spans.last().map_or(0, |span| span.range.end());
            if part.range.start() < before {
                dropped.push(part.range);
                continue;
            }
            let first = blocks.starts.len();
            // The first part, which is the largest as a rule, is not copied.
            if first == 0 {
                blocks.starts = std::mem::take(&mut part.starts);
                blocks.states = std::mem::take(&mut part.states);
            } else {
                blocks.starts.append(&mut part.starts);
                blocks.states.append(&mut part.states);
            }
            let last = blocks.starts.len();
            let (range, shape, arena) = (part.range, part.shape, part.arena);
            let count = range.len().div_ceil(PAGE);
            let dense = last.saturating_sub(first) as u64 > count;
            let pages = dense.then_some(blocks.pages.len());
            blocks.spans.push(Span { range, shape, arena, first, last, pages });
            if dense {
                blocks.index_pages(first, last, count);
            }
        }
        (blocks, dropped)
    }

    fn index_pages(&mut self, first: usize, last: usize, pages: u64) {
        let starts = self.starts.get(first..last).unwrap_or_default();
        let mut page = 0_u64;
        for (number, start) in (0_u32..).zip(starts) {
            let own = u64::from(*start).saturating_mul(STEP) / PAGE;
            while page <= own {
                self.pages.push(number);
                page = page.saturating_add(1);
            }
        }
        let count = u32::try_from(starts.len()).unwrap_or(u32::MAX);
        while page < pages {
            self.pages.push(count);
            page = page.saturating_add(1);
        }
    }

    /// How many units there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no unit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The spans, in address order.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The bytes that the list itself takes.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        let words = self.starts.len().saturating_add(self.pages.len());
        let spans = self.spans.len().saturating_mul(size_of::<Span>());
        words.saturating_mul(4).saturating_add(self.states.len()).saturating_add(spans)
    }

    /// The unit with that number.
    #[must_use]
    pub fn unit(&self, index: usize) -> Option<Unit> {
        let at = self.spans.partition_point(|span| span.last <= index);
        self.unit_in(self.spans.get(at)?, index)
    }

    fn unit_in(&self, span: &Span, index: usize) -> Option<Unit> {
        let base = span.range.start();
        let place = |start: &u32| base.saturating_add(u64::from(*start).saturating_mul(STEP));
        let start = place(self.starts.get(index)?);
        let next = index.saturating_add(1);
        let end = if next < span.last { self.starts.get(next).map(place) } else { None };
        let end = end.unwrap_or_else(|| span.range.end());
        let state = self.states.get(index).copied().map(State::from_number)?;
        let range = AddressRange::saturating(start, end.saturating_sub(start));
        Some(Unit { index, range, state, shape: span.shape, arena: span.arena })
    }

    /// The span that holds `address`.
    #[must_use]
    pub fn span_at(&self, address: u64) -> Option<&Span> {
        let at = self.spans.partition_point(|span| span.range.end() <= address);
        self.spans.get(at).filter(|span| span.range.contains(address))
    }

    /// The unit that holds `address`, header included.
    ///
    /// Time: that of finding the span among all, and of a search among the units
    /// that start in one page.
    #[must_use]
    pub fn unit_at(&self, address: u64) -> Option<Unit> {
        self.unit_of(self.span_at(address)?, address)
    }

    /// The unit of `span` that holds `address`, header included.
    #[must_use]
    #[inline]
    pub fn unit_of(&self, span: &Span, address: u64) -> Option<Unit> {
        let offset = address.checked_sub(span.range.start())?;
        let wanted = offset / STEP;
        let (from, to) = self.around(span, offset / PAGE)?;
        let here = self.starts.get(from..to)?;
        let behind = here.partition_point(|start| u64::from(*start) <= wanted);
        // Where none starts in the page before it, it is the last of an earlier page.
        let index = from.saturating_add(behind).checked_sub(1).filter(|index| *index >= span.first)?;
        self.unit_in(span, index)
    }

    /// The units that start in a page of a span, the first and the one after the last.
    fn around(&self, span: &Span, page: u64) -> Option<(usize, usize)> {
        let Some(pages) = span.pages else { return Some((span.first, span.last)) };
        let page = usize::try_from(page).ok()?;
        let place = |page: usize| {
            let number = *self.pages.get(pages.checked_add(page)?)?;
            span.first.checked_add(usize::try_from(number).ok()?)
        };
        let next = page.saturating_add(1);
        let last = next as u64 >= span.range.len().div_ceil(PAGE);
        Some((place(page)?, if last { span.last } else { place(next)? }))
    }

    /// The unit that starts at `address`.
    #[must_use]
    pub fn unit_from(&self, address: u64) -> Option<Unit> {
        self.unit_at(address).filter(|unit| unit.range.start() == address)
    }

    /// The block that holds `address` among the bytes that the program may use.
    #[must_use]
    pub fn block_at(&self, address: u64) -> Option<Unit> {
        self.block_of(self.span_at(address)?, address)
    }

    /// The block of `span` that holds `address` among the bytes that the program may use.
    #[must_use]
    #[inline]
    pub fn block_of(&self, span: &Span, address: u64) -> Option<Unit> {
        let unit = self.unit_of(span, address)?;
        let holds = |unit: &Unit| unit.state.block() && unit.block().contains(address);
        if holds(&unit) {
            return Some(unit);
        }
        // A block may reach into the header of the unit behind it.
        let before = unit.index.checked_sub(1).filter(|index| *index >= span.first)?;
        self.unit_in(span, before).filter(holds)
    }

    /// The units of a span, in address order.
    pub fn units_of<'b>(&'b self, span: &'b Span) -> impl Iterator<Item = Unit> + 'b {
        (span.first..span.last).filter_map(move |index| self.unit_in(span, index))
    }

    /// The units of a span from the one before that which holds `address` on, in address order.
    ///
    /// The one before may reach into its header.
    pub fn units_near<'b>(&'b self, span: &'b Span, address: u64) -> impl Iterator<Item = Unit> + 'b {
        let holds = self.unit_of(span, address).map_or(span.first, |unit| unit.index);
        let first = holds.saturating_sub(1).max(span.first);
        (first..span.last).filter_map(move |index| self.unit_in(span, index))
    }

    /// The units with these numbers, in address order.
    pub fn units_in(&self, numbers: std::ops::Range<usize>) -> impl Iterator<Item = Unit> + '_ {
        let at = self.spans.partition_point(|span| span.last <= numbers.start);
        let spans = self.spans.get(at..).unwrap_or_default().iter();
        let inside = spans.take_while(move |span| span.first < numbers.end);
        inside.flat_map(move |span| {
            let own = span.first.max(numbers.start)..span.last.min(numbers.end);
            own.filter_map(move |index| self.unit_in(span, index))
        })
    }

    /// All units, in address order.
    pub fn units(&self) -> impl Iterator<Item = Unit> + '_ {
        self.spans.iter().flat_map(move |span| self.units_of(span))
    }

    /// The units in states that `wanted` takes, in address order.
    ///
    /// Of the others only the state is read, which is a byte: for states that few units have.
    pub fn units_that<'b>(&'b self, wanted: impl Fn(State) -> bool + 'b) -> impl Iterator<Item = Unit> + 'b {
        let states = self.states.iter().enumerate();
        let found = states.filter(move |(_, state)| wanted(State::from_number(**state)));
        found.filter_map(|(index, _)| self.unit(index))
    }

    /// Says what a unit is.
    pub fn set_state(&mut self, index: usize, state: State) {
        if let Some(slot) = self.states.get_mut(index) {
            *slot = state as u8;
        }
    }
}
