//! The analysis of a single part, without a target: for tests of single instructions.

use super::Unclear;
use super::flow::Flow;
use super::graph::{Graph, Missing, Target};
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
    flow: Option<Flow>,
}

/// A target that has no other parts; its tables of jumps are given.
struct Alone<'t>(&'t [u64]);

impl Target for Alone<'_> {
    fn entry(&mut self, _: Table, index: u64) -> Option<u64> {
        self.0.get(usize::try_from(index).ok()?).copied()
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
        let graph = match part.unclear {
            Some(unclear) => Err(unclear),
            None => Graph::new(vec![part.clone()], &mut Alone(table)).map_err(|missing| match missing {
                Missing::Unclear(unclear) => unclear,
                Missing::Part(_) => Unclear::Jump,
            }),
        };
        let (flow, unclear) = match graph.and_then(Flow::new) {
            Ok(flow) => (Some(flow), None),
            Err(unclear) => (None, Some(unclear)),
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
        let place = flow.graph().place(self.part.rules.range.start().checked_add(offset)?)?;
        let point = flow.point(place, false)?;
        let alive = |word: i64| point.escaped(LOCALS) || (point.written(word) && point.live(word));
        Some(flow.words().iter().copied().filter(|word| !alive(*word)).collect())
    }

    /// Whether a register, by its number in an instruction, is read from an offset on before it is
    /// written; `None` where no instruction that is reached starts there.
    #[must_use]
    pub fn reads(&self, offset: u64, register: u8) -> Option<bool> {
        let flow = self.flow.as_ref()?;
        let place = flow.graph().place(self.part.rules.range.start().checked_add(offset)?)?;
        Some(flow.point(place, false)?.register(register))
    }

    /// Whether an instruction starts so many bytes from the start of the part.
    #[must_use]
    pub fn starts(&self, offset: u64) -> bool {
        let address = self.part.rules.range.start().checked_add(offset);
        address.is_some_and(|address| self.part.code.place(address).is_some())
    }

    /// Whether a call would return so many bytes from the start of the part.
    #[must_use]
    pub fn returns(&self, offset: u64) -> bool {
        let address = self.part.rules.range.start().checked_add(offset);
        address.is_some_and(|address| self.part.code.call(address).is_some())
    }
}
