//! The analysis of a single part, without a target: for tests of single instructions.

use crate::pass::Job;

use super::Unclear;
use super::control_flow::{ControlFlow, Failure, JumpTables};
use super::data_flow::DataFlow;
use super::part::Part;
use super::places::{LOCALS, Table};
use super::rules::{Cfa, Rules};

/// What is known of the frame of a function that has one part.
#[derive(Debug)]
pub struct Slots {
    /// Words that instructions name, as distances from the CFA in words, in order.
    pub touched: Vec<i64>,
    /// What makes the frame alive as a whole, if anything does.
    pub unclear: Option<Unclear>,
    /// Whether the address of a local escapes.
    pub escapes: bool,
    part: std::rc::Rc<Part>,
    flow: Option<DataFlow>,
}

/// A target that has no other parts; its tables of jumps are given.
struct Alone<'t>(&'t [u64]);

impl JumpTables for Alone<'_> {
    fn entry(&mut self, _: Table, index: u64) -> Option<u64> {
        self.0.get(usize::try_from(index).ok()?).copied()
    }

    fn before(&mut self, _: Table, _: u64) -> Option<u64> {
        None
    }

    fn continues(&mut self, _: u64, _: Cfa) -> bool {
        false
    }
}

impl Slots {
    /// Analyses the code that `rules` are for.
    #[must_use]
    pub fn find(code: &[u8], rules: &Rules) -> Self {
        Self::with_table(code, rules, &[])
    }

    /// As [`Slots::find`], where all tables of jumps have these entries.
    #[must_use]
    pub fn with_table(code: &[u8], rules: &Rules, table: &[u64]) -> Self {
        let part = std::rc::Rc::new(Part::new(code, rules.clone()));
        let job = Job::default();
        let flow = part.unclear.map_or(Ok(()), |unclear| Err(unclear.into()));
        let flow = flow.and_then(|()| ControlFlow::new(vec![part.clone()], &mut Alone(table), &job));
        let (flow, unclear) = match flow.and_then(|graph| DataFlow::new(graph, &job)) {
            Ok(flow) => (Some(flow), None),
            Err(Failure::Unclear(unclear)) => (None, Some(unclear)),
            // Nothing stops the job, and there are no other parts.
            Err(Failure::Part(_) | Failure::Stopped(_)) => (None, Some(Unclear::Jump)),
        };
        let touched = flow.as_ref().map(|flow| flow.words().to_vec()).unwrap_or_default();
        let escapes = flow.as_ref().is_some_and(|flow| flow.escapes(LOCALS));
        Self { touched, unclear, escapes, part, flow }
    }

    /// Which of the words that instructions name are dead at an offset into the code: never
    /// written on a way there, or not read before they are written.
    #[must_use]
    pub fn dead(&self, offset: u64) -> Option<Vec<i64>> {
        let flow = self.flow.as_ref()?;
        let at = flow.graph.index_of(self.part.rules.range.start().checked_add(offset)?)?;
        let point = flow.point(at, false)?;
        let alive = |word: i64| point.escaped(LOCALS) || (point.written(word) && point.live(word));
        Some(flow.words().iter().copied().filter(|word| !alive(*word)).collect())
    }

    /// Whether a register, by its number in an instruction, is read from an offset on before it is
    /// written; `None` where no instruction that is reached starts there.
    #[must_use]
    pub fn reads(&self, offset: u64, register: u8) -> Option<bool> {
        let flow = self.flow.as_ref()?;
        let at = flow.graph.index_of(self.part.rules.range.start().checked_add(offset)?)?;
        Some(flow.point(at, false)?.register(register))
    }

    /// Whether an instruction starts so many bytes from the start of the part.
    #[must_use]
    pub fn starts(&self, offset: u64) -> bool {
        let address = self.part.rules.range.start().checked_add(offset);
        address.is_some_and(|address| self.part.code.index_of(address).is_some())
    }

    /// Whether a call would return so many bytes from the start of the part.
    #[must_use]
    pub fn returns(&self, offset: u64) -> bool {
        let address = self.part.rules.range.start().checked_add(offset);
        address.is_some_and(|address| self.part.code.call(address).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::{Row, Saved};
    use super::*;
    use crate::range::AddressRange;

    #[test]
    fn a_stopped_job_ends_each_analysis_of_a_function() {
        let row = Row { start: 0x1000, cfa: Cfa::Rsp(8), saved: [Saved::Same; 6], back: Saved::At(-8) };
        let rules = Rules {
            range: AddressRange::with_length(0x1000, 1).unwrap(),
            rows: vec![row],
            slots: Vec::new(),
            expressions: false,
            signal: false,
            exceptions: None,
        };
        let parts = vec![std::rc::Rc::new(Part::new(&[0xc3], rules))];
        let (runs, stopped) = (Job::default(), Job::default());
        stopped.stop();
        let graph = |job| ControlFlow::new(parts.clone(), &mut Alone(&[]), job);
        assert!(matches!(graph(&stopped), Err(Failure::Stopped(_))));
        assert!(matches!(DataFlow::new(graph(&runs).unwrap(), &stopped), Err(Failure::Stopped(_))));
        assert!(DataFlow::new(graph(&runs).unwrap(), &runs).is_ok());
    }
}
