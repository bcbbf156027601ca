//! Function, file and line of code, against binutils' `addr2line`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gdb_leak::name::Name;
use gdb_leak::source::symbols::{Line, Symbols};
use gdb_leak::source::{Files, Target, open_file, process};
use tempfile::TempDir;

use crate::core_builder::{Builder, X86_64};
use crate::files::strip;
use crate::running::run;

/// The fixture, compiled in a folder of its own, and a target that it is not part of.
struct Built {
    folder: TempDir,
    target: Target,
    symbols: Symbols,
}

impl Built {
    fn new(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lines.cc");
        let mut compiler = Command::new("g++");
        compiler.current_dir(folder.path()).args(["-o", "program", "-Wl,--build-id"]).args(flags);
        run(compiler.arg(source));
        let core = folder.path().join("core");
        fs::write(&core, Builder::new(X86_64).build()).unwrap();
        let files = Files { executable: None, sysroot: Some(folder.path()) };
        let target = open_file(&core, files).unwrap();
        let symbols = Symbols::new(&target);
        Self { folder, target, symbols }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    fn build_id(&self) -> Vec<u8> {
        build_id(&self.program())
    }

    /// All symbols anew: what was read of files before is forgotten.
    fn again(&self) -> Symbols {
        Symbols::new(&self.target)
    }

    fn lines(&self, address: u64) -> Vec<Line> {
        self.again_lines(&self.symbols, address)
    }

    fn again_lines(&self, symbols: &Symbols, address: u64) -> Vec<Line> {
        // Under the sysroot, which is the folder.
        symbols.lines_of_file(&"/program".into(), &self.build_id(), address)
    }

    /// The addresses of all instructions of the program's own functions, before it is stripped.
    fn code(&self) -> Vec<u64> {
        let mut objdump = Command::new("objdump");
        objdump.args(["-d", "--no-show-raw-insn", "-j", ".text"]).arg(self.program());
        let done = objdump.output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        // Binutils count what lies between two functions as of the first.
        let padding = |line: &str| line.contains("nop") || line.contains("xchg   %ax,%ax");
        let address = |line: &str| {
            let place = line.trim().split_once(":\t").filter(|_| !padding(line))?.0;
            u64::from_str_radix(place, 16).ok()
        };
        let code: Vec<u64> = text.lines().filter_map(address).collect();
        assert!(code.len() > 80, "{}", code.len());
        code
    }
}

pub(crate) fn build_id(file: &Path) -> Vec<u8> {
    let done = Command::new("readelf").arg("--notes").arg(file).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let id = text.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap();
    hex::decode(id).unwrap()
}

/// A call as both spell it; `??` where something is not known.
type Spelled = (String, String);

/// What `addr2line -i -f -C` says of each address.
fn by_binutils(file: &Path, code: &[u64]) -> Vec<Vec<Spelled>> {
    let mut asked = Command::new("addr2line")
        .args(["-a", "-i", "-f", "-C", "-e"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = asked.stdin.take().unwrap();
    let addresses = code.to_vec();
    // What is answered has to be read meanwhile.
    let writer = std::thread::spawn(move || {
        for address in addresses {
            writeln!(input, "{address:#x}").unwrap();
        }
    });
    let mut found: Vec<Vec<Spelled>> = Vec::new();
    let mut lines = BufReader::new(asked.stdout.take().unwrap()).lines().map(Result::unwrap);
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            found.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap();
        let place = place.split(" (discriminator").next().unwrap().to_owned();
        found.last_mut().unwrap().push((line, place));
    }
    writer.join().unwrap();
    asked.wait().unwrap();
    found
}

fn spelled(lines: &[Line]) -> Vec<Spelled> {
    let one = |line: &Line| {
        let place = (line.file.clone(), line.line);
        let place = match place {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(file), None) => format!("{file}:?"),
            _ => "??:0".to_owned(),
        };
        (line.function.clone().unwrap_or_else(|| "??".to_owned()), place)
    };
    lines.iter().map(one).collect()
}

/// Only function names, outermost last.
fn functions(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.function.as_deref().unwrap_or("??")).collect()
}

/// Holds every address of code that is the fixture's own to what binutils say.
fn agrees(built: &Built, code: &[u64], expected: &[Vec<Spelled>]) -> usize {
    let symbols = built.again();
    let mut compared = 0;
    for (address, expected) in code.iter().zip(expected) {
        if !expected[0].1.contains("lines.cc") {
            continue;
        }
        compared += 1;
        let found = built.again_lines(&symbols, *address);
        let mut expected = expected.clone();
        if expected.len() > 1 && expected[0].0 == expected.last().unwrap().0 {
            // At the start of a symbol binutils give its name to what was inlined there.
            expected[0].0.clone_from(&spelled(&found)[0].0);
        }
        assert_eq!(spelled(&found), expected, "{address:#x}");
        assert!(found.iter().all(|line| line.module.as_ref().map(Name::path) == Some(&*built.program())));
    }
    compared
}

#[test]
fn every_instruction_has_the_calls_that_binutils_say() {
    for flags in [
        ["-O0", "-gdwarf-5", "-gz=none"],
        ["-O2", "-gdwarf-5", "-gz=none"],
        ["-O2", "-gdwarf-4", "-gz=none"],
        ["-O2", "-gdwarf-5", "-gz=zlib"],
        ["-O2", "-gdwarf-4", "-gz=zlib-gnu"],
    ] {
        let built = Built::new(&flags);
        let code = built.code();
        let expected = by_binutils(&built.program(), &code);
        let compared = agrees(&built, &code, &expected);
        assert!(compared > 60, "{flags:?}: {compared}");
        let deepest = expected.iter().map(Vec::len).max().unwrap();
        assert!(deepest >= 3, "{flags:?}: {deepest}");
    }
}

/// The first address whose calls are `outermost`, `middle`, and at last what they call.
fn inlined(built: &Built, code: &[u64]) -> u64 {
    let deep = |address: &&u64| built.lines(**address).len() == 3;
    *code.iter().find(deep).unwrap()
}

#[test]
fn return_addresses_of_a_process_lead_to_its_calls() {
    let built = Built::new(&["-O2", "-g"]);
    let mut child = Command::new(built.program()).stdout(Stdio::piped()).spawn().unwrap();
    let printed = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let printed: Vec<String> = printed.take_while(|line| line != "READY").collect();
    let target = process::open(child.id().try_into().unwrap(), false).unwrap();
    let symbols = Symbols::new(&target);
    let memory = target.memory.as_ref();
    let found: Vec<Vec<Line>> = printed
        .iter()
        .map(|line| symbols.lines(memory, u64::from_str_radix(&line[2..], 16).unwrap() - 1))
        .collect();
    let heap = memory.regions().iter().find(|region| region.name == "[heap]").unwrap();
    let nowhere = symbols.lines(memory, heap.range.start() + 8);
    let unmapped = symbols.lines(memory, 16);
    child.kill().unwrap();
    child.wait().unwrap();
    let names: Vec<Vec<&str>> = found.iter().map(|lines| functions(lines)).collect();
    assert_eq!(
        names,
        [
            vec!["shapes::Box::Box(int)"],
            vec!["void* shapes::Box::fill<double>(double)"],
            vec!["shapes::(anonymous namespace)::hidden(int*)"],
            vec!["innermost", "middle", "outermost(int*)"],
            // Debug information has a short name, the symbol the whole one.
            vec!["main::{lambda(int*)#1}::operator()(int*) const [clone .isra.0]"],
            vec!["operator new(unsigned long)"],
        ]
    );
    let source = format!("{}/tests/fixtures/lines.cc", env!("CARGO_MANIFEST_DIR"));
    for line in found.iter().flatten() {
        assert_eq!(line.file.as_ref(), Some(&source));
        assert_eq!(line.module.as_ref().map(Name::path), Some(&*built.program()));
    }
    let lines: Vec<u32> = found[3].iter().map(|line| line.line.unwrap()).collect();
    let text = fs::read_to_string(&source).unwrap();
    let texts: Vec<&str> = lines.iter().map(|line| text.lines().nth(*line as usize - 1).unwrap()).collect();
    assert!(texts[0].contains("called_from(of)") && texts[1].contains("innermost("), "{texts:?}");
    assert!(texts[2].contains("middle("), "{texts:?}");
    assert_eq!((nowhere, unmapped), (Vec::new(), Vec::new()));
}

#[test]
fn without_debug_information_the_symbol_names_the_function() {
    let built = Built::new(&["-O2", "-g0", "-rdynamic"]);
    let symbol = |name: &str| {
        let done = Command::new("nm").arg(built.program()).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        let line = text.lines().find(|line| line.ends_with(name)).unwrap();
        u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
    };
    let place = symbol("_Znwm");
    let expected = Line {
        function: Some("operator new(unsigned long)".to_owned()),
        module: Some(built.program().into()),
        ..Line::default()
    };
    assert_eq!(built.lines(place), std::slice::from_ref(&expected));
    let local = symbol("_ZL9outermostPi");
    assert_eq!(functions(&built.lines(local)), ["outermost(int*)"]);
    strip(&built.program());
    // Other modules use the one name, and not the other.
    let symbols = built.again();
    let without = Line { function: None, ..expected.clone() };
    assert_eq!(built.again_lines(&symbols, place), [expected]);
    assert_eq!(built.again_lines(&symbols, local), [without]);
}

#[test]
fn a_file_with_another_build_id_or_none_is_not_believed() {
    let built = Built::new(&["-O2", "-g"]);
    let place = inlined(&built, &built.code());
    let mut id = built.build_id();
    let ask = |symbols: &Symbols, id: &[u8]| symbols.lines_of_file(&"/program".into(), id, place);
    id[0] ^= 1;
    assert_eq!(ask(&built.symbols, &id), []);
    assert_eq!(ask(&built.symbols, &[]), []);
    assert_eq!(built.symbols.lines_of_file(&"/other".into(), &built.build_id(), place), []);
    let unnamed = Built::new(&["-O2", "-g", "-Wl,--build-id=none"]);
    assert_eq!(ask(&unnamed.symbols, &[]), []);
}

#[test]
fn debug_information_that_was_taken_out_is_found() {
    for place in
        ["usr/lib/debug/.build-id/ID", "program.debug", ".debug/program.debug", "usr/lib/debug/program.debug"]
    {
        let built = Built::new(&["-O2", "-g"]);
        let code = built.code();
        let expected = by_binutils(&built.program(), &code);
        let id = hex::encode(built.build_id());
        let named = place.replace("ID", &format!("{}/{}.debug", &id[..2], &id[2..]));
        let debug = built.folder.path().join(&named);
        fs::create_dir_all(debug.parent().unwrap()).unwrap();
        run(Command::new("objcopy").arg("--only-keep-debug").arg(built.program()).arg(&debug));
        strip(&built.program());
        if !place.contains("build-id") {
            let link = format!("--add-gnu-debuglink={named}");
            run(Command::new("objcopy").current_dir(built.folder.path()).arg(link).arg("program"));
        }
        assert!(agrees(&built, &code, &expected) > 60, "{place}");
        // Of another program: its name alone counts for nothing.
        let other = Built::new(&["-O1", "-g"]);
        fs::copy(other.program(), &debug).unwrap();
        let at = code.iter().zip(&expected).find(|(_, calls)| calls.len() == 3).unwrap().0;
        let found = built.again_lines(&built.again(), *at);
        assert_eq!(found, [Line { module: found[0].module.clone(), ..Line::default() }], "{place}");
    }
}

#[test]
fn sections_compressed_with_zstd_are_read() {
    let built = Built::new(&["-O2", "-g"]);
    let code = built.code();
    let expected = by_binutils(&built.program(), &code);
    let mut objcopy = Command::new("objcopy");
    objcopy.current_dir(built.folder.path()).args(["--compress-debug-sections=zstd", "program", "small"]);
    if !objcopy.output().unwrap().status.success() {
        // Binutils 2.40 and later, built with zstd.
        return;
    }
    fs::rename(built.folder.path().join("small"), built.program()).unwrap();
    assert!(agrees(&built, &code, &expected) > 60);
}

#[test]
fn what_dwz_moved_into_a_file_of_its_own_is_read_from_there() {
    let built = Built::new(&["-O2", "-g"]);
    let code = built.code();
    let folder = built.folder.path();
    let expected = by_binutils(&built.program(), &code);
    fs::copy(built.program(), folder.join("other")).unwrap();
    let mut dwz = Command::new("dwz");
    dwz.current_dir(folder).args(["-m", "common", "-M", "/shared", "program", "other"]);
    if !dwz.output().is_ok_and(|done| done.status.success()) {
        // Not every machine has it.
        return;
    }
    // Under the sysroot, which is the folder.
    fs::rename(folder.join("common"), folder.join("shared")).unwrap();
    assert!(agrees(&built, &code, &expected) > 60);
    fs::remove_file(folder.join("shared")).unwrap();
    let at = code.iter().zip(&expected).find(|(_, calls)| calls.len() == 3).unwrap().0;
    let found = built.again_lines(&built.again(), *at);
    // Lines are where they were; of the functions the outermost has a symbol.
    assert_eq!(found.last().unwrap().function.as_deref(), Some("outermost(int*)"));
}

#[test]
fn split_debug_information_leaves_symbols_and_lines() {
    let built = Built::new(&["-O2", "-g", "-gsplit-dwarf"]);
    let code = built.code();
    let source = |line: &Line| line.file.as_ref().is_some_and(|file| file.ends_with("/lines.cc"));
    let found: Vec<Line> = code.iter().flat_map(|address| built.lines(*address)).filter(source).collect();
    let has = |name: &str| found.iter().any(|line| line.function.as_deref() == Some(name));
    assert!(has("operator new(unsigned long)") && has("outermost(int*)") && !has("middle"));
}

#[test]
fn a_damaged_file_is_read_as_far_as_it_makes_sense() {
    let built = Built::new(&["-O2", "-g", "-gz=none"]);
    let code = built.code();
    let whole = fs::read(built.program()).unwrap();
    // Each place behind the code and before the section headers, some thousand of them.
    let sections = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
    let start = whole.windows(5).position(|bytes| bytes == b"GCC: ").unwrap();
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    for _ in 0..150 {
        let mut bytes = whole.clone();
        for _ in 0..8 {
            let at = start + random() as usize % (sections - start);
            bytes[at] = random() as u8;
        }
        fs::write(built.program(), &bytes).unwrap();
        let symbols = built.again();
        for address in code.iter().step_by(7) {
            assert!(!symbols.lines_of_file(&"/program".into(), &build_id_of(&whole), *address).is_empty());
        }
    }
    for length in (start..whole.len()).step_by((whole.len() - start) / 30) {
        fs::write(built.program(), &whole[..length]).unwrap();
        let symbols = built.again();
        for address in code.iter().step_by(7) {
            let _ = symbols.lines_of_file(&"/program".into(), &build_id_of(&whole), *address);
        }
    }
}

/// The build-id in the bytes of a file.
fn build_id_of(bytes: &[u8]) -> Vec<u8> {
    let mark = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];
    let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap() + mark.len();
    bytes[at..at + 20].to_vec()
}

/// A function in which others are inlined, one in the other, a million deep.
const NESTED: &str = r#"
    .text
    .globl main
main:
    xor %eax, %eax
    ret
.Lend:
    .section .debug_abbrev,"",@progbits
    .uleb128 1, 0x11; .byte 1
    .uleb128 0x13, 0x0b, 0x11, 0x01, 0x12, 0x07, 0, 0
    .uleb128 2, 0x2e; .byte 1
    .uleb128 0x03, 0x08, 0x11, 0x01, 0x12, 0x07, 0, 0
    .uleb128 3, 0x1d; .byte 1
    .uleb128 0, 0
    .byte 0
    .section .debug_info,"",@progbits
    .long .Lstop - .Lstart
.Lstart:
    .short 4
    .long 0
    .byte 8
    .uleb128 1
    .byte 0x0c
    .quad main
    .quad .Lend - main
    .uleb128 2
    .asciz "deep"
    .quad main
    .quad .Lend - main
    .fill 1000000, 1, 3
    .fill 1000002, 1, 0
.Lstop:
    .section .note.GNU-stack,"",@progbits
"#;

#[test]
fn functions_nested_without_end_are_not_followed() {
    let built = Built::new(&["-g0"]);
    let source = built.folder.path().join("nested.s");
    fs::write(&source, NESTED).unwrap();
    let mut compiler = Command::new("gcc");
    compiler.current_dir(built.folder.path()).args(["-no-pie", "-Wl,--build-id", "-o", "program"]);
    run(compiler.arg(&source));
    let done = Command::new("nm").arg(built.program()).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let main = text.lines().find(|line| line.ends_with(" main")).unwrap();
    let place = u64::from_str_radix(&main[..16], 16).unwrap();
    assert_eq!(functions(&built.lines(place)), ["main"]);
}
