//! Blocks in groups: texts that differ in numbers, and groups of one block.

use gdb_leak::heap::block::{Blocks, Part, Shape, State};
use gdb_leak::heap::groups::{By, Group, Groups, groups, groups_within};
use gdb_leak::heap::wanted::Wanted;
use gdb_leak::pass::Job;
use gdb_leak::source::captured::Captured;
use proptest::prelude::*;

const START: u64 = 0x5555_0000_0000;

/// Blocks in use with these bytes, each as many usable bytes as it has, in units of 16 more.
fn heap(contents: &[Vec<u8>]) -> (Captured, Blocks) {
    let mut part = Part::new(START, Shape { lead: 16, cost: 16 }, Some(0));
    let mut bytes = Vec::new();
    for content in contents {
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(content);
        part.push(START + bytes.len() as u64, State::Used);
    }
    (Captured::new().with(START, &bytes), Blocks::new(vec![part]).0)
}

/// A block of `size` bytes with a text.
fn block(size: usize, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(size, 0);
    bytes
}

struct Found {
    memory: Captured,
    groups: Groups,
}

impl Found {
    fn new(contents: &[Vec<u8>], by: By) -> Self {
        let (memory, blocks) = heap(contents);
        let groups = groups(&memory, &blocks, by, &Wanted::default(), &Job::default()).unwrap();
        Self { memory, groups }
    }

    /// Blocks, text and example of each group, nothing where there is none.
    fn rows(&self) -> Vec<(u64, String, String)> {
        let row = |group: &Group| {
            let (text, example) = group.texts(&self.memory);
            (group.blocks, text.unwrap_or_default(), example.unwrap_or_default())
        };
        self.groups.groups.iter().map(row).collect()
    }
}

fn row(blocks: u64, text: &str, example: &str) -> (u64, String, String) {
    (blocks, text.to_owned(), example.to_owned())
}

#[test]
fn texts_that_differ_in_numbers_are_one_group_and_its_first_is_the_example() {
    let texts: Vec<_> = (7..57).map(|number| block(64, &format!("GET /item/{number} HTTP/1.1"))).collect();
    for by in [By::All, By::Record, By::Text] {
        let expected = row(50, "GET /item/# HTTP/1.1", "GET /item/7 HTTP/1.1");
        assert_eq!(Found::new(&texts, by).rows(), [expected]);
    }
}

#[test]
fn texts_of_two_sizes_are_two_groups_and_the_larger_one_in_bytes_is_the_first() {
    let small = (0..5).map(|number| block(32, &format!("item {number}")));
    let large = (5..9).map(|number| block(64, &format!("item {number}")));
    let texts: Vec<_> = small.chain(large).collect();
    let found = Found::new(&texts, By::All);
    assert_eq!(found.rows(), [row(4, "item #", "item 5"), row(5, "item #", "item 0")]);
    assert_eq!(Found::new(&texts, By::Text).rows(), [row(9, "item #", "item 0")]);
}

#[test]
fn groups_of_one_block_with_equal_size_and_kind_are_one_row() {
    let words = ["lucy", "walks", "diamonds", "diamonds", "with"].map(|text| block(32, text));
    let found = Found::new(&words, By::All);
    assert_eq!(found.rows(), [row(3, "", "lucy"), row(2, "diamonds", "diamonds")]);
    let folded = &found.groups.groups[0];
    assert_eq!((folded.texts, folded.size, folded.bytes), (3, Some(32), 96));
    assert_eq!(folded.sample, [START + 16, START + 64, START + 208]);
    // By text alone they are what was asked for.
    assert_eq!(Found::new(&words, By::Text).rows().len(), 4);
}

/// A word without digits, another one for each number.
fn word(number: usize) -> String {
    let letter = |place: u32| char::from(b'g' + u8::try_from(number / 20_usize.pow(place) % 20).unwrap());
    (0..5).map(letter).collect()
}

#[test]
fn many_texts_of_few_blocks_are_one_row_and_those_that_stand_out_are_not() {
    let few = (0..20_000).flat_map(|number| [word(number), word(number)]);
    let many = (0..7).map(|_| "lost request".to_owned());
    let texts: Vec<_> = few.chain(many).map(|text| block(32, &text)).collect();
    let found = Found::new(&texts, By::All);
    let first = word(0);
    assert_eq!(found.rows(), [row(40_000, "", &first), row(7, "lost request", "lost request")]);
    assert_eq!(found.groups.groups[0].texts, 20_000);
    // Where all have as many blocks, none stands out.
    assert_eq!(Found::new(&texts[..40_000], By::All).rows(), [row(40_000, "", &first)]);
    // As many as are listed one by one.
    assert_eq!(Found::new(&texts[..200], By::All).rows().len(), 100);
}

#[test]
fn texts_beyond_the_bound_are_known_to_be_more() {
    let texts: Vec<_> = (0..400).map(|number| block(32, &word(number))).collect();
    let (memory, blocks) = heap(&texts);
    let found = groups_within(&memory, &blocks, By::All, &Wanted::default(), 300, &Job::default()).unwrap();
    assert_eq!((found.untracked, found.blocks), (100, 400));
    let [group] = &found.groups[..] else { panic!("{:?}", found.groups) };
    // Those beyond the bound are at least one.
    assert_eq!((group.blocks, group.texts, group.more_texts), (400, 301, true));
    assert!(Found::new(&texts, By::All).groups.groups.iter().all(|group| !group.more_texts));
}

#[test]
fn one_block_of_its_size_or_kind_keeps_its_text() {
    let other_kind = [&[1, 0, 0, 0, 0, 0, 0, 0][..], b"walks\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"].concat();
    let texts = [block(32, "lucy"), block(48, "walks"), other_kind];
    let mut rows = Found::new(&texts, By::All).rows();
    rows.sort();
    assert_eq!(rows, [row(1, "lucy", "lucy"), row(1, "walks", "walks"), row(1, "walks", "walks")]);
}

#[test]
fn hex_of_any_letters_is_one_group() {
    // A generator of every 32-bit number in turn (Knuth, The Art of Computer Programming, 3.3.4).
    let next = |number: &u32| Some(number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let numbers = std::iter::successors(Some(1_u32), next).take(20_000);
    let texts: Vec<_> = numbers.map(|number| block(24, &format!("{number:08x}"))).collect();
    assert_eq!(Found::new(&texts, By::All).rows(), [row(20_000, "#", "00000001")]);
    let counted: Vec<_> = (0..20_000).map(|number| block(24, &format!("obj-{number:x}"))).collect();
    assert_eq!(Found::new(&counted, By::All).rows(), [row(20_000, "obj-#", "obj-0")]);
}

/// Texts of few words and few numbers, so that many are alike.
fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let text =
        ("[k-n]{0,2}(item|tree) ([0-9]{1,2}|[0-9a-f]{3}|zoo)( of [0-9])?", prop_oneof![Just(32), Just(48)]);
    proptest::collection::vec(text.prop_map(|(text, size)| block(size, &text)), 1..60)
}

proptest! {
    #![proptest_config(crate::plan::cases(300))]

    #[test]
    fn each_block_is_in_one_group_and_no_two_groups_of_one_block_have_equal_size_and_kind(contents in contents()) {
        let found = Found::new(&contents, By::All);
        let groups = &found.groups.groups;
        prop_assert_eq!(groups.iter().map(|group| group.blocks).sum::<u64>(), contents.len() as u64);
        let bytes: usize = contents.iter().map(Vec::len).sum();
        prop_assert_eq!(groups.iter().map(|group| group.bytes).sum::<u64>(), bytes as u64);
        prop_assert!(groups.is_sorted_by_key(|group| u64::MAX - group.bytes));
        let mut single: Vec<_> = groups.iter().filter(|group| group.blocks == 1).map(|group| group.size).collect();
        single.sort_unstable();
        prop_assert!(single.windows(2).all(|pair| pair[0] != pair[1]));
        for group in groups {
            let (_, example) = group.texts(&found.memory);
            let first = group.sample[0] - START;
            let text = heap(&contents).0;
            let stands = gdb_leak::inspect::text::excerpt(&text, START + first, 0, 64);
            prop_assert_eq!(example, Some(stands));
            prop_assert!(group.sample.is_sorted());
            prop_assert_eq!(group.sample.len() as u64, group.blocks.min(5));
        }
    }

    #[test]
    fn of_one_size_and_kind_a_hundred_rows_are_the_largest(counts in proptest::collection::vec(1_usize..9, 1..400)) {
        let texts = counts.iter().enumerate().flat_map(|(number, count)| vec![word(number); *count]);
        let contents: Vec<_> = texts.map(|text| block(32, &text)).collect();
        let found = Found::new(&contents, By::All);
        let (folded, rows): (Vec<_>, Vec<_>) = found.groups.groups.iter().partition(|group| group.texts > 0);
        prop_assert!(rows.len() <= 100 && folded.len() <= 1);
        let least = rows.iter().map(|group| group.blocks).min().unwrap_or(u64::MAX);
        let hidden: Vec<usize> = counts.iter().copied().filter(|count| (*count as u64) < least).collect();
        let put_together = folded.iter().map(|group| (group.texts, group.blocks)).next();
        // One alone is a row of its own.
        if hidden.len() > 1 {
            prop_assert_eq!(put_together, Some((hidden.len() as u64, hidden.iter().sum::<usize>() as u64)));
        }
        // No more are put together than have to be.
        let without_ones = counts.iter().filter(|count| **count > 1).count();
        prop_assert!(without_ones > 100 || hidden.iter().all(|count| *count == 1));
    }

    #[test]
    fn digits_never_make_a_group(contents in contents(), digits in proptest::collection::vec(0_u32..2000, 60)) {
        let other = |(content, number): (&Vec<u8>, &u32)| {
            let text = String::from_utf8(content.clone()).unwrap();
            let text = text.trim_end_matches('\0');
            let head = text.trim_end_matches(|last: char| last.is_ascii_digit());
            let text = if head == text { text.to_owned() } else { format!("{head}{number}") };
            block(content.len(), &text)
        };
        let others: Vec<Vec<u8>> = contents.iter().zip(&digits).map(other).collect();
        let sizes = |contents: &[Vec<u8>]| {
            let found = Found::new(contents, By::All);
            let mut sizes: Vec<_> = found.groups.groups.iter().map(|group| (group.size, group.sample.clone())).collect();
            sizes.sort();
            sizes
        };
        prop_assert_eq!(sizes(&contents), sizes(&others));
    }
}
