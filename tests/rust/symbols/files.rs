//! From which files symbols are taken, and from which never.

use std::fs;
use std::path::Path;
use std::process::Command;

use gdb_leak::source::Files;

use crate::running::{Named, Subject, compile, run};

/// Takes the symbols out of a copy, which has the file's place then: the file itself runs.
pub(crate) fn strip(file: &Path) {
    let copy = file.with_extension("stripped");
    run(Command::new("strip").arg("-o").arg(&copy).arg(file));
    fs::rename(copy, file).unwrap();
}

/// Takes the program and its library away from where the core says that they are.
fn moved_to(subject: &Subject, folder: &Path) {
    let inside = folder.join(subject.folder.path().strip_prefix("/").unwrap());
    fs::create_dir_all(&inside).unwrap();
    for file in [subject.program(), subject.library()] {
        fs::rename(&file, inside.join(file.file_name().unwrap())).unwrap();
    }
}

fn place_debug(file: &Path, root: &Path) {
    let done = Command::new("readelf").arg("--notes").arg(file).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let id = text.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap().to_owned();
    let folder = root.join("usr/lib/debug/.build-id").join(&id[..2]);
    fs::create_dir_all(&folder).unwrap();
    let debug = folder.join(format!("{}.debug", &id[2..]));
    run(Command::new("objcopy").arg("--only-keep-debug").arg(file).arg(&debug));
}

#[test]
fn the_program_given_with_a_core_has_the_symbols() {
    let subject = Subject::start(&[]);
    let core = subject.core(|_| ());
    let elsewhere = tempfile::tempdir().unwrap();
    moved_to(&subject, elsewhere.path());
    assert_eq!(Named::core(&core, Files::default()).spelled(subject.at("changed")), "");
    let program = elsewhere.path().join(subject.program().strip_prefix("/").unwrap());
    let named = Named::core(&core, Files { executable: Some(&program), sysroot: None });
    assert_eq!(named.spelled(subject.at("zeroed")), "zeroed+0 .bss program");
    assert_eq!(named.symbol(subject.at("zeroed")).unwrap().module, program.to_str().unwrap());
    assert_eq!(named.spelled(subject.at("hidden")), "");
}

#[test]
fn files_under_the_sysroot_have_the_symbols() {
    let subject = Subject::start(&[]);
    let core = subject.core(|_| ());
    let root = tempfile::tempdir().unwrap();
    moved_to(&subject, root.path());
    let named = Named::core(&core, Files { executable: None, sysroot: Some(root.path()) });
    assert_eq!(named.spelled(subject.at("zeroed")), "zeroed+0 .bss program");
    assert_eq!(named.spelled(subject.at("hidden")), "library_hidden+0 .data libsymbols.so");
}

#[test]
fn a_program_that_was_built_again_names_nothing() {
    let subject = Subject::start(&[]);
    let core = subject.core(|_| ());
    fs::remove_file(subject.program()).unwrap();
    fs::remove_file(subject.library()).unwrap();
    // At the same addresses under other names.
    let id = format!("-Wl,--build-id=0x{}", "5a".repeat(20));
    compile(subject.folder.path(), &["-Dzeroed=emptied", "-Dlibrary_hidden=library_secret", &id]);
    let named = Named::core(&core, Files { executable: Some(&subject.program()), sysroot: None });
    for place in subject.places.keys() {
        assert_eq!(named.spelled(subject.at(place)), "", "{place}");
    }
    // The system still has the files of a process, the libraries for root only.
    let live = subject.live();
    assert_eq!(live.spelled(subject.at("zeroed")), "zeroed+0 .bss program (deleted)");
    let library = live.spelled(subject.at("hidden"));
    let expected = if subject.maps_files() { "library_hidden+0 .data libsymbols.so (deleted)" } else { "" };
    assert_eq!(library, expected);
}

#[test]
fn a_file_with_the_build_id_and_other_addresses_names_nothing() {
    let id = format!("-Wl,--build-id=0x{}", "5a".repeat(20));
    let subject = Subject::start(&[&id]);
    let core = subject.core(|_| ());
    fs::remove_file(subject.program()).unwrap();
    fs::remove_file(subject.library()).unwrap();
    compile(subject.folder.path(), &[&id, "-Wl,-z,noseparate-code"]);
    assert_eq!(Named::core(&core, Files::default()).spelled(subject.at("zeroed")), "");
}

#[test]
fn without_a_build_id_no_file_is_believed() {
    let subject = Subject::start(&["-Wl,--build-id=none"]);
    assert_eq!(subject.live().spelled(subject.at("changed")), "");
}

#[test]
fn a_stripped_file_has_the_names_that_other_modules_use() {
    let subject = Subject::start(&["-s"]);
    let live = subject.live();
    assert_eq!(live.spelled(subject.at("again")), "library_table+0 .data libsymbols.so");
    // The linker exports what the library may want of the program, and the copies.
    assert_eq!(live.spelled(subject.at("copied")), "stdout+0 .bss program");
    for place in ["hidden", "zeros", "local", "zeroed", "fixed", "code"] {
        let found = live.symbol(subject.at(place));
        assert!(found.is_none(), "{place}: {found:?}");
    }
}

#[test]
fn symbols_that_were_taken_out_are_found_by_the_build_id() {
    let subject = Subject::start(&[]);
    let core = subject.core(|_| ());
    let root = tempfile::tempdir().unwrap();
    moved_to(&subject, root.path());
    let inside = root.path().join(subject.folder.path().strip_prefix("/").unwrap());
    for name in ["program", "libsymbols.so"] {
        place_debug(&inside.join(name), root.path());
        strip(&inside.join(name));
    }
    let files = Files { executable: None, sysroot: Some(root.path()) };
    let named = Named::core(&core, files);
    assert_eq!(named.spelled(subject.at("zeroed")), "zeroed+0 .bss program");
    assert_eq!(named.spelled(subject.at("hidden")), "library_hidden+0 .data libsymbols.so");
    fs::remove_file(inside.join("program")).unwrap();
    let without = Named::core(&core, files);
    assert_eq!(without.spelled(subject.at("zeroed")), "zeroed+0 .bss program");
    // That of another program, though its name says otherwise.
    let debug = root.path().join("usr/lib/debug");
    let found = |name: &str| {
        let done = Command::new("grep").args(["-rl", name]).arg(&debug).output().unwrap();
        String::from_utf8(done.stdout).unwrap().lines().next().unwrap().to_owned()
    };
    fs::copy(found("library_hidden"), found("of_rust")).unwrap();
    assert_eq!(Named::core(&core, files).spelled(subject.at("zeroed")), "");
}

#[test]
fn a_file_that_is_cut_or_damaged_names_rightly_or_not_at_all() {
    let subject = Subject::start(&[]);
    let core = subject.core(|_| ());
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("program");
    let whole = fs::read(subject.program()).unwrap();
    fs::remove_file(subject.program()).unwrap();
    let named = |bytes: &[u8]| {
        fs::write(&broken, bytes).unwrap();
        Named::core(&core, Files { executable: Some(&broken), sysroot: None }).spelled(subject.at("zeroed"))
    };
    assert_eq!(named(&whole), "zeroed+0 .bss program");
    for length in (0..whole.len()).step_by(whole.len() / 40) {
        let found = named(&whole[..length]);
        assert!(found.is_empty(), "{length}: {found}");
    }
    // Section headers that lie outside, tables that do, names that do.
    let sections = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
    let kind = |header: &[u8]| u32::from_le_bytes(header[4..8].try_into().unwrap());
    for outside in [whole.len() as u64 - 8, u64::MAX, u64::MAX / 2, 1 << 40] {
        let mut bytes = whole.clone();
        bytes[40..48].copy_from_slice(&outside.to_le_bytes());
        assert_eq!(named(&bytes), "");
        for (field, wanted) in [(24, 2), (32, 2), (24, 3), (32, 3)] {
            let mut bytes = whole.clone();
            for header in bytes[sections..].chunks_exact_mut(64) {
                // SHT_SYMTAB and SHT_STRTAB: where they lie, and how long they are.
                if kind(header) == wanted || (wanted == 2 && kind(header) == 11) {
                    header[field..field + 8].copy_from_slice(&outside.to_le_bytes());
                }
            }
            let found = named(&bytes);
            assert!(
                found.is_empty() || found == "zeroed+0 .bss program" || found == "zeroed+0 - program",
                "{found}"
            );
        }
    }
}
