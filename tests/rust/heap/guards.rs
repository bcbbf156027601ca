//! Heaps of which pages have other rights, or are missing.

use crate::builder::{Built, PAGE, build};
use crate::cases::plain;
use crate::figures::Kind;
use crate::plan::{Block, Mapped, Want};
use gdb_leak::heap::block::State;
use gdb_leak::memory::Permissions;
use gdb_leak::range::AddressRange;

/// A heap with one large block among small ones, and a mapped block.
fn with_large() -> Built {
    let mut plan = plain(Kind::X86, 36);
    let block = |steps| Block { steps, want: Want::Used };
    plan.main[0].blocks = vec![block(3), block(2000), block(3), block(5), block(0), block(9)];
    plan.mapped = vec![Mapped { pages: 40, align: None, ghost: None, cached: None }; 2];
    build(&plan)
}

fn page_within(built: &Built, size: u64) -> u64 {
    let chunk = built.chunks.iter().find(|chunk| chunk.size >= size).unwrap();
    (chunk.start + PAGE).next_multiple_of(PAGE)
}

#[track_caller]
fn all_are_used(built: &Built) {
    let heap = built.open().heap.unwrap();
    assert_eq!(heap.damages(), 0, "{:?}", heap.damage());
    assert!(heap.checks().iter().all(|check| check.holds), "{:?}", heap.checks());
    for seen in built.expected() {
        let unit = heap.blocks().block_at(seen.block).unwrap();
        assert_eq!((unit.block().start(), unit.block().len()), (seen.block, seen.usable), "{seen:?}");
    }
}

#[test]
fn a_page_of_a_block_with_other_rights_or_missing_ends_no_heap() {
    for permissions in [Permissions::new(false, false, false), Permissions::new(true, false, false)] {
        for lost in [None, Some(false), Some(true)] {
            let mut built = with_large();
            let mapped = built.mapped[0].base + PAGE * 2;
            for page in [page_within(&built, 30_000), mapped] {
                built.image.protect(page, PAGE, permissions);
                if let Some(whole) = lost {
                    built.image.lose(page, whole);
                }
            }
            all_are_used(&built);
        }
    }
}

#[test]
fn a_mapped_block_without_its_first_page_is_rebuilt_from_what_malloc_counts() {
    for whole in [false, true] {
        let mut built = with_large();
        let base = built.mapped.iter().map(|chunk| chunk.base).min().unwrap();
        built.image.protect(base, PAGE, Permissions::new(true, true, false));
        built.image.lose(base, whole);
        all_are_used(&built);
    }
}

#[test]
fn blocks_whose_headers_are_missing_are_unreadable_and_no_damage() {
    let mut plan = plain(Kind::X86, 36);
    let block = |steps| Block { steps, want: Want::Used };
    // A page with the headers of whole blocks, of which there are others before and behind it.
    plan.main[0].blocks = vec![block(3); 400];
    let mut built = build(&plan);
    let page = built.chunks.iter().map(|chunk| chunk.start / PAGE * PAGE).nth(300).unwrap();
    let own = |chunk: &&crate::builder::Chunk| chunk.start / PAGE * PAGE == page;
    let before = built.chunks.iter().filter(|chunk| chunk.start < page).copied().collect::<Vec<_>>();
    let hidden = built.chunks.iter().filter(own).copied().collect::<Vec<_>>();
    let after = built.chunks.iter().filter(|chunk| chunk.start >= page + PAGE).copied().collect::<Vec<_>>();
    assert!(before.len() > 100 && hidden.len() > 50 && after.len() > 10);
    built.image.protect(page, PAGE, Permissions::new(true, true, false));
    built.image.lose(page, false);
    let heap = built.open().heap.unwrap();
    assert_eq!(heap.damages(), 0, "{:?}", heap.damage());
    let units: Vec<_> = heap.blocks().units().map(|unit| (unit.range, unit.state)).collect();
    for chunk in before.iter().chain(&after) {
        let range = AddressRange::with_length(chunk.start, chunk.size).unwrap();
        assert!(units.contains(&(range, chunk.state)), "{chunk:x?}");
    }
    let missing: Vec<_> = units.iter().filter(|(_, state)| *state == State::Unreadable).collect();
    let (first, last) = (hidden.first().unwrap(), hidden.last().unwrap());
    let all = AddressRange::new(first.start, last.end()).unwrap();
    assert_eq!(missing, [&(all, State::Unreadable)]);
}
