//! Texts that differ in numbers only.

use gdb_leak::inspect::template::{Company, Numbers, Reader, absorbed, template};
use proptest::prelude::*;

/// The words of a text with NUL for each number, by the table of the module's docs.
fn naive(text: &str) -> String {
    open(&marked(text))
}

/// Letters before the digits of a word that may be hex, marked: they do not count.
fn mark(letters: &str) -> String {
    letters.chars().map(|letter| char::from_u32(0xe000 + u32::from(letter)).unwrap()).collect()
}

fn is_marked(character: char) -> bool {
    ('\u{e000}'..'\u{e100}').contains(&character)
}

fn open(words: &str) -> String {
    let plain = |character: char| {
        if is_marked(character) { char::from_u32(u32::from(character) - 0xe000).unwrap() } else { character }
    };
    words.chars().map(plain).collect()
}

fn marked(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for character in text.chars() {
        let joins = |last: &String| inner(last.chars().last().unwrap()) == inner(character);
        if parts.last().is_some_and(joins) {
            parts.last_mut().unwrap().push(character);
        } else {
            parts.push(character.to_string());
        }
    }
    let mut out = String::new();
    let mut at = 0;
    while at < parts.len() {
        let mut end = at + 1;
        let least = if parts.get(at + 1).is_some_and(|part| part == "-") { 5 } else { 3 };
        let joins = |part: &str| if least == 5 { part == "-" } else { part == ":" || part == "::" };
        while hex(&parts[at]) && end + 1 < parts.len() && joins(&parts[end]) && hex(&parts[end + 1]) {
            end += 2;
        }
        let chained = end - at > 2 * (least - 1) && parts[at..end].iter().any(|part| has_digit(part));
        if chained {
            for part in &parts[at..end] {
                out += if hex(part) { "\0" } else { part };
            }
            at = end;
        } else {
            out += &piece(&parts[at]);
            at += 1;
        }
    }
    out
}

fn inner(character: char) -> bool {
    character.is_ascii_alphanumeric() || !character.is_ascii()
}

fn has_digit(part: &str) -> bool {
    part.contains(|character: char| character.is_ascii_digit())
}

fn hex(part: &str) -> bool {
    let of = |letters: &str| part.chars().all(|character| letters.contains(character));
    !part.is_empty() && (of("0123456789abcdef") || of("0123456789ABCDEF"))
}

fn piece(part: &str) -> String {
    let digit = |character: char| character.is_ascii_digit();
    let first = part.find(digit);
    let Some(first) = first else { return part.to_owned() };
    let (letters, rest) = part.split_at(first);
    if hex(part) {
        let word = !letters.is_empty() && rest.chars().all(digit);
        return if word { mark(letters) + "\0" } else { "\0".to_owned() };
    }
    for x in ['x', 'X'] {
        let number = |width: &str| !width.is_empty() && width.chars().all(digit);
        if part.split_once(x).is_some_and(|(width, height)| number(width) && hex(height)) {
            return format!("\0{x}\0");
        }
    }
    let mut head = part.trim_end_matches(|character: char| character.is_ascii_hexdigit());
    if !hex(&part[head.len()..]) {
        head = part;
    }
    let (letters, number) = match part[head.len()..].find(digit) {
        Some(first) => (&part[head.len()..head.len() + first], "\0"),
        None => (&part[head.len()..], ""),
    };
    let mut out = String::new();
    for character in head.chars() {
        if !digit(character) {
            out.push(character);
        } else if !out.ends_with('\0') {
            out.push('\0');
        }
    }
    out + &if number.is_empty() { letters.to_owned() } else { mark(letters) } + number
}

fn hash(text: &str) -> u128 {
    Reader::default().read(text.as_bytes(), usize::MAX).hash
}

fn first(text: &str) -> Option<Numbers> {
    let mut reader = Reader::default();
    let read = reader.read(text.as_bytes(), usize::MAX);
    reader.first(text.as_bytes(), &read)
}

/// What the texts have in common.
fn common(texts: &[&str]) -> String {
    let hashes: Vec<u128> = texts.iter().map(|text| hash(text)).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?} are not alike");
    let Some(mut numbers) = first(texts[0]) else { return texts[0].to_owned() };
    for text in texts {
        numbers.merge(&first(text).unwrap());
    }
    String::from_utf8(template(texts[0].as_bytes(), &numbers)).unwrap()
}

/// Whether a text is its template with numbers in the places of `#`.
fn fits(text: &[u8], template: &[u8]) -> bool {
    let Some((place, rest)) = template.split_first() else { return text.is_empty() };
    let number = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
    let same = text.first() == Some(place) && fits(&text[1..], rest);
    let most = text.iter().take_while(|byte| number(byte)).count();
    same || (*place == b'#' && (1..=most).any(|length| fits(&text[length..], rest)))
}

/// Texts with many numbers and what looks like them.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[0-9]{1,3}",
        3 => "[0-9a-f]{1,6}",
        1 => "[0-9A-F]{1,4}",
        2 => "[a-g]{1,3}",
        1 => "[xXz]",
        2 => "[-:]",
        1 => "[ _/.#é]",
        1 => "::",
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn texts_are_alike_where_a_naive_reading_has_the_same_words(one in texts(), other in texts()) {
        prop_assert_eq!(hash(&one) == hash(&other), naive(&one) == naive(&other));
        // Two random texts are rarely alike; the words themselves are a third.
        let words = naive(&one);
        prop_assert_eq!(hash(&one), hash(&words.replace('\0', "7")), "{:?}", words);
    }

    #[test]
    fn texts_that_differ_in_digits_only_are_alike(
        text in texts(), digits in proptest::collection::vec("[0-9]{1,5}", 30),
    ) {
        let mut digits = digits.iter();
        let mut other = String::new();
        for part in text.chars() {
            if !part.is_ascii_digit() {
                other.push(part);
            } else if !other.ends_with(|last: char| last.is_ascii_digit()) {
                other += digits.next().unwrap();
            }
        }
        prop_assert_eq!(hash(&text), hash(&other));
        let shown = common(&[&text, &other]);
        prop_assert!(fits(text.as_bytes(), shown.as_bytes()), "{}", shown);
        prop_assert!(fits(other.as_bytes(), shown.as_bytes()), "{}", shown);
    }

    #[test]
    fn a_text_alone_is_its_own_template(text in texts()) {
        prop_assert_eq!(common(&[&text, &text]), text);
    }

    #[test]
    fn as_much_of_a_text_counts_as_asked_for_with_each_number_as_one_byte(
        text in texts(), tail in texts(), most in 0_usize..30, cut in any::<proptest::sample::Index>(),
    ) {
        let kept = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect::<Vec<_>>();
        let other = text[..*cut.get(&kept)].to_owned() + &tail;
        let cut = |text: &str| {
            let words = marked(text);
            let mut kept = String::new();
            let mut room = most;
            for character in words.chars() {
                let length = if is_marked(character) { 0 } else { character.len_utf8() };
                let Some(left) = room.checked_sub(length) else { break };
                room = left;
                kept.push(character);
            }
            let whole = kept == words;
            (kept.trim_end_matches(is_marked).to_owned(), whole)
        };
        let (words, whole) = cut(&text);
        let read = Reader::default().read(text.as_bytes(), most);
        prop_assert!(text.is_char_boundary(read.length));
        prop_assert_eq!(read.length == text.len(), whole);
        prop_assert_eq!(read.hash == Reader::default().read(other.as_bytes(), most).hash, open(&words) == open(&cut(&other).0));
    }

    #[test]
    fn the_order_of_texts_changes_no_template(text in texts(), numbers in proptest::collection::vec(0_u16..20, 2..6)) {
        let members: Vec<String> = numbers.iter().map(|number| format!("{text} n{number} x")).collect();
        let mut sorted: Vec<&str> = members.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let same = members.iter().all(|member| *member == members[0]);
        let shown = common(&sorted);
        prop_assert_eq!(&shown, &if same { members[0].clone() } else { format!("{text} n# x") });
        sorted.reverse();
        prop_assert_eq!(common(&sorted), shown);
    }
}

#[test]
fn only_the_numbers_that_differ_are_left_out() {
    let rows: [(&[&str], &str); 14] = [
        (&["GET /item/17 HTTP/1.1", "GET /item/9 HTTP/1.1"], "GET /item/# HTTP/1.1"),
        (&["10.0.0.7:80", "10.0.0.12:80"], "10.0.0.#:80"),
        (&["session 1f of 3", "session 22 of 3", "session a3b of 3"], "session # of 3"),
        (&["at 0x7f12", "at 0xdead"], "at 0x#"),
        (&["utf8", "utf16"], "utf#"),
        (&["face1", "face12"], "face#"),
        (&["5days", "12days"], "#days"),
        (&["node5", "node12", "node5a"], "node#"),
        (&["issue #5", "issue #6"], "issue ##"),
        (&["id 550e8400-e29b-41d4-a716-446655440000", "id deadbeef-face-4add-abad-feedfacecafe"], "id #"),
        // Version 1, by time: what is common to a machine stays.
        (
            &["2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d", "2c5ea4c1-4067-11e9-8bad-9b1deb4d3b7d"],
            "#-4067-11e9-8bad-9b1deb4d3b7d",
        ),
        (&["aa:bb:cc:dd:ee:0f", "00:1b:cc:dd:ee:ff"], "#:#:cc:dd:ee:#"),
        (&["fe80::dead:beef:1", "fe80::cafe:beef:1"], "fe80::#:beef:1"),
        (&["größe 5 m", "größe 17 m"], "größe # m"),
    ];
    for (texts, expected) in rows {
        assert_eq!(common(texts), expected);
    }
}

#[test]
fn words_of_hex_letters_are_no_numbers() {
    for (one, other) in [
        ("added", "faced"),
        ("deadbeef", "feedface"),
        ("a-b-c-d-e", "b-b-c-d-e"),
        ("Ab1", "Ac1"),
        ("bad1", "dad1"),
        ("code5", "node5"),
        ("3.14", "3"),
        ("-3", "3"),
    ] {
        assert_ne!(hash(one), hash(other), "{one} and {other}");
    }
}

#[test]
fn numbers_after_the_sixteenth_are_left_out_together() {
    let counted =
        |last: u32| (0..18).map(|number| format!("{number} ")).collect::<String>() + &last.to_string();
    let shown = common(&[&counted(1), &counted(2)]);
    assert!(shown.ends_with("13 14 # # # #"), "{shown}");
}

/// The groups that `texts` make, each with how often it occurs, and which are absorbed.
fn company(texts: &[(&str, u64)]) -> Vec<(usize, usize)> {
    let numbers: Vec<Option<Numbers>> = texts.iter().map(|(text, _)| first(text)).collect();
    let company = |at: usize| {
        let (count, numbers) = (texts[at].1, numbers[at]?);
        Some(Company { common: 0, count, first: at as u64, key: at, numbers })
    };
    absorbed(|take| (0..texts.len()).filter_map(company).for_each(take))
}

#[test]
fn words_that_may_be_hex_are_numbers_in_the_company_of_many_more() {
    let ids =
        [("id 1f", 80), ("id fa12", 10), ("id deadbeef", 1), ("id bad", 11), ("at face", 1), ("id zoo", 1)];
    assert_eq!(company(&ids), [(1, 0), (2, 0)]);
    // Decimal digits say nothing of hex.
    assert_eq!(company(&[("id 17", 80), ("id bad", 1)]), []);
    // Each word must have a number in hex in its place, or be there in both.
    assert_eq!(company(&[("a 1f", 80), ("a beef", 1), ("be beef", 1)]), [(1, 0)]);
}

#[test]
fn the_first_text_of_a_group_may_be_the_only_one_without_hex() {
    let (mut many, word) = (first("id 17 of 0").unwrap(), first("id fa12 of 3").unwrap());
    let mut reader = Reader::default();
    let read = reader.read(b"id 1f of 2", 64);
    reader.add(&mut many, b"id 1f of 2", &read);
    let company = |(key, count, numbers)| Company { common: 0, count, first: 0, key, numbers };
    let groups = [(0, 80, many), (1, 1, word)];
    assert_eq!(absorbed(|take| groups.into_iter().map(company).for_each(take)), [(1, 0)]);
}

#[test]
fn an_absorbed_word_is_left_out_as_a_whole() {
    let mut numbers = first("id fa12").unwrap();
    numbers.merge(&first("id fa13").unwrap());
    assert_eq!(template(b"id fa12", &numbers), b"id fa#");
    numbers.merge(&first("id 1f").unwrap());
    assert_eq!(template(b"id fa12", &numbers), b"id #");
}

#[test]
fn a_uuid_by_chance_all_letters_but_one_digit_is_one() {
    let uuid = "deadbeef-feed-face-cafe-deadbeefcaf0";
    assert_eq!(common(&[uuid, "00000000-0000-0000-0000-000000000001"]), "#");
}
