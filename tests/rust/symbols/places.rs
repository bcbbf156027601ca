//! Which symbol is at which address.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use gdb_leak::source::Files;

use crate::running::{Mapping, Named, Subject};

const EXPECTED: [(&str, &str); 13] = [
    ("changed", "changed+0 .data program"),
    ("zeroed", "zeroed+0 .bss program"),
    ("fixed", "fixed+0 .data.rel.ro program"),
    ("local", "calls+0 .data program"),
    ("mangled", "shape::registry+0 .data program"),
    ("of_rust", "leak::TABLE+0 .data program"),
    ("vtable", "vtable for Shape+0 .data program"),
    ("copied", "stdout+0 .bss program"),
    ("shared", "library_table+0 .bss program"),
    ("hidden", "library_hidden+0 .data libsymbols.so"),
    ("zeros", "library_zeroed+0 .bss libsymbols.so"),
    ("again", "library_table+0 .data libsymbols.so"),
    ("code", "main+0 .text program"),
];

fn expect_all(named: &Named, subject: &Subject) {
    for (place, expected) in EXPECTED {
        assert_eq!(named.spelled(subject.at(place)), expected, "{place}");
    }
}

#[test]
fn a_process_and_its_core_name_variables_of_every_section() {
    let subject = Subject::start(&[]);
    let live = subject.live();
    expect_all(&live, &subject);
    assert_eq!(live.symbol(subject.at("changed")).unwrap().module, subject.program().to_str().unwrap());
    expect_all(&Named::core(&subject.core(|_| ()), Files::default()), &subject);
}

#[test]
fn a_library_whose_data_is_mapped_from_its_first_page_is_named_all_the_same() {
    let subject = Subject::start(&["-Wl,-z,noseparate-code,-z,norelro"]);
    let library = subject.library();
    let first = |mapping: &Mapping| {
        mapping.offset == 0 && Path::new(&mapping.name) == library && mapping.permissions.contains('w')
    };
    assert!(subject.mappings().iter().any(first), "no data on the first page: nothing is tested");
    expect_all(&subject.live(), &subject);
}

#[test]
fn a_program_at_fixed_addresses_is_named() {
    let subject = Subject::start(&["-no-pie"]);
    assert!(subject.at("changed") < 1 << 32);
    expect_all(&subject.live(), &subject);
}

#[test]
fn an_address_inside_counts_from_the_start_and_the_byte_behind_is_not_part() {
    let subject = Subject::start(&[]);
    let live = subject.live();
    for (place, (start, length)) in &subject.places {
        let Some(first) = live.symbol(*start).filter(|_| place != "code") else { continue };
        let last = live.symbol(start + length - 1).unwrap();
        assert_eq!((&last.name, last.offset), (&first.name, length - 1), "{place}");
        let behind = live.symbol(start + length);
        assert!(behind.is_none_or(|behind| behind.name != first.name), "{place}");
    }
}

#[test]
fn what_is_no_module_has_no_symbols() {
    let subject = Subject::start(&[]);
    for named in [subject.live(), Named::core(&subject.core(|_| ()), Files::default())] {
        for place in ["flat", "behind", "heap", "own"] {
            assert_eq!(named.spelled(subject.at(place)), "", "{place}");
        }
        assert_eq!(named.spelled(0), "");
        assert_eq!(named.spelled(u64::MAX), "");
    }
}

#[test]
fn bytes_between_two_variables_belong_to_neither() {
    let subject = Subject::start(&[]);
    let (odd, length) = subject.places["odd"];
    assert_ne!(odd + length, subject.at("mangled"), "no gap: nothing is tested");
    assert_eq!(subject.live().spelled(odd + length - 1), "odd+4 .data program");
    // Names without a size, as __dso_handle, stand before them in the section.
    assert_eq!(subject.live().spelled(odd + length), "");
}

#[test]
fn a_name_without_a_size_reaches_to_the_end_of_its_section() {
    let subject = Subject::start(&[]);
    let live = subject.live();
    let label = subject.at("label");
    assert_eq!(subject.at("unnamed"), label + 64, "nothing follows: nothing is tested");
    assert_eq!(live.spelled(label), "begins+0 labelled program");
    assert_eq!(live.spelled(label + 63), "begins+63 labelled program");
    assert_eq!(live.spelled(label + 64), "");
    assert_eq!(live.spelled(label + 68), "");
}

#[test]
fn a_region_that_is_of_another_file_or_place_of_it_has_no_symbols() {
    let subject = Subject::start(&[]);
    let main = subject.at("code");
    for (name, offset) in [("/elsewhere", 0), ("", 0x1000)] {
        let core = subject.core(|mapping| {
            if (mapping.start..mapping.end).contains(&main) {
                mapping.offset += offset;
                mapping.name = if name.is_empty() { mapping.name.clone() } else { name.to_owned() };
            }
        });
        let named = Named::core(&core, Files::default());
        assert_eq!(named.spelled(main), "");
        assert_eq!(named.spelled(subject.at("changed")), "changed+0 .data program");
    }
}

#[test]
fn code_that_was_moved_to_large_pages_is_named() {
    let subject = Subject::start(&[]);
    let main = subject.at("code");
    let core = subject.core(|mapping| {
        if (mapping.start..mapping.end).contains(&main) {
            mapping.name.clear();
        }
    });
    assert_eq!(Named::core(&core, Files::default()).spelled(main), "main+0 .text program");
}

#[test]
fn a_heap_in_one_region_with_the_bss_has_no_symbols() {
    const MORE: u64 = 1 << 20;
    let subject = Subject::start(&[]);
    let (zeroed, length) = subject.places["zeroed"];
    let bss_end =
        subject.mappings().into_iter().find(|mapping| mapping.end > zeroed + length / 2).unwrap().end;
    // Only the list of regions tells them apart; what lies there is of no matter.
    let mut core = subject.core(|_| ());
    let table = u64::from_le_bytes(core[32..40].try_into().unwrap()) as usize;
    let count = u16::from_le_bytes(core[56..58].try_into().unwrap()) as usize;
    let mut grown = 0;
    for header in core[table..][..count * 56].chunks_exact_mut(56) {
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let (start, size) = (word(16), word(40));
        if start + size == bss_end {
            header[40..48].copy_from_slice(&(size + MORE).to_le_bytes());
            grown += 1;
        }
    }
    assert_eq!(grown, 1);
    let named = Named::core(&core, Files::default());
    assert_eq!(named.spelled(zeroed + length - 1), "zeroed+1048575 .bss program");
    assert!(named.regions().iter().any(|region| region.range.contains(bss_end + MORE - 1)));
    assert_eq!(named.spelled(bss_end), "");
    assert_eq!(named.spelled(bss_end + MORE - 1), "");
}

/// A symbol as `nm` lists it.
struct Listed {
    start: u64,
    name: String,
    section: String,
}

/// The variables and functions that `nm` lists.
fn nm(path: &Path, exported: bool) -> Vec<Listed> {
    let mut command = Command::new("nm");
    command.args(["--format=sysv", "--defined-only", "--demangle"]);
    if exported {
        command.arg("--dynamic");
    }
    let text = String::from_utf8(command.arg(path).output().unwrap().stdout).unwrap();
    let listed = |line: &str| {
        let words: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, start, _, "OBJECT" | "FUNC", _, _, section] = words.as_slice() else { return None };
        let start = u64::from_str_radix(start, 16).unwrap();
        let name = name.split('@').next().unwrap().to_owned();
        // A constant is at no place, and the end of a section no part of it.
        let inside = section.starts_with('.') && name != "__TMC_END__";
        inside.then(|| Listed { start, name, section: (*section).to_owned() })
    };
    text.lines().filter_map(listed).collect()
}

#[test]
fn every_symbol_that_nm_lists_is_found_at_its_address() {
    let subject = Subject::start(&[]);
    let live = subject.live();
    let mappings = subject.mappings();
    let libc = mappings.iter().find(|mapping| mapping.name.ends_with("/libc.so.6")).unwrap();
    let program = subject.program();
    let mut asked = 0;
    for (path, exported) in [(program.as_path(), false), (Path::new(&libc.name), true)] {
        // The program's file is mapped once more to be read, at a higher address.
        let base = mappings.iter().find(|mapping| Path::new(&mapping.name) == path).unwrap().start;
        let mut names: BTreeMap<u64, Vec<Listed>> = BTreeMap::new();
        for listed in nm(path, exported) {
            names.entry(listed.start).or_default().push(listed);
        }
        for (start, names) in names {
            let all: Vec<&str> = names.iter().map(|listed| listed.name.as_str()).collect();
            let found = live.symbol(base + start);
            let found = found.unwrap_or_else(|| panic!("{start:#x}: nothing, nm has {all:?}"));
            let same = |name: &&str| match name.strip_prefix(&found.name) {
                // What is left out on purpose: the number of `calls.0`, a hash of Rust.
                Some(rest) => rest.is_empty() || rest.starts_with('.') || rest.starts_with("::h"),
                None => false,
            };
            assert!(all.iter().any(same), "{start:#x}: {found:?} is none of {all:?}");
            assert_eq!(found.section.as_ref(), Some(&names[0].section), "{found:?}");
            assert_eq!(found.offset, 0, "{start:#x}: {found:?}");
            asked += 1;
        }
    }
    assert!(asked > 2000, "only {asked}");
}
