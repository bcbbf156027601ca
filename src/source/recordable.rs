//! Whether a program can be recorded: whether a library that is preloaded into it is its malloc.
//!
//! What this does not do: it asks nothing of the libraries that the program needs,
//! and runs nothing.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, getegid, geteuid};
use object::elf;
use object::endian::Endianness;
use object::read::elf::{FileHeader, ProgramHeader, Sym};
use object::{ReadCache, ReadRef};

use crate::error::{Error, reason};
use crate::name::Name;

/// How many scripts may name one another (Linux, `fs/exec.c`, `exec_binprm`).
const MOST_SCRIPTS: usize = 5;
/// What the kernel reads of a file to tell what it is (Linux, `BINPRM_BUF_SIZE`).
const START: u64 = 256;
/// The longest name of an interpreter that is read.
const MOST_NAME: u64 = 4096;

/// A program, and whoever runs it where it is a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recordable {
    /// The file to execute.
    pub program: PathBuf,
    /// Words that stand before the operands, the name of the program first; none where the
    /// program is no script that `env` runs.
    pub words: Vec<Vec<u8>>,
    /// The file that runs in the end: the program, or the interpreter of its script.
    pub file: PathBuf,
}

/// How the program at `path` is executed so that it is recorded; `search` are the folders
/// of `PATH`, for names without a slash.
///
/// # Errors
///
/// [`Error::File`] with the rule, where it cannot be executed or recorded.
pub fn recordable(path: &Path, search: &[PathBuf]) -> Result<Recordable, Error> {
    let Some(path) = find(path, search) else {
        return Err(Error::file(path, "cannot be executed: it is not in PATH"));
    };
    let mut found = Recordable { program: path.clone(), words: Vec::new(), file: PathBuf::new() };
    let mut at = path.clone();
    // What stands before the operands, behind the name of the program.
    let mut before: Vec<Vec<u8>> = Vec::new();
    for _ in 0..MOST_SCRIPTS {
        let start = executable(&at)?;
        if start.starts_with(elf::ELFMAG.as_slice()) {
            program(&at)?;
            return Ok(Recordable { file: at, ..found });
        }
        let Some(line) = start.strip_prefix(b"#!") else {
            return Err(refuse(&at, "it is neither an ELF program nor a script that begins with #!"));
        };
        let words = words(line);
        let Some((interpreter, rest)) = words.split_first() else {
            return Err(refuse(&at, "its first line names no interpreter"));
        };
        let interpreter = PathBuf::from(std::ffi::OsString::from_vec(interpreter.clone()));
        let named = if interpreter.file_name() == Some("env".as_ref()) { by_env(rest) } else { None };
        let Some(named) = named else {
            before = rest.iter().cloned().chain([at.into_os_string().into_vec()]).chain(before).collect();
            at = interpreter;
            continue;
        };
        // `env` is passed over: the recorder leaves the environment of a process when it
        // starts, where the programs that it executes are not to be recorded.
        let name = named.first().map(|name| Path::new(std::ffi::OsStr::from_bytes(name)));
        let runs = name.and_then(|name| find(name, search));
        let Some(runs) = runs else {
            let name = String::from_utf8_lossy(named.first().map_or(&[][..], Vec::as_slice)).into_owned();
            return Err(refuse(&at, &format!("its interpreter {name} is not in PATH")));
        };
        let mut words = named;
        words.push(at.into_os_string().into_vec());
        words.extend(before);
        before = words.iter().skip(1).cloned().collect();
        found = Recordable { program: runs.clone(), words, ..found };
        at = runs;
    }
    Err(refuse(&path, "more scripts run one another than the kernel allows"))
}

/// Where a shell finds a program of that name.
fn find(name: &Path, search: &[PathBuf]) -> Option<PathBuf> {
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Some(name.to_owned());
    }
    let runs = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    search.iter().map(|folder| folder.join(name)).find(runs)
}

fn refuse(path: &Path, rule: &str) -> Error {
    Error::file(path, format!("cannot be recorded: {rule}"))
}

/// The first bytes of a file, if this process may execute it.
fn executable(path: &Path) -> Result<Vec<u8>, Error> {
    let told = |cause: io::Error| Error::file(path, format!("cannot be executed: {}", reason(&cause)));
    let metadata = std::fs::metadata(path).map_err(told)?;
    if !metadata.is_file() {
        return Err(Error::file(path, "cannot be executed: it is not a regular file"));
    }
    access(path, AccessFlags::X_OK).map_err(|cause| told(cause.into()))?;
    if gains_rights(&metadata) {
        return Err(refuse(
            path,
            "it gets the rights of its owner (set-uid, set-gid), and the loader preloads nothing then",
        ));
    }
    let mut start = Vec::new();
    let file = File::open(path)
        .map_err(|cause| refuse(path, &format!("it may be executed and not be read: {}", reason(&cause))))?;
    file.take(START).read_to_end(&mut start).map_err(told)?;
    Ok(start)
}

/// Whether the kernel has the loader be careful: rights that the caller has not.
fn gains_rights(metadata: &Metadata) -> bool {
    const SET_UID: u32 = 0o4000;
    const SET_GID: u32 = 0o2010;
    let mode = metadata.permissions().mode();
    let user = mode & SET_UID != 0 && metadata.uid() != geteuid().as_raw();
    // Without the right to execute, the bit is a lock's.
    let group = mode & SET_GID == SET_GID && metadata.gid() != getegid().as_raw();
    user || group
}

/// The words of a script's first line: as the kernel has it one argument, blanks and all.
fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at(end);
    [interpreter, rest.trim_ascii()].into_iter().filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
}

/// What `env` is to run: its argument, or with `-S` the words of it.
///
/// `None` where it does more than that: sets variables, or reads quotes.
fn by_env(rest: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let argument = rest.first()?;
    let plain = |word: &[u8]| !word.iter().any(|byte| b"='\"\\$".contains(byte));
    let split = argument.strip_prefix(b"-S").map(<[u8]>::trim_ascii);
    let words: Vec<Vec<u8>> = match split {
        Some(words) => words.split(u8::is_ascii_whitespace).map(<[u8]>::to_vec).collect(),
        None => vec![argument.clone()],
    };
    let words: Vec<Vec<u8>> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let named = words.first().is_some_and(|name| !name.starts_with(b"-"));
    (named && words.iter().all(|word| plain(word))).then_some(words)
}

/// Refuses a program into which nothing is preloaded, or whose malloc stays its own.
fn program(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(|cause| Error::file(path, reason(&cause)))?;
    let data = ReadCache::new(file);
    let data = &data;
    if !matches!(object::FileKind::parse(data), Ok(object::FileKind::Elf64)) {
        return Err(refuse(path, "it is a 32-bit program, and the recorder is for x86-64"));
    }
    let broken = |cause: object::Error| refuse(path, &format!("its headers are broken: {cause}"));
    let header = elf::FileHeader64::<Endianness>::parse(data).map_err(broken)?;
    let endian = header.endian().map_err(broken)?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err(refuse(path, "it is for another machine than x86-64"));
    }
    let segments = header.program_headers(endian, data).map_err(broken)?;
    let named = segments.iter().find(|segment| segment.p_type(endian) == elf::PT_INTERP);
    let Some(named) = named else {
        return Err(refuse(path, "it is linked statically, and nothing can be preloaded into it"));
    };
    let length = named.p_filesz(endian).min(MOST_NAME);
    let name = data.read_bytes_at(named.p_offset(endian), length).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    if Name::of_file(name).last_part().starts_with(b"ld-musl") {
        return Err(refuse(path, "its C library is musl, and the recorder is for glibc's malloc"));
    }
    let sections = header.sections(endian, data).map_err(broken)?;
    let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM).map_err(broken)?;
    let own = symbols.iter().any(|symbol| {
        !symbol.is_undefined(endian)
            && symbol.name(endian, symbols.strings()).is_ok_and(|name| name == b"malloc")
    });
    if own {
        return Err(refuse(path, "it defines malloc itself"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(line: &str) -> Vec<String> {
        words(line.as_bytes()).into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
    }

    #[test]
    fn a_first_line_is_an_interpreter_and_one_argument() {
        assert_eq!(spelled(" /bin/sh -e -u \nrest"), ["/bin/sh", "-e -u"]);
        assert_eq!(spelled("/bin/sh"), ["/bin/sh"]);
        assert_eq!(spelled("  \n"), Vec::<String>::new());
    }

    #[test]
    fn env_is_passed_over_where_it_only_finds_a_program() {
        let env = |argument: &str| by_env(&[argument.as_bytes().to_vec()]);
        assert_eq!(env("python3"), Some(vec![b"python3".to_vec()]));
        assert_eq!(env("-S python3  -I"), Some(vec![b"python3".to_vec(), b"-I".to_vec()]));
        assert_eq!(env("A=1"), None);
        assert_eq!(env("-i"), None);
        assert_eq!(env("-S 'a b'"), None);
        assert_eq!(by_env(&[]), None);
    }
}
