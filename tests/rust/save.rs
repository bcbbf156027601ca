//! Output files: what is replaced, what stays, and where bytes go that cannot be taken back.
// What goes wrong in a test is a failed test.
#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use gdb_leak::memory::{Buffer, Memory, Region, View};
use gdb_leak::pass::Job;
use gdb_leak::range::AddressRange;
use gdb_leak::save::{Place, find, remove, writable, write_range, write_text, write_whole};
use gdb_leak::source::captured::Captured;
use gdb_leak::word::WordFormat;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Gid, Uid, chown, geteuid, mkfifo};
use rustix::fs::OFlags;
use tempfile::TempDir;

/// Memory of a process that runs: a page that was never touched is by the time it is asked for again.
struct Running {
    memory: Captured,
    blank: AddressRange,
    asked: AtomicUsize,
}

impl Memory for Running {
    fn word_format(&self) -> WordFormat {
        self.memory.word_format()
    }

    fn regions(&self) -> &[Region] {
        self.memory.regions()
    }

    fn view<'a>(&'a self, range: AddressRange, buffer: &'a mut Buffer) -> View<'a> {
        self.memory.view(range, buffer)
    }

    fn zeros(&self, range: AddressRange) -> u64 {
        if range.start() != self.blank.start() || self.asked.fetch_add(1, Ordering::Relaxed) > 0 {
            return 0;
        }
        self.blank.len()
    }
}

#[test]
fn each_byte_is_in_its_place_also_where_a_page_is_touched_meanwhile() {
    const START: u64 = 0x10_0000;
    const PIECE: usize = 4 << 20;
    let bytes = [vec![1; PIECE], vec![0; 1 << 20], vec![2; PIECE]].concat();
    let blank = AddressRange::with_length(START + PIECE as u64, 1 << 20).unwrap();
    let memory = Running { memory: Captured::new().with(START, &bytes), blank, asked: AtomicUsize::new(0) };
    let folder = folder();
    let path = folder.path().join("dump");
    let range = AddressRange::with_length(START, bytes.len() as u64).unwrap();
    write_range(&memory, range, &path, false, &Job::default()).unwrap();
    assert!(fs::read(&path).unwrap() == bytes, "bytes are in other places");
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn written(path: &Path, replace: bool) -> Result<(), String> {
    write_whole(path, replace, |file| file.write_all(b"new")).map_err(|error| error.to_string())
}

/// What is in a folder, by name.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether a file in this folder may be without a name.
fn unnamed(folder: &Path) -> bool {
    rustix::fs::open(folder, OFlags::TMPFILE | OFlags::WRONLY, rustix::fs::Mode::RUSR).is_ok()
}

fn old(path: PathBuf) -> PathBuf {
    fs::write(&path, "old").unwrap();
    path
}

#[test]
fn a_new_file_of_memory_is_for_its_user_alone_and_one_of_text_for_those_of_the_umask() {
    let folder = folder();
    let (memory, text) = (folder.path().join("memory"), folder.path().join("text"));
    written(&memory, false).unwrap();
    write_text(&text, b"new").unwrap();
    assert_eq!(fs::metadata(&memory).unwrap().mode() & 0o777, 0o600);
    let usual = folder.path().join("usual");
    File::create(&usual).unwrap();
    assert_eq!(fs::metadata(&text).unwrap().mode(), fs::metadata(&usual).unwrap().mode());
}

#[test]
fn a_file_that_exists_is_replaced_only_where_that_is_asked_for() {
    let folder = folder();
    let file = old(folder.path().join("file"));
    assert!(written(&file, false).unwrap_err().contains("exists already; -force replaces it"));
    assert_eq!(fs::read(&file).unwrap(), b"old");
    written(&file, true).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn what_ends_with_an_error_leaves_nothing_and_changes_nothing() {
    let folder = folder();
    let stop = |file: &mut File| {
        file.write_all(b"half")?;
        Err(io::Error::other("stopped"))
    };
    let file = folder.path().join("file");
    write_whole(&file, false, stop).unwrap_err();
    assert_eq!(names(folder.path()), [""; 0]);
    old(file.clone());
    write_whole(&file, true, stop).unwrap_err();
    assert_eq!(fs::read(&file).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn what_is_killed_while_it_writes_leaves_nothing() {
    if let Some(path) = std::env::var_os("GDB_LEAK_KILLED") {
        let written = write_whole(Path::new(&path), true, |file| {
            file.write_all(b"half")?;
            Ok(raise(Signal::SIGKILL)?)
        });
        panic!("lives on: {written:?}");
    }
    let folder = folder();
    if !unnamed(folder.path()) {
        // A file system without O_TMPFILE keeps what has a name already.
        return;
    }
    let file = old(folder.path().join("file"));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_is_killed_while_it_writes_leaves_nothing"])
        .env("GDB_LEAK_KILLED", &file)
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    assert_eq!(names(folder.path()), ["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"old");
}

#[test]
fn nothing_has_a_name_while_it_is_written() {
    let folder = folder();
    let file = folder.path().join("file");
    write_whole(&file, false, |_| {
        // Temporary files of a file system without O_TMPFILE have one.
        let names = names(folder.path());
        let allowed = usize::from(!unnamed(folder.path()));
        assert!(names.len() <= allowed && names.iter().all(|name| name.starts_with(".gdb-leak.")));
        Ok(())
    })
    .unwrap();
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn a_link_stays_and_the_file_that_it_leads_to_is_replaced() {
    let folder = folder();
    fs::create_dir(folder.path().join("other")).unwrap();
    let file = old(folder.path().join("other/file"));
    let (link, second) = (folder.path().join("link"), folder.path().join("second"));
    symlink("other/file", &link).unwrap();
    symlink(&link, &second).unwrap();
    written(&second, true).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(names(folder.path()), ["link", "other", "second"]);
    assert!(link.is_symlink() && second.is_symlink());
    assert!(written(&second, false).unwrap_err().contains("exists already"));
}

#[test]
fn a_link_to_a_file_that_is_not_there_makes_that_file() {
    let folder = folder();
    let link = folder.path().join("link");
    symlink("file", &link).unwrap();
    written(&link, false).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"new");
}

#[test]
fn links_in_a_circle_are_an_error() {
    let folder = folder();
    let link = folder.path().join("link");
    symlink("other", &link).unwrap();
    symlink("link", folder.path().join("other")).unwrap();
    assert!(written(&link, true).unwrap_err().contains("Too many levels of symbolic links"));
}

#[test]
fn another_name_of_the_same_file_keeps_the_old_contents() {
    let folder = folder();
    let file = old(folder.path().join("file"));
    let other = folder.path().join("other");
    fs::hard_link(&file, &other).unwrap();
    written(&file, true).unwrap();
    assert_eq!((fs::read(&file).unwrap(), fs::read(&other).unwrap()), (b"new".into(), b"old".into()));
}

#[test]
fn what_is_not_a_regular_file_stays_what_it_is() {
    let folder = folder();
    let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link"));
    mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/dev/null", &link).unwrap();
    for (path, replace) in [(&pipe, true), (&pipe, false), (&link, true), (&link, false)] {
        assert!(written(path, replace).unwrap_err().contains("is not a regular file"), "{path:?}");
        assert!(matches!(find(path), Ok(Place::Stream)));
    }
    assert!(written(&folder.path().join("."), true).unwrap_err().contains("is a directory"));
    assert!(written(folder.path(), true).unwrap_err().contains("is a directory"));
    assert_eq!(names(folder.path()), ["link", "pipe"]);
}

#[test]
fn a_descriptor_is_found_by_its_number_and_is_never_replaced() {
    let folder = folder();
    // Leads to a regular file by no path.
    let file = File::create(folder.path().join("file")).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    for name in [format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")] {
        assert!(matches!(find(Path::new(&name)), Ok(Place::Descriptor(found)) if found == number), "{name}");
        assert!(written(Path::new(&name), true).unwrap_err().contains("is not a regular file"));
    }
    let link = folder.path().join("link");
    symlink(format!("/proc/self/fd/{number}"), &link).unwrap();
    assert!(matches!(find(&link), Ok(Place::Descriptor(found)) if found == number));
    assert!(written(Path::new("/proc/self/fd/987"), true).unwrap_err().contains("No such file"));
    assert!(written(Path::new("/proc/self/exe"), true).unwrap_err().contains("a process has open"));
}

#[test]
fn nothing_new_is_made_in_dev() {
    assert!(written(Path::new("/dev/stdot"), true).unwrap_err().contains("/dev is for devices"));
    assert!(!Path::new("/dev/stdot").exists());
}

#[test]
fn a_file_keeps_its_mode_its_attributes_and_its_owner() {
    let folder = folder();
    let file = old(folder.path().join("file"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let attribute = rustix::fs::setxattr(&file, "user.kind", b"mine", rustix::fs::XattrFlags::empty());
    if geteuid().is_root() {
        chown(&file, Some(Uid::from_raw(1234)), Some(Gid::from_raw(5678))).unwrap();
    }
    let before = fs::metadata(&file).unwrap();
    written(&file, true).unwrap();
    let after = fs::metadata(&file).unwrap();
    assert_ne!(before.ino(), after.ino());
    assert_eq!((before.mode(), before.uid(), before.gid()), (after.mode(), after.uid(), after.gid()));
    if attribute.is_ok() {
        let mut value = [0; 16];
        assert_eq!(rustix::fs::getxattr(&file, "user.kind", &mut value), Ok(4));
        assert_eq!(&value[..4], b"mine");
    }
}

#[test]
fn what_another_user_has_put_into_a_shared_folder_is_not_followed_and_not_replaced() {
    if !geteuid().is_root() {
        return;
    }
    let folder = folder();
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let (file, link) = (old(shared.join("file")), shared.join("link"));
    let victim = old(folder.path().join("victim"));
    symlink(&victim, &link).unwrap();
    let other = Some(Uid::from_raw(1234));
    chown(&file, other, None).unwrap();
    nix::unistd::fchownat(nix::fcntl::AT_FDCWD, &link, other, None, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
        .unwrap();
    for path in [&file, &link] {
        assert!(written(path, true).unwrap_err().contains("of another user (uid 1234)"), "{path:?}");
    }
    assert_eq!(fs::read(&victim).unwrap(), b"old");
    // Their own.
    chown(&file, Some(Uid::from_raw(0)), None).unwrap();
    written(&file, true).unwrap();
}

#[test]
fn a_file_that_changed_meanwhile_is_left_as_it_is() {
    let folder = folder();
    let file = old(folder.path().join("file"));
    let replaced = write_whole(&file, true, |_| {
        fs::remove_file(&file)?;
        symlink("/dev/null", &file)
    });
    assert!(replaced.unwrap_err().to_string().contains("was changed by another program"));
    assert!(file.is_symlink());
    let new = folder.path().join("new");
    let made = write_whole(&new, false, |_| fs::write(&new, "theirs"));
    assert!(made.unwrap_err().to_string().contains("exists already"));
    assert_eq!(fs::read(&new).unwrap(), b"theirs");
    let other = folder.path().join("other");
    let made = write_whole(&other, true, |_| fs::write(&other, "theirs"));
    assert!(made.unwrap_err().to_string().contains("was made by another program meanwhile"));
    assert_eq!(names(folder.path()), ["file", "new", "other"]);
}

#[test]
fn a_folder_that_is_moved_away_meanwhile_gets_the_file_all_the_same() {
    let folder = folder();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    fs::create_dir(&first).unwrap();
    write_whole(&first.join("file"), false, |_| {
        fs::rename(&first, &second)?;
        symlink("/etc", &first)
    })
    .unwrap();
    assert_eq!(names(&second), ["file"]);
}

#[test]
fn whether_a_file_can_be_written_is_known_without_leaving_one() {
    let folder = folder();
    assert!(matches!(writable(&folder.path().join("file")), Ok(Place::File(_))));
    assert_eq!(names(folder.path()), [""; 0]);
    let missing = writable(&folder.path().join("none/file")).unwrap_err().to_string();
    assert!(missing.contains("No such file or directory"), "{missing}");
    assert!(writable(Path::new("/proc/sys/kernel/core_pattern")).is_err());
}

#[test]
fn removing_takes_the_file_and_leaves_the_link() {
    let folder = folder();
    let (file, link) = (old(folder.path().join("file")), folder.path().join("link"));
    symlink("file", &link).unwrap();
    remove(&link).unwrap();
    assert!(!file.exists() && link.is_symlink());
    remove(Path::new("/dev/null")).unwrap_err();
}
