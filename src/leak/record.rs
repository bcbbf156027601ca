//! Lost blocks in records: those with one verdict that are alike.

use crate::error::Error;
use crate::heap::block::{Blocks, State, Unit};
use crate::heap::groups::{self, By, Group, Label, Wanted};
use crate::memory::Memory;
use crate::pass::Job;

use super::check::Check;
use super::verdict::Verdict;

/// Blocks that are reported together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What became of them.
    pub verdict: Verdict,
    /// Their size, kind, text, number, and the first of them; `behind` is what they alone held.
    pub group: Group,
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
    /// The records of the blocks with one of these verdicts.
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
        job: &Job,
    ) -> Result<Self, Error> {
        let label = |unit: &Unit| check.label(unit, shown);
        let wanted = Wanted { labels: Some(&label), ..Wanted::default() };
        let found = groups::groups(memory, blocks, By::Record, &wanted, job)?;
        let record = |group: Group| Some(Record { verdict: Verdict::from_number(group.class)?, group });
        let mut records: Vec<Record> = found.groups.into_iter().filter_map(record).collect();
        let weight = |record: &Record| record.group.bytes.saturating_add(record.group.behind.bytes);
        records.sort_by(|one, other| {
            let (one_group, other_group) = (&one.group, &other.group);
            weight(one)
                .cmp(&weight(other))
                .then(other.verdict.cmp(&one.verdict))
                .then(one_group.blocks.cmp(&other_group.blocks))
                .then(one_group.sample.cmp(&other_group.sample))
        });
        Ok(Self { records, untracked: found.untracked })
    }
}

impl Check {
    /// What is known of a unit, if its verdict is one of `shown`.
    #[must_use]
    pub fn label(&self, unit: &Unit, shown: &[Verdict]) -> Option<Label> {
        if unit.state != State::Used {
            return None;
        }
        let verdict = self.verdict(unit.index).filter(|verdict| shown.contains(verdict))?;
        Some(Label { class: verdict as u8, behind: self.weight(unit.index) })
    }
}
