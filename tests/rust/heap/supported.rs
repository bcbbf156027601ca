//! Versions of glibc whose heaps are not walked, known by their structures or by a name.

use crate::builder::{Built, build};
use crate::cases::plain;
use crate::figures::{ERAS, Kind};
use crate::plan::{Mapped, Want};
use gdb_leak::heap;
use gdb_leak::memory::Memory;
use gdb_leak::pass::Job;

fn refused(built: &Built) -> Option<String> {
    let answer = built.open();
    let told = heap::refused(answer.memory.as_ref(), &Job::default()).unwrap();
    assert_eq!(told.is_some(), answer.heap.is_none(), "{told:?}");
    told
}

fn with_mapped(kind: Kind, minor: u32, chunks: usize) -> Built {
    let mut plan = plain(kind, minor);
    plan.mapped = vec![Mapped { pages: 40, align: None, ghost: None, cached: None }; chunks];
    plan.main[0].blocks.push(crate::plan::Block { steps: 3, want: Want::Fast });
    build(&plan)
}

#[test]
fn a_heap_of_2_5_to_2_14_is_refused_by_its_structures() {
    for kind in [Kind::X86, Kind::I386] {
        for minor in [5, 9, 12, 14] {
            for chunks in [0, 3] {
                let told = refused(&with_mapped(kind, minor, chunks));
                let told = told.unwrap_or_else(|| panic!("{kind:?} 2.{minor} is walked"));
                assert_eq!(
                    told,
                    "glibc 2.14 or older (by its structures) is too old: heaps of glibc 2.17 to 2.44 can be read"
                );
            }
        }
    }
}

#[test]
fn no_heap_of_2_17_or_newer_is_refused() {
    for kind in [Kind::X86, Kind::S390x, Kind::I386, Kind::Arm] {
        for minor in ERAS {
            for chunks in [0, 1, 3] {
                assert_eq!(refused(&with_mapped(kind, minor, chunks)), None, "{kind:?} 2.{minor}");
            }
        }
    }
}

#[test]
fn what_a_heap_was_does_not_make_it_an_old_one() {
    // As many chunks mapped at a time as a page has bytes.
    let mut built = with_mapped(Kind::X86, 17, 1);
    let figures = built.target.params();
    built.image.put(built.params + figures.n_mmaps + 8, 4096, 4);
    assert_eq!(refused(&built), None);
}

#[test]
fn a_file_names_the_version_where_no_banner_does() {
    let cases = [
        ("/lib64/libc-2.12.so", 12, None),
        ("/lib64/libc-2.16.so", 17, None),
        ("/lib64/libc-2.17.so", 17, Some("2.17")),
        ("/usr/lib/libc-2.31.so", 30, Some("2.31")),
        ("/usr/lib/libc.so.6", 17, Some("2.17 to 2.22")),
    ];
    for (path, minor, version) in cases {
        let mut built = with_mapped(Kind::X86, minor, 1);
        built.image.rename("/usr/lib/libc.so.6", path);
        let answer = built.open();
        let told = heap::refused(answer.memory.as_ref(), &Job::default()).unwrap();
        assert_eq!(answer.heap.as_ref().map(|heap| heap.version()).as_deref(), version, "{path}");
        assert_eq!(told.is_some(), version.is_none(), "{path}");
        if let (Some(told), Some(named)) = (told, path.strip_prefix("/lib64/libc-")) {
            let named = named.trim_end_matches(".so");
            assert!(told.starts_with(&format!("glibc {named} (by its file's name) is too old")), "{told}");
        }
    }
}

#[test]
fn a_banner_names_an_old_version_and_one_that_is_newer_than_any_known() {
    for (banner, minor, refused) in [("2.16", 17, true), ("2.17", 17, false), ("2.99", 43, false)] {
        let mut built = with_mapped(Kind::X86, minor, 1);
        let text = format!("GNU C Library (test) stable release version {banner}.\n");
        built.image.constants("/usr/lib/libc.so.6", text.as_bytes());
        let answer = built.open();
        let told = heap::refused(answer.memory.as_ref(), &Job::default()).unwrap();
        assert_eq!(told.is_some(), refused, "{told:?}");
        assert!(!answer.memory.regions().is_empty());
        if let Some(heap) = answer.heap {
            let newer = heap.notes().iter().any(|note| note.contains("newer than 2.44"));
            assert_eq!(newer, banner == "2.99", "{:?}", heap.notes());
        }
    }
}
