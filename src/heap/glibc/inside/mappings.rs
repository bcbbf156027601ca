//! A mapped chunk that is shorter by now than it says.
//!
//! glibc 2.17 to 2.43, malloc/malloc.c, `mremap_chunk`: the system has cut the mapping before its
//! new size is written, and behind it is nothing.

use crate::error::Error;
use crate::memory::RegionKind;
use crate::range::AddressRange;

use super::super::layout::{IS_MMAPPED, PAGE};
use super::super::mapped;
use super::Scene;

/// How many pages are looked at.
const PAGES: u64 = 1 << 16;

impl Scene<'_> {
    pub(super) fn mappings(&mut self) -> Result<(), Error> {
        let attempt = self.attempt;
        let Some(libc) = attempt.libcs.first() else { return Ok(()) };
        let Some(params) = libc.params.filter(|params| params.mapped > attempt.reading.mapped.0) else {
            return Ok(());
        };
        let Some(main) = libc.states.first().map(|state| state.address) else { return Ok(()) };
        let machine = self.machine();
        let taken: Vec<AddressRange> = attempt.reading.blocks.spans().iter().map(|span| span.range).collect();
        let taken = AddressRange::merge(taken);
        let likely = |kind| !matches!(kind, RegionKind::Data | RegionKind::Stack | RegionKind::Special);
        let regions = self.memory.regions().iter();
        let anonymous = regions.filter(|region| likely(region.kind) && region.anonymous());
        let anonymous = anonymous.filter(|region| region.permissions.writable()).map(|region| region.range);
        let mut pages = PAGES;
        for run in AddressRange::merge(anonymous.collect()).into_iter().flat_map(|run| run.without(&taken)) {
            let mut page = run.start();
            while page < run.end() && pages > 0 {
                pages = pages.saturating_sub(1);
                let room = run.end().saturating_sub(page);
                let long = mapped::length_at(&mut self.peek, machine, page);
                if long.is_some_and(|long| long > room && long <= params.mapped_bytes) {
                    let place = page.saturating_add(machine.align).saturating_sub(machine.word);
                    let size = room.saturating_sub(machine.align.saturating_sub(machine.header()));
                    let size = if attempt.reading.states.first().is_some_and(|(layout, _)| layout.fast) {
                        size
                    } else {
                        size.saturating_sub(machine.header())
                    };
                    let what = format!("the mapped chunk at {page:#x} is made smaller");
                    self.guess(main, what, [(place, size | IS_MMAPPED)]);
                }
                page = page.saturating_add(PAGE);
            }
            self.job.check()?;
        }
        Ok(())
    }
}
