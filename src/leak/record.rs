//! Lost blocks in records: those with one verdict that one stack allocated, or that are alike.

use std::collections::HashMap;

use crate::error::Error;
use crate::heap::block::{Blocks, State, Unit};
use crate::heap::groups::{self, By, Group};
use crate::heap::wanted::{Label, Wanted};
use crate::memory::Memory;
use crate::pass::Job;
use crate::recording::Estimate;

use super::check::Check;
use super::verdict::Verdict;

/// Blocks that are reported together.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// What became of them.
    pub verdict: Verdict,
    /// Their stack, size, kind, text, number, and the first of them; `behind` is what they alone held.
    pub group: Group,
    /// What they stand for, where they are samples of what their stack allocated.
    pub estimate: Option<Estimate>,
}

impl Record {
    /// The bytes that place it among others: with those that it held, and as far as they are known.
    fn weight(&self) -> u64 {
        let bytes = self.estimate.map_or(self.group.bytes, |estimate| estimate.whole_bytes());
        bytes.saturating_add(self.group.behind.bytes)
    }
}

/// All records, the largest last.
#[derive(Clone, Default, Debug)]
pub struct Records {
    /// The records.
    pub records: Vec<Record>,
    /// Blocks whose text was left out, since too many differ.
    pub untracked: u64,
}

impl Records {
    /// The records of the blocks with one of these verdicts, of those as old as is wanted.
    ///
    /// Ordered as valgrind does: by bytes with those that they held, then by verdict from
    /// reachable to lost, then by blocks, then by address (valgrind 3.19,
    /// `memcheck/mc_leakcheck.c`, `cmp_LossRecords`).
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn new(
        memory: &dyn Memory,
        blocks: &Blocks,
        check: &Check,
        shown: &[Verdict],
        newest: Option<i64>,
        job: &Job,
    ) -> Result<Self, Error> {
        let label = |unit: &Unit| check.label(unit, shown, newest);
        let wanted = Wanted { labels: Some(&label), ..Wanted::default() };
        let found = groups::groups(memory, blocks, By::Record, &wanted, job)?;
        let estimates = estimates(blocks, check, shown, newest, job)?;
        let record = |group: Group| {
            let estimate = estimates.get(&(group.class, group.stack)).copied();
            Some(Record { verdict: Verdict::from_number(group.class)?, group, estimate })
        };
        let mut records: Vec<Record> = found.groups.into_iter().filter_map(record).collect();
        records.sort_by(|one, other| {
            let (one_group, other_group) = (&one.group, &other.group);
            one.weight()
                .cmp(&other.weight())
                .then(other.verdict.cmp(&one.verdict))
                .then(one_group.blocks.cmp(&other_group.blocks))
                .then(one_group.sample.cmp(&other_group.sample))
        });
        Ok(Self { records, untracked: found.untracked })
    }
}

/// What the samples of each verdict and stack stand for; nothing where every block was recorded.
fn estimates(
    blocks: &Blocks,
    check: &Check,
    shown: &[Verdict],
    newest: Option<i64>,
    job: &Job,
) -> Result<HashMap<(u8, u32), Estimate>, Error> {
    const ASK: usize = 1 << 16;
    let mut estimates: HashMap<(u8, u32), Estimate> = HashMap::new();
    let sampled = || Some((check.recorded()?, check.recorded()?.recording().sample()?));
    let Some((recorded, sample)) = sampled() else { return Ok(estimates) };
    for (number, (index, record)) in recorded.units().enumerate() {
        if number % ASK == 0 {
            job.check()?;
        }
        let label = blocks.unit(index).and_then(|unit| check.label(&unit, shown, newest));
        if let Some(label) = label.filter(|label| label.stack != 0) {
            estimates.entry((label.class, label.stack)).or_default().add(record.size, sample);
        }
    }
    Ok(estimates)
}

impl Check {
    /// What is known of a unit, if its verdict is one of `shown` and it is as old as is wanted.
    #[must_use]
    pub fn label(&self, unit: &Unit, shown: &[Verdict], newest: Option<i64>) -> Option<Label> {
        if unit.state != State::Used {
            return None;
        }
        let verdict = self.verdict(unit.index).filter(|verdict| shown.contains(verdict))?;
        let recorded = match self.recorded() {
            Some(recorded) => recorded.label(unit, newest)?,
            None if newest.is_some() => return None,
            None => Label::default(),
        };
        Some(Label { class: verdict as u8, behind: self.weight(unit.index), ..recorded })
    }
}
