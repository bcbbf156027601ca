//! Blocks: one by one, and in groups.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::error::Error;
use crate::heap::allocator::Allocator;
use crate::heap::block::{State, Unit};
use crate::heap::content::Content;
use crate::heap::groups::{self, By};
use crate::heap::listed;
use crate::heap::recorded::Recorded;
use crate::heap::wanted::{Label, Labels, Wanted};
use crate::range::AddressRange;

use super::leak::Check;
use super::recording::Recording;

/// One block, or what else the allocator keeps there.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
#[derive(Clone)]
pub(super) struct Block {
    index: usize,
    /// Where the block starts, and how many bytes of it the program may use.
    address: u64,
    size: u64,
    /// `used`, `free`, or no block: `top`, `overhead`, `foreign`, `damaged`.
    state: &'static str,
    /// `used`, `allocator`, `tcache` and so on.
    list: &'static str,
    /// Where its unit lies, header included.
    start: u64,
    end: u64,
    arena: Option<u64>,
}

impl Block {
    pub(super) fn new(heap: &dyn Allocator, unit: &Unit) -> Self {
        let block = if unit.state.block() { unit.block() } else { unit.range };
        Self {
            index: unit.index,
            address: block.start(),
            size: block.len(),
            state: word(unit.state),
            list: unit.state.name(),
            start: unit.range.start(),
            end: unit.range.end(),
            arena: arena(heap, unit.arena),
        }
    }
}

fn arena(heap: &dyn Allocator, number: Option<u32>) -> Option<u64> {
    let number = usize::try_from(number?).ok()?;
    heap.arenas().get(number).map(|arena| arena.address)
}

fn word(state: State) -> &'static str {
    if state.used() {
        "used"
    } else if state.free() {
        "free"
    } else {
        state.name()
    }
}

/// A group of blocks.
#[pyclass(frozen, get_all, module = "gdb_leak._native")]
#[derive(Clone)]
pub(super) struct Group {
    size: Option<u64>,
    kind: Option<&'static str>,
    text: Option<String>,
    example: Option<String>,
    /// How many texts there are where the smallest groups were put together; else zero.
    texts: u64,
    /// Whether there are more that were not distinguished.
    more_texts: bool,
    arena: Option<u64>,
    blocks: u64,
    bytes: u64,
    sample: Vec<u64>,
    /// The number of the stack that allocated them, where they are grouped by it and it is known.
    stack: Option<u32>,
}

/// Groups of blocks, those with the most bytes first; rows are made when asked for.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Groups {
    pub(super) found: groups::Groups,
    pub(super) heap: Arc<dyn Allocator>,
    pub(super) memory: Arc<dyn crate::memory::Memory>,
}

#[pymethods]
impl Groups {
    #[getter]
    fn blocks(&self) -> u64 {
        self.found.blocks
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.found.bytes
    }

    #[getter]
    fn untracked(&self) -> u64 {
        self.found.untracked
    }

    fn __len__(&self) -> usize {
        self.found.groups.len()
    }

    #[pyo3(signature = (limit = None))]
    fn rows(&self, limit: Option<usize>) -> Vec<Group> {
        let group = |group: &groups::Group| {
            let (text, example) = listed::texts(self.memory.as_ref(), self.heap.blocks(), group);
            Group {
                size: group.size,
                kind: group.kind.map(Content::name),
                text,
                example,
                texts: group.texts,
                more_texts: group.more_texts,
                arena: arena(self.heap.as_ref(), group.arena),
                blocks: group.blocks,
                bytes: group.bytes,
                sample: group.sample.clone(),
                stack: Some(group.stack).filter(|stack| *stack != 0),
            }
        };
        self.found.groups.iter().take(limit.unwrap_or(usize::MAX)).map(group).collect()
    }
}

/// What is known of a unit: whether it is lost, where that matters, and old enough; its stack.
pub(super) fn label(
    unit: &Unit,
    lost: Option<&Check>,
    recording: Option<&Recording>,
    newest: Option<i64>,
    by_stack: bool,
) -> Option<Label> {
    let wanted = lost.is_none_or(|check| check.lost(unit));
    let recorded = match recording {
        Some(recording) => recording.recorded.label(unit, newest),
        None => newest.is_none().then(Label::default),
    };
    let label = recorded.filter(|_| wanted)?;
    Some(if by_stack { label } else { Label::default() })
}

pub(super) fn wanted<'w>(
    free: Option<bool>,
    size: Option<u64>,
    kind: Option<&str>,
    within: Option<Vec<(u64, u64)>>,
    labels: Option<&'w Labels<'w>>,
) -> PyResult<Wanted<'w>> {
    let kind = kind.map(|kind| Content::from_name(kind).ok_or_else(|| unknown("-kind", kind))).transpose()?;
    let within = within.unwrap_or_default().into_iter().map(|(start, end)| AddressRange::new(start, end));
    let within = AddressRange::merge(within.collect::<Result<_, _>>()?);
    Ok(Wanted { free, size, kind, within, labels })
}

pub(super) fn by_name(name: &str) -> PyResult<By> {
    Ok(match name {
        "all" => By::All,
        "size" => By::Size,
        "kind" => By::Kind,
        "text" => By::Text,
        "arena" => By::Arena,
        "stack" => By::Stack,
        other => return Err(unknown("-by", other).into()),
    })
}

pub(super) fn unknown(thing: &'static str, value: &str) -> Error {
    Error::Request { thing, value: value.to_owned(), rule: "is unknown".to_owned() }
}

/// A block, what it holds, and the bytes that were asked for.
type ListedRow = (Block, Option<&'static str>, Option<u64>);

/// Blocks one by one; rows are made when asked for.
#[pyclass(frozen, module = "gdb_leak._native")]
pub(super) struct Listed {
    pub(super) found: listed::Listed,
    pub(super) heap: Arc<dyn Allocator>,
    pub(super) recorded: Option<Arc<Recorded>>,
}

#[pymethods]
impl Listed {
    #[getter]
    fn count(&self) -> u64 {
        self.found.count
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.found.bytes
    }

    fn __len__(&self) -> usize {
        self.found.blocks.len()
    }

    fn rows(&self, start: usize, stop: usize) -> Vec<ListedRow> {
        let rows = self.found.blocks.get(start..stop.min(self.found.blocks.len()));
        let row = |(index, kind): &(u32, Option<Content>)| {
            let unit = self.heap.blocks().unit(usize::try_from(*index).ok()?)?;
            let record = self.recorded.as_ref().and_then(|recorded| recorded.of(unit.index));
            let requested = record.map(|record| record.size);
            Some((Block::new(self.heap.as_ref(), &unit), kind.map(Content::name), requested))
        };
        rows.unwrap_or_default().iter().filter_map(row).collect()
    }
}
