//! Read-only views of files: mapped where that is wise, read where it is not.
//!
//! This file holds the only `unsafe` of the crate.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapOptions};
use nix::sys::statfs::{self, FsType};

use crate::error::{Error, reason};
use crate::memory::Buffer;
use crate::range::AddressRange;
use crate::source::aside::{self, Way};
use crate::source::holes::Holes;

/// A file of a fixed length whose bytes can be lent.
#[derive(Debug)]
pub struct FileView {
    path: PathBuf,
    file: Source,
    length: u64,
    mapping: Option<Mmap>,
    holes: Holes,
}

/// Who reads the file.
#[derive(Debug)]
enum Source {
    Here(File),
    /// A process of its own, because its file system may not answer.
    Aside(Arc<aside::File>),
}

/// An open file that is read from one place after another.
#[derive(Debug)]
pub enum Reader {
    /// Read here.
    Here(File),
    /// Read by a process of its own.
    #[allow(private_interfaces)]
    Aside(aside::Cursor),
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Here(file) => file.read(buffer),
            Self::Aside(file) => file.read(buffer),
        }
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Here(file) => file.seek(to),
            Self::Aside(file) => file.seek(to),
        }
    }
}

impl FileView {
    /// Opens a regular file for reading.
    ///
    /// It is mapped unless it lies on a network file system, where a mapping
    /// of a file that another machine cuts short raises SIGBUS with no way to
    /// see it coming, or mapping it went wrong; then views are positioned reads.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when it cannot be opened or is no regular file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // A FIFO would block in open(2) until another process writes to it: look first.
        let refuse = |cause: io::Error| Error::file(path, reason(&cause));
        let metadata = std::fs::metadata(path).map_err(refuse)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(Error::file(path, "is a directory, not a file"));
        }
        if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            return Err(Error::file(path, "is not a regular file; copy it to one first"));
        }
        let file = File::open(path).map_err(refuse)?;
        let length = file.metadata().map_err(refuse)?.len();
        let mapping = if length > 0 && local(&file) { map(&file).ok() } else { None };
        // Another machine is not asked: that takes a while for each hole.
        let holes = if mapping.is_some() { Holes::of(&file, length) } else { Holes::default() };
        if let Some(mapping) = mapping.as_ref().filter(|_| !holes.none()) {
            // What the kernel reads ahead, some MiB for one page, would be holes. Where this is refused
            // only the page cache suffers.
            let _ = mapping.advise(Advice::Random);
        }
        Ok(Self { path: path.to_owned(), file: Source::Here(file), length, mapping, holes })
    }

    /// Opens a file that a target names, which may lie where nothing answers.
    ///
    /// As [`FileView::open`]; but a file system that another process or machine serves is asked
    /// by a process of its own, and given up after two seconds.
    ///
    /// # Errors
    ///
    /// As those of [`FileView::open`], and where the file system does not answer.
    pub fn open_named(path: &Path) -> Result<Self, Error> {
        match aside::way(path).map_err(|cause| Error::file(path, reason(&cause)))? {
            Way::Direct => Self::open(path),
            Way::Aside(file) => {
                let length = file.length();
                let file = Source::Aside(Arc::new(file));
                Ok(Self { path: path.to_owned(), file, length, mapping: None, holes: Holes::default() })
            }
        }
    }

    /// Whether its file system answers: it is read here.
    #[must_use]
    pub fn answers(&self) -> bool {
        matches!(self.file, Source::Here(_))
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes when the file was opened.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// When the file was last written to.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the system will not say.
    pub fn modified(&self) -> Result<std::time::SystemTime, Error> {
        let asked = match &self.file {
            Source::Here(file) => file.metadata().and_then(|metadata| metadata.modified()),
            Source::Aside(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        asked.map_err(|cause| Error::file(&self.path, reason(&cause)))
    }

    /// The length in bytes as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the system will not say.
    pub fn length_now(&self) -> Result<u64, Error> {
        let asked = match &self.file {
            Source::Here(file) => file.metadata().map(|metadata| metadata.len()),
            Source::Aside(file) => Ok(file.length()),
        };
        asked.map_err(|cause| Error::file(&self.path, reason(&cause)))
    }

    /// The same open file, to be read from any place.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn reader(&self) -> io::Result<Reader> {
        match &self.file {
            Source::Here(file) => file.try_clone().map(Reader::Here),
            Source::Aside(file) => Ok(Reader::Aside(aside::Cursor::new(Arc::clone(file)))),
        }
    }

    /// Up to `length` bytes at `offset` as a copy; fewer where the file ends or cannot be read.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut buffer = Buffer::default();
        while let Some(rest) = length.checked_sub(bytes.len() as u64).filter(|rest| *rest > 0) {
            match self.view(offset.saturating_add(bytes.len() as u64), rest, &mut buffer) {
                Ok(read) if !read.is_empty() => bytes.extend_from_slice(read),
                _ => break,
            }
        }
        bytes
    }

    /// Whether the file still has the bytes that it had when it was opened.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when it shrank.
    pub fn recheck(&self) -> Result<(), Error> {
        let length = self.length_now()?;
        if length < self.length {
            let problem = format!("shrank from {} to {length} bytes while it was in use", self.length);
            return Err(Error::file(&self.path, problem));
        }
        Ok(())
    }

    /// Up to `length` bytes at `offset`, lent from the mapping or read into `buffer`.
    ///
    /// Fewer only where the file ends, but at most 1 MiB of a file that is read and 4 MiB of a sparse one.
    ///
    /// # Errors
    ///
    /// The system's, where the file has to be read and cannot be.
    pub fn view<'a>(&'a self, offset: u64, length: u64, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
        const READ: u64 = 1 << 20;
        let length = length.min(self.length.saturating_sub(offset));
        if let Some(mapping) = &self.mapping {
            let length = self.fetched(mapping, offset, length);
            let span = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
            let bytes = span.and_then(|(from, length)| mapping.get(from..from.checked_add(length)?));
            return Ok(bytes.unwrap_or_default());
        }
        let space = buffer.space(usize::try_from(length.min(READ)).unwrap_or_default());
        let read = match &self.file {
            Source::Here(file) => read_at(file, space, offset)?,
            Source::Aside(file) => file.read_at(space, offset)?,
        };
        Ok(space.get(..read).unwrap_or_default())
    }

    /// Where the holes of the file are, as far as that is known.
    #[must_use]
    pub fn holes(&self) -> &Holes {
        &self.holes
    }

    /// How much of `length` bytes at `offset` to lend at once; of a sparse file that is fetched, since the
    /// kernel is asked not to read ahead.
    fn fetched(&self, mapping: &Mmap, offset: u64, length: u64) -> u64 {
        const MOST: u64 = 4 << 20;
        const WORTH: u64 = 8 << 10;
        if self.holes.none() {
            return length;
        }
        let length = length.min(MOST);
        let end = offset.saturating_add(length);
        let data = self.holes.after(offset).map_or(end, AddressRange::start).clamp(offset, end);
        let span = usize::try_from(offset).ok().zip(usize::try_from(data.saturating_sub(offset)).ok());
        if let Some((from, bytes)) = span.filter(|(_, bytes)| *bytes as u64 >= WORTH) {
            let _ = mapping.advise_range(Advice::WillNeed, from, bytes);
        }
        length
    }

    /// The whole file, where it is mapped.
    #[must_use]
    pub fn mapped(&self) -> Option<&[u8]> {
        self.mapping.as_deref()
    }
}

/// Reads until the buffer is full or the file ends.
///
/// # Errors
///
/// The system's, unless some bytes were read before it.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if filled > 0 => break,
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

/// Whether the file lies on a file system of this machine.
fn local(file: &File) -> bool {
    // From linux/magic.h; nix names only some of them.
    const NFS: i64 = 0x6969;
    const SMB: i64 = 0x517b;
    const SMB2: i64 = 0xfe53_4d42;
    const CIFS: i64 = 0xff53_4d42;
    const FUSE: i64 = 0x6573_5546;
    const CEPH: i64 = 0x00c3_6400;
    const AFS: i64 = 0x5346_414f;
    const NINE_P: i64 = 0x0102_1997;
    match statfs::fstatfs(file) {
        Ok(answer) => {
            let FsType(magic) = answer.filesystem_type();
            ![NFS, SMB, SMB2, CIFS, FUSE, CEPH, AFS, NINE_P].contains(&magic)
        }
        Err(_) => false,
    }
}

/// Maps the file read-only.
#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, and its bytes are only ever
    // read as `u8`, for which every value is valid, so a writer elsewhere can at
    // worst make an answer wrong. What could go wrong is a file that becomes
    // shorter: its lost pages raise SIGBUS. `FileView` maps only files of local
    // file systems that are not being written (`core::open` refuses those
    // that are), and every pass asks `recheck` first. What remains is a file cut
    // short within a pass, by a person and on purpose; gdb itself, which maps
    // objects in the same way, shares that fate.
    unsafe { MmapOptions::new().map(file) }
}
