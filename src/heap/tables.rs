//! Allocators that a module contains, found by the tables that they keep about their memory.
//!
//! This needs neither symbols nor texts. An allocator must find its record of a page from the
//! address of a block there, so it keeps a table with an entry for each page, and each record
//! says which pages it is about. The sign is that the place of an entry and what its record says
//! agree, for several records. Nothing but the name of the allocator is taken from that.
//!
//! The layouts were read in the allocators' sources, as named at each; they hold for 64-bit
//! little-endian machines with pages of 4 KiB, others are not looked at.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::memory::{Buffer, Memory};
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::word::WordFormat;

const PAGE: u64 = 4096;
const WORD: u64 = 8;

/// So many records must agree with their places in a table, and nine in ten entries.
const LEAST: usize = 3;

/// A table whose first records, this many, all disagree is none; nor is one of which none agrees in so many
/// entries.
const TRIED: usize = 16;
const TRIED_ENTRIES: usize = 64;

/// Entries of one table that are looked at: a large program has millions.
const MOST_ENTRIES: usize = 1 << 14;

/// Bytes of a table that are read first, and twice as many each time after: most of what a pointer
/// leads to is no table, which its first words show.
const FIRST_READ: u64 = 256;

/// Bytes of tables that are gone over: what a module has in its data may be a pointer to anything.
const MOST_READ: u64 = 4 << 30;

/// Aligned addresses at which the start of a segment is looked for.
const MOST_SEGMENTS: usize = 1 << 16;

/// What an entry says of its place: nothing, that it fits, or that it does not; with its record.
type Vote = Option<(u64, bool)>;

/// Judges an entry by its index and its word.
type Judge = fn(&mut Reader<'_>, u64, u64) -> Result<Vote, Error>;

/// The names of the allocators of which a table or two segments are in `places`.
///
/// `words` are words of the data of modules that lead into `places`, which are in order.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn kept(
    memory: &dyn Memory,
    words: &BTreeSet<u64>,
    places: &[AddressRange],
    job: &Job,
) -> Result<BTreeSet<&'static str>, Error> {
    let mut names = BTreeSet::new();
    if memory.word_format() != WordFormat::LITTLE_64 {
        return Ok(names);
    }
    let mut reader = Reader { memory, peek: Peek::new(memory), places, job, left: MOST_READ };
    if reader.segments()? {
        names.insert("mimalloc");
    }
    for word in words {
        for table in &TABLES {
            let aligned = word.checked_rem(table.align) == Some(0);
            if aligned && !names.contains(table.name) && reader.table(*word, table)? {
                names.insert(table.name);
            }
        }
    }
    Ok(names)
}

/// A table to which a module has a pointer.
struct Table {
    name: &'static str,
    align: u64,
    entries: u64,
    /// So many records must agree.
    least: usize,
    judge: Judge,
}

const TABLES: [Table; 3] = [
    Table {
        name: "jemalloc",
        align: 64,
        entries: 1 << 18,
        least: LEAST,
        judge: |reader, index, word| Ok(reader.extent(index, word)),
    },
    Table {
        name: "tcmalloc",
        align: PAGE,
        entries: 1 << 18,
        least: LEAST,
        judge: |reader, index, word| Ok(Some(reader.span(index, word))),
    },
    // Each of its entries is a table that needs as many.
    Table {
        name: "mimalloc",
        align: PAGE,
        entries: 1 << 18,
        least: 1,
        judge: |reader, index, word| reader.page_map(index, word),
    },
];

/// Reads tables, as long as that takes no more than it should.
struct Reader<'m> {
    memory: &'m dyn Memory,
    peek: Peek<'m>,
    places: &'m [AddressRange],
    job: &'m Job,
    left: u64,
}

impl Reader<'_> {
    fn inside(&self, address: u64) -> bool {
        inside(self.places, address)
    }

    /// Whether the table starts at `start`, by the votes of its entries; its end may not be mapped.
    fn table(&mut self, start: u64, table: &Table) -> Result<bool, Error> {
        let end = self.places.iter().find(|place| place.contains(start)).map_or(start, |place| place.end());
        let end = end.min(start.saturating_add(table.entries.saturating_mul(WORD)));
        let mut votes = Votes::default();
        let mut buffer = Buffer::default();
        let mut at = start;
        let mut length = FIRST_READ;
        while at < end {
            self.job.check()?;
            let piece = AddressRange::saturating(at, length.min(end.saturating_sub(at)));
            length = PAGE.saturating_mul(16).min(length.saturating_mul(2));
            let index = at.saturating_sub(start) / WORD;
            let rest = AddressRange::saturating(at, end.saturating_sub(at));
            let zeros = self.memory.zeros(rest) & !(WORD - 1);
            if zeros > 0 {
                at = at.saturating_add(zeros);
                continue;
            }
            at = piece.end();
            self.left = self.left.saturating_sub(piece.len());
            if self.left == 0 {
                break;
            }
            let view = self.memory.view(piece, &mut buffer);
            let words: Vec<(u64, u64)> = (index..)
                .zip(view.bytes.chunks_exact(8).filter_map(|bytes| WordFormat::LITTLE_64.read(bytes)))
                .filter(|(_, word)| *word != 0)
                .collect();
            for (index, word) in words {
                if let Some((record, agrees)) = (table.judge)(self, index, word)? {
                    votes.count(record, agrees);
                }
                if votes.decided() {
                    return Ok(votes.carry(table.least));
                }
            }
        }
        Ok(votes.carry(table.least))
    }

    /// An entry of a leaf of jemalloc's tree of extents: 2^18 pages of one GiB.
    ///
    /// jemalloc 5.2.1 and 5.3, `rtree.h` (`rtree_leaf_elm_bits_decode`), `extent_structs.h` and
    /// `edata.h`: the upper 16 bits are a size class, the lowest five flags; the record has the
    /// extent's address in its second word and its size in the third, whose low 12 bits are others.
    fn extent(&mut self, index: u64, word: u64) -> Vote {
        const GIB: u64 = 1 << 30;
        /// A larger extent jemalloc does not have: it has 232 size classes in 2^48 bytes at most.
        const LARGEST: u64 = 1 << 46;
        let record = word & 0x0000_ffff_ffff_ffc0;
        if record == 0 {
            return None;
        }
        let fits = |reader: &mut Self| {
            let (address, size) = reader.peek.two(record.checked_add(WORD)?)?;
            let start = address & !(PAGE - 1);
            let end = start.checked_add(size & !(PAGE - 1)).filter(|_| size < LARGEST)?;
            let page = (start & !(GIB - 1)).checked_add(index.checked_mul(PAGE)?)?;
            // An extent may have begun in the GiB before.
            let within = |page: u64| start <= page && page < end;
            Some(reader.inside(start) && (within(page) || within(page.checked_add(GIB)?)))
        };
        Some((record, word & 0x20 == 0 && self.inside(record) && fits(self) == Some(true)))
    }

    /// An entry of a leaf of gperftools' map of pages: 2^18 pages of 8 KiB.
    ///
    /// gperftools 2.9.1 to 2.18, `pagemap.h` (`TCMalloc_PageMap2`) and `span.h`: a span begins with
    /// the number of its first page and the count of its pages.
    fn span(&mut self, index: u64, word: u64) -> (u64, bool) {
        const PAGES: u64 = 1 << 18;
        let fits = |reader: &mut Self| {
            let (first, count) = reader.peek.two(word)?;
            let own = first % PAGES;
            Some(first > 0 && own <= index && index < own.checked_add(count)?)
        };
        (word, word % WORD == 0 && self.inside(word) && fits(self) == Some(true))
    }

    /// An entry of mimalloc's map of pages, which leads to 8192 pages of 64 KiB.
    ///
    /// mimalloc 3.0 to 3.4, `page-map.c` (`_mi_page_map`) and `types.h` (`mi_page_t`).
    fn page_map(&mut self, index: u64, word: u64) -> Result<Vote, Error> {
        const PAGES: u64 = 8192;
        const SLICE: u64 = 1 << 16;
        if word % PAGE != 0 || !self.inside(word) {
            return Ok(Some((word, false)));
        }
        self.job.check()?;
        self.left = self.left.saturating_sub(PAGES.saturating_mul(WORD));
        let base = index.saturating_mul(PAGES.saturating_mul(SLICE));
        let mut votes = Votes::default();
        for slot in 0..PAGES {
            let Some(page) = self.peek.word_at(word, slot).filter(|page| *page != 0) else { continue };
            let slice = AddressRange::saturating(base.saturating_add(slot.saturating_mul(SLICE)), SLICE);
            let blocks = self.page(page);
            votes.count(page, blocks.is_some_and(|blocks| blocks.intersection(slice).is_some()));
            if votes.decided() {
                break;
            }
        }
        Ok(Some((word, votes.carry(LEAST))))
    }

    /// The blocks of the page of mimalloc 3 with this record.
    fn page(&mut self, record: u64) -> Option<AddressRange> {
        if record % WORD != 0 || !self.inside(record) {
            return None;
        }
        let counts = self.peek.word_at(record, 2)?;
        let part = |shift: u32| (counts >> shift) & 0xffff;
        let (used, capacity, reserved) = (part(0), part(16), part(32));
        let (size, start) = self.peek.two(record.checked_add(40)?)?;
        // An address up to 3.3, and the distance in words, of 32 bits, since 3.4.
        let distance = (start & 0xffff_ffff).checked_mul(WORD)?;
        let start = if self.inside(start) { start } else { record.checked_add(distance)? };
        let sound = used <= capacity && capacity <= reserved && capacity > 0 && size > 0;
        let length = reserved.checked_mul(size).filter(|_| sound)?;
        AddressRange::with_length(start, length).ok()
    }

    /// Whether segments of mimalloc 1 or 2 are there.
    ///
    /// mimalloc 1.7 to 2.4, `types.h` (`mi_segment_t`), `segment.c` (`_mi_ptr_cookie`): they are
    /// aligned to their size, and each has a cookie that is its address, all bits of a number of
    /// the process turned.
    fn segments(&mut self) -> Result<bool, Error> {
        const SMALL: u64 = 4 << 20;
        const LARGE: u64 = 32 << 20;
        let mut cookies: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        let mut left = MOST_SEGMENTS;
        for place in self.places {
            let Some(first) = place.start().checked_next_multiple_of(SMALL) else { continue };
            for start in (first..place.end()).step_by(4 << 20).take(left) {
                left = left.saturating_sub(1);
                if left % 256 == 0 {
                    self.job.check()?;
                }
                for (number, layout) in SEGMENTS.iter().enumerate() {
                    let align = if layout.slices { LARGE } else { SMALL };
                    if start & align.wrapping_sub(1) != 0 {
                        continue;
                    }
                    if let Some(cookie) = self.segment(start, layout) {
                        let count = cookies.entry((number, cookie ^ start)).or_default();
                        *count = count.saturating_add(1);
                    }
                }
            }
        }
        // A segment of version 2 has a description of itself, which is a sign on its own.
        let sure = |number: usize| SEGMENTS.get(number).is_some_and(|layout| layout.slices);
        Ok(cookies.iter().any(|((number, _), count)| *count > 1 || sure(*number)))
    }

    /// The cookie of a segment of that layout.
    fn segment(&mut self, start: u64, layout: &Segment) -> Option<u64> {
        let word = |reader: &mut Self, offset: u64| reader.peek.word(start.checked_add(offset)?);
        let cookie = word(self, layout.cookie).filter(|cookie| *cookie != 0)?;
        let used = word(self, layout.used)?;
        let entries = word(self, layout.entries)?;
        let kind = word(self, layout.kind)? & 0xffff_ffff;
        let info = word(self, layout.info)?;
        let sound = if layout.slices {
            let slices = word(self, layout.length)?;
            let own = word(self, layout.first)? & 0xffff_ffff;
            let described = own == info && info > 0 && info < 16;
            kind < 2 && described && info <= slices && slices < 1 << 32 && entries <= slices && used > 0
        } else {
            let bytes = word(self, layout.length)?;
            kind < 4 && info > 0 && info < bytes && bytes % PAGE == 0 && entries > 0 && used > 0
        };
        (sound && used <= entries).then_some(cookie)
    }
}

/// Where a segment of mimalloc has what, in bytes from its start.
struct Segment {
    /// Whether it is cut into slices, of which the first describes the segment itself.
    slices: bool,
    used: u64,
    cookie: u64,
    /// The slices or bytes of the segment.
    length: u64,
    /// How many of them are its own description.
    info: u64,
    /// How many pages or slices there may be.
    entries: u64,
    kind: u64,
    /// The first slice.
    first: u64,
}

/// mimalloc 2.0 to 2.1.7, 2.1.9 to 2.4; 1.7; 1.8 and 1.9.
const SEGMENTS: [Segment; 4] = [
    Segment {
        slices: true,
        used: 208,
        cookie: 216,
        length: 224,
        info: 232,
        entries: 248,
        kind: 240,
        first: 264,
    },
    Segment {
        slices: true,
        used: 216,
        cookie: 224,
        length: 248,
        info: 256,
        entries: 272,
        kind: 264,
        first: 288,
    },
    Segment { slices: false, used: 72, cookie: 104, length: 88, info: 96, entries: 80, kind: 128, first: 0 },
    Segment { slices: false, used: 88, cookie: 112, length: 32, info: 104, entries: 96, kind: 152, first: 0 },
];

/// How the entries of a table were judged.
#[derive(Default)]
struct Votes {
    /// The records that agree with their places.
    agreeing: BTreeSet<u64>,
    /// Some that do not, until one does.
    disagreeing: BTreeSet<u64>,
    /// Entries that agree, and all.
    counted: (usize, usize),
}

impl Votes {
    fn count(&mut self, record: u64, agrees: bool) {
        self.counted.1 = self.counted.1.saturating_add(1);
        if agrees {
            self.counted.0 = self.counted.0.saturating_add(1);
            self.agreeing.insert(record);
        } else if self.agreeing.is_empty() {
            self.disagreeing.insert(record);
        }
    }

    /// Whether more entries would not change the answer.
    fn decided(&self) -> bool {
        let none = self.disagreeing.len() >= TRIED || self.counted.1 >= TRIED_ENTRIES;
        self.counted.1 >= MOST_ENTRIES || (none && self.agreeing.is_empty())
    }

    /// Whether enough records agree, and nine in ten entries.
    fn carry(&self, least: usize) -> bool {
        let (agreeing, all) = self.counted;
        self.agreeing.len() >= least && agreeing.saturating_mul(10) >= all.saturating_mul(9)
    }
}

/// Whether the address is in one of the places, which are in order.
pub(super) fn inside(places: &[AddressRange], address: u64) -> bool {
    let after = places.partition_point(|place| place.start() <= address);
    after.checked_sub(1).and_then(|at| places.get(at)).is_some_and(|place| place.contains(address))
}
