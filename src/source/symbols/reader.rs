//! The bytes of a section of debug information, as gimli reads them: lent from the mapped file.
//!
//! A file may say anything. Every step that is read is counted, so that no file takes more
//! work or memory than its length allows, and a read fails where whoever asks for it has
//! called itself too often.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use gimli::{Error, Reader, ReaderOffsetId, RunTimeEndian};

use crate::source::file::FileView;

/// Longer names and paths are not read.
const MOST_TEXT: usize = 64 << 10;

/// How much of the stack one question may take: `addr2line` calls itself for each function
/// that was inlined into another, and a file may nest them without end. Threads have 2 MiB
/// or more; code nests some tens.
const MOST_STACK: usize = 1 << 20;

/// What reading may still cost.
#[derive(Debug, Default)]
pub(super) struct Meter {
    left: AtomicU64,
    /// Where the stack was when the question was asked.
    stack: AtomicUsize,
}

impl Meter {
    /// Begins a question, with so many more steps to spend.
    pub(super) fn begin(&self, steps: u64) {
        self.left.store(self.left.load(Ordering::Relaxed).saturating_add(steps), Ordering::Relaxed);
        self.stack.store(stack(), Ordering::Relaxed);
    }

    /// Counts steps; nothing can be read once they are spent.
    #[inline]
    fn spend(&self, steps: u64) -> Result<(), Error> {
        // Only one thread reads at a time: a context is behind a lock.
        let left = self.left.load(Ordering::Relaxed).checked_sub(steps).ok_or(Error::Io)?;
        self.left.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// Fails where the stack has grown too far.
    #[inline]
    fn check_stack(&self) -> Result<(), Error> {
        let grown = self.stack.load(Ordering::Relaxed).abs_diff(stack());
        if grown > MOST_STACK { Err(Error::Io) } else { Ok(()) }
    }
}

/// About where the stack ends now.
#[inline]
fn stack() -> usize {
    let here = 0_u8;
    (&raw const here).addr()
}

/// Where the bytes of sections are.
#[derive(Debug)]
pub(super) enum Bytes {
    /// In a file that is mapped.
    Mapped(FileView),
    /// In a copy: the section is compressed, or its file cannot be mapped.
    Copied(Vec<u8>),
}

impl Bytes {
    #[inline]
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.mapped().unwrap_or_default(),
            Self::Copied(bytes) => bytes,
        }
    }
}

/// What many readers share.
struct Shared {
    bytes: Bytes,
    meter: Arc<Meter>,
}

/// A stretch of a section.
#[derive(Clone)]
pub(super) struct Section {
    shared: Arc<Shared>,
    start: usize,
    end: usize,
    endian: RunTimeEndian,
}

impl Section {
    /// All the bytes.
    pub(super) fn new(bytes: Bytes, meter: &Arc<Meter>, endian: RunTimeEndian) -> Self {
        let end = bytes.get().len();
        Self { shared: Arc::new(Shared { bytes, meter: meter.clone() }), start: 0, end, endian }
    }

    /// `length` of the bytes from `offset` on; nothing where they are not all there.
    pub(super) fn part(&self, offset: u64, length: u64) -> Self {
        let span = || {
            let start = self.start.checked_add(usize::try_from(offset).ok()?)?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= self.end).then_some((start, end))
        };
        let (start, end) = span().unwrap_or((self.start, self.start));
        Self { start, end, ..self.clone() }
    }

    /// The same bytes, numbers read in that order.
    pub(super) fn with_endian(self, endian: RunTimeEndian) -> Self {
        Self { endian, ..self }
    }

    /// The mapped file that the bytes are in.
    pub(super) fn file(&self) -> Option<&FileView> {
        match &self.shared.bytes {
            Bytes::Mapped(file) => Some(file),
            Bytes::Copied(_) => None,
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.shared.bytes.get().get(self.start..self.end).unwrap_or_default()
    }

    /// The place behind the next `length` bytes.
    #[inline]
    fn behind(&self, length: usize) -> Result<usize, Error> {
        let place = self.start.checked_add(length).filter(|place| *place <= self.end);
        place.ok_or_else(|| Error::UnexpectedEof(self.offset_id()))
    }

    /// The text, if it is no longer than any sensible one.
    fn text(&self) -> Result<&[u8], Error> {
        let bytes = self.bytes();
        if bytes.len() > MOST_TEXT {
            return Err(Error::Io);
        }
        self.shared.meter.spend(bytes.len() as u64)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "Section({:#x}-{:#x})", self.start, self.end)
    }
}

impl Reader for Section {
    type Endian = RunTimeEndian;
    type Offset = usize;

    #[inline]
    fn endian(&self) -> RunTimeEndian {
        self.endian
    }

    #[inline]
    fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    #[inline]
    fn empty(&mut self) {
        self.end = self.start;
    }

    #[inline]
    fn truncate(&mut self, length: usize) -> Result<(), Error> {
        self.end = self.behind(length)?;
        Ok(())
    }

    #[inline]
    fn offset_from(&self, base: &Self) -> usize {
        self.start.saturating_sub(base.start)
    }

    #[inline]
    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.start as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let offset = usize::try_from(id.0).ok()?.checked_sub(self.start)?;
        (offset <= self.len()).then_some(offset)
    }

    fn find(&self, byte: u8) -> Result<usize, Error> {
        // A hostile file may ask for the same distant byte again and again.
        const AT_ONCE: u64 = 16;
        let found = memchr::memchr(byte, self.bytes());
        let passed = found.unwrap_or(self.len()) as u64;
        self.shared.meter.spend(passed.div_euclid(AT_ONCE))?;
        found.ok_or_else(|| Error::UnexpectedEof(self.offset_id()))
    }

    #[inline]
    fn skip(&mut self, length: usize) -> Result<(), Error> {
        self.start = self.behind(length)?;
        Ok(())
    }

    #[inline]
    fn split(&mut self, length: usize) -> Result<Self, Error> {
        let end = self.behind(length)?;
        let first = Self { end, ..self.clone() };
        self.start = end;
        Ok(first)
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>, Error> {
        Ok(self.bytes().into())
    }

    fn to_string(&self) -> Result<Cow<'_, str>, Error> {
        std::str::from_utf8(self.text()?).map(Cow::from).map_err(|_| Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>, Error> {
        self.text().map(String::from_utf8_lossy)
    }

    #[inline]
    fn read_slice(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let meter = &self.shared.meter;
        meter.spend(1)?;
        meter.check_stack()?;
        let end = self.behind(buffer.len())?;
        let bytes = self.shared.bytes.get().get(self.start..end);
        buffer.copy_from_slice(bytes.ok_or_else(|| Error::UnexpectedEof(self.offset_id()))?);
        self.start = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(bytes: &[u8], steps: u64) -> Section {
        let meter = Arc::new(Meter::default());
        meter.begin(steps);
        Section::new(Bytes::Copied(bytes.to_vec()), &meter, RunTimeEndian::Little)
    }

    #[test]
    fn a_stretch_reads_as_far_as_it_goes() {
        let whole = section(b"\x01\x02name\0\xff", 100);
        let mut part = whole.part(1, 6);
        assert_eq!(part.read_u8(), Ok(2));
        assert_eq!(part.offset_from(&whole), 2);
        assert_eq!(part.read_null_terminated_slice().unwrap().to_string().unwrap(), "name");
        assert!(part.is_empty() && part.read_u8().is_err() && part.skip(1).is_err());
        assert_eq!(whole.part(1, 8).len(), 0);
        assert_eq!(whole.part(u64::MAX, 1).len(), 0);
        let id = part.offset_id();
        assert_eq!(whole.lookup_offset_id(id), Some(7));
    }

    #[test]
    fn nothing_is_read_once_all_steps_are_spent() {
        let mut few = section(&[0; 64], 10);
        let read = (0..64).take_while(|_| few.read_u8().is_ok()).count();
        assert_eq!(read, 10);
        assert!(few.find(1).is_err());
        assert!(section(&vec![b'a'; MOST_TEXT + 1], u64::MAX).to_string().is_err());
    }

    #[test]
    fn whoever_calls_itself_without_end_reads_nothing() {
        fn nested(section: &mut Section, depth: u32) -> u32 {
            let taken = std::hint::black_box([0_u8; 512]);
            match section.read_u8() {
                Ok(_) => nested(section, depth + 1),
                Err(_) => depth + u32::from(taken[0]),
            }
        }
        let depth = nested(&mut section(&vec![0; 1 << 16], u64::MAX), 0);
        assert!((100..4096).contains(&depth), "{depth}");
    }
}
