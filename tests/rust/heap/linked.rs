//! Allocators that are part of a module, by their texts: which module has a text.

use gdb_leak::heap::linked;
use gdb_leak::memory::{Buffer, Gap, Memory, Missing, Permissions, Region, RegionKind, View};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::source::captured::Captured;
use gdb_leak::source::symbols::Symbols;
use gdb_leak::source::{Origin, SourceKind, Target};
use gdb_leak::word::WordFormat;

const POOL: u64 = 0x7000_0000;
const TEXTS: &[u8] = b"mimalloc: warning: \0mimalloc: error: \0";

/// Memory of modules, beside a pool that is of no known heap.
struct World(Captured);

impl World {
    /// Adds what a module does not write to, of which only `bytes` are there.
    fn constant(self, start: u64, name: &str, bytes: &[u8], length: u64) -> Self {
        let memory = self.0.with_region(start, bytes, length, RegionKind::File, name);
        Self(memory.with_permissions(Permissions::new(true, false, false)))
    }

    /// Adds the writable data of a module.
    fn data(self, start: u64, name: &str, word: u64) -> Self {
        let bytes = word.to_le_bytes().repeat(64);
        Self(self.0.with_region(start, &bytes, 512, RegionKind::Data, name))
    }

    fn named(self) -> Vec<&'static str> {
        let memory = std::sync::Arc::new(self.0.with(POOL, &[1; 4096]));
        let origin = Origin::new(SourceKind::Maps);
        let target = Target { memory: memory.clone(), origin };
        let pool = AddressRange::with_length(POOL, 4096).unwrap();
        linked(memory.as_ref(), &Symbols::new(&target), &[pool], &Job::default()).unwrap()
    }
}

fn world() -> World {
    World(Captured::new())
}

#[test]
fn a_module_with_both_texts_whose_data_leads_to_the_pool_is_named() {
    let page = [TEXTS, &[0; 4096]].concat();
    let one = world().constant(0x10000, "/one", &page[..4096], 4096).data(0x12000, "/one", POOL);
    assert_eq!(one.named(), ["mimalloc"]);
}

#[test]
fn a_text_is_that_of_the_module_that_has_it_and_not_of_its_neighbour() {
    // The texts are those of /two, and only the data of /one leads to the pool.
    let page = [TEXTS, &[0; 4096]].concat();
    let two =
        world().constant(0x10000, "/one", &[0; 4096], 4096).constant(0x11000, "/two", &page[..4096], 4096);
    assert!(two.data(0x12000, "/one", POOL).data(0x13000, "/two", 1).named().is_empty());
}

#[test]
fn bytes_on_both_sides_of_a_gap_are_no_text() {
    let (first, second) = TEXTS.split_at(5);
    let start = [&[0; 4000], first].concat();
    let rest = [second, &[0; 3000]].concat();
    let torn = world().constant(0x10000, "/one", &start, 0x2000).constant(0x12000, "/one", &rest, 0x1000);
    assert!(torn.data(0x14000, "/one", POOL).named().is_empty());
}

#[test]
fn a_text_across_two_pieces_of_one_module_is_found() {
    let (first, second) = TEXTS.split_at(5);
    let start = [&[0; 4091], first].concat();
    let rest = [second, &[0; 3000]].concat();
    let whole = world().constant(0x10000, "/one", &start, 4096).constant(0x11000, "/one", &rest, 0x1000);
    assert_eq!(whole.data(0x14000, "/one", POOL).named(), ["mimalloc"]);
}

/// Memory with a page that cannot be read.
struct Torn(Captured, AddressRange);

impl Memory for Torn {
    fn word_format(&self) -> WordFormat {
        self.0.word_format()
    }

    fn regions(&self) -> &[Region] {
        self.0.regions()
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        if self.1.contains(range.start()) {
            let gap = self.1.intersection(range).unwrap();
            return View { bytes: &[], gap: Some(Gap { range: gap, missing: Missing::NotSaved("core") }) };
        }
        let before = self.1.start().saturating_sub(range.start());
        let length = if before > 0 { before.min(range.len()) } else { range.len() };
        self.0.view(AddressRange::with_length(range.start(), length).unwrap(), buffer)
    }
}

#[test]
fn data_after_a_page_that_cannot_be_read_leads_to_the_pool() {
    let page = [TEXTS, &[0; 4096]].concat();
    let words = [&[0; 0x2ff8][..], &POOL.to_le_bytes()].concat();
    let memory = world().constant(0x10000, "/one", &page[..4096], 4096).0;
    let memory = memory.with_region(0x12000, &words, 0x3000, RegionKind::Data, "/one").with(POOL, &[1; 4096]);
    let memory = Torn(memory, AddressRange::with_length(0x13000, 0x1000).unwrap());
    let origin = Origin::new(SourceKind::Maps);
    let symbols = Symbols::new(&Target { memory: std::sync::Arc::new(Captured::new()), origin });
    let pool = AddressRange::with_length(POOL, 4096).unwrap();
    assert_eq!(linked(&memory, &symbols, &[pool], &Job::default()).unwrap(), ["mimalloc"]);
}

#[test]
fn tens_of_thousands_of_mappings_of_modules_are_gone_over_in_time() {
    const MANY: u64 = 30_000;
    let mut many = world();
    for index in 0..MANY {
        let at = 0x10000 + (index << 14);
        let name = format!("/{index}");
        many = many.constant(at, &name, &[], 4096);
        many = World(
            many.constant(at + 0x1000, &name, &[], 4096)
                .0
                .with_permissions(Permissions::new(true, false, true)),
        );
        many = many.data(at + 0x2000, &name, 1);
    }
    let begun = std::time::Instant::now();
    let memory = many.0;
    let symbols = Symbols::new(&Target {
        memory: std::sync::Arc::new(Captured::new()),
        origin: Origin::new(SourceKind::Maps),
    });
    assert!(linked(&memory, &symbols, &[], &Job::default()).unwrap().is_empty());
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}
