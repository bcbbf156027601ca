//! The wanted blocks one by one, and what one block holds.

use std::ops::Range;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::error::Error;
use crate::heap::block::Blocks;
use crate::heap::content::Content;
use crate::heap::group::Group;
use crate::heap::growing::TEXT;
use crate::heap::wanted::{Wanted, batch, each, slices};
use crate::inspect::template::Reader;
use crate::inspect::text::lossless;
use crate::memory::Memory;
use crate::pass::Job;

/// The wanted blocks one by one.
#[derive(Clone, Default, Debug)]
pub struct Listed {
    /// Their numbers and what they hold, in address order, as many as were asked for.
    pub blocks: Vec<(u32, Option<Content>)>,
    /// How many there are.
    pub count: u64,
    /// Their usable bytes together.
    pub bytes: u64,
}

/// The blocks that are wanted, the first `limit` of them with their numbers.
///
/// Memory: eight bytes for each that is kept.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn list(
    memory: &dyn Memory,
    blocks: &Blocks,
    wanted: &Wanted<'_>,
    limit: usize,
    job: &Job,
) -> Result<Listed, Error> {
    let mut listed = Listed::default();
    let slices = slices(blocks);
    for batch in slices.chunks(batch()) {
        let room = limit.saturating_sub(listed.blocks.len());
        let work = |slice: &Range<usize>| {
            let mut part = Listed::default();
            if job.stopped() {
                return part;
            }
            // What a block holds is looked at only if it may be listed, or decides whether it counts.
            let contents = wanted.kind.is_some() || room > 0;
            each(memory, blocks, slice.clone(), wanted, contents, |unit, kind, _| {
                if wanted.kind.is_some_and(|wanted| kind != Some(wanted)) {
                    return;
                }
                part.count = part.count.saturating_add(1);
                part.bytes = part.bytes.saturating_add(unit.block().len());
                if part.blocks.len() < room {
                    part.blocks.extend(u32::try_from(unit.index).ok().map(|index| (index, kind)));
                }
            });
            part
        };
        let parts: Vec<Listed> = batch.par_iter().map(work).collect();
        job.check()?;
        for part in parts {
            let room = limit.saturating_sub(listed.blocks.len());
            listed.blocks.extend(part.blocks.into_iter().take(room));
            listed.count = listed.count.saturating_add(part.count);
            listed.bytes = listed.bytes.saturating_add(part.bytes);
        }
    }
    Ok(listed)
}

/// The text of a group and an example of it; where texts were not looked at, that of its first block.
#[must_use]
pub fn texts(memory: &dyn Memory, blocks: &Blocks, group: &Group) -> (Option<String>, Option<String>) {
    let (text, example) = group.texts(memory);
    let unit = || blocks.block_at(*group.sample.first()?);
    (text, example.or_else(|| content(memory, blocks, unit()?.index).1))
}

/// What one block holds, and the text in it.
#[must_use]
pub fn content(memory: &dyn Memory, blocks: &Blocks, index: usize) -> (Option<Content>, Option<String>) {
    let mut found = (None, None);
    let end = index.saturating_add(1);
    each(memory, blocks, index..end, &Wanted::default(), true, |_, kind, text| {
        let cut =
            |(_, text): (u64, &[u8])| text.get(..Reader::default().read(text, TEXT).length).map(lossless);
        found = (kind, text.and_then(cut));
    });
    found
}
