//! Stacks: from a node to its frames, innermost first.

use crate::peek::Peek;

use super::header::Area;
use super::layout;

/// A place in a program that called the next one further in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Frame {
    /// The address of the allocation function, or an address to return to.
    pub pc: u64,
    /// Whether `pc` is the very instruction: of a frame that a signal interrupted, and of the
    /// allocation function.
    pub exact: bool,
}

impl Frame {
    /// An address in the instruction that the frame is at, for looking up functions and lines.
    #[must_use]
    pub const fn address(&self) -> u64 {
        if self.exact { self.pc } else { self.pc.saturating_sub(1) }
    }
}

/// What was on a thread's stack when a block was allocated.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Stack {
    /// The frames, innermost first.
    pub frames: Vec<Frame>,
    /// How often modules had been unloaded by then; `None` where the chain of nodes is damaged.
    pub generation: Option<u32>,
}

/// The stack that the node with that number is the innermost frame of.
///
/// A chain that leads in circles, or to no node, ends where that is noticed.
pub(super) fn stack(peek: &mut Peek<'_>, nodes: &Area, innermost: u32) -> Stack {
    let mut stack = Stack::default();
    let mut at = innermost;
    for _ in 0..layout::DEEPEST {
        match node(peek, nodes, at) {
            Some(Node::Frame(frame, parent)) => {
                let exact = frame.exact || stack.frames.is_empty();
                stack.frames.push(Frame { exact, ..frame });
                at = parent;
            }
            Some(Node::Outermost(generation)) => {
                stack.generation = generation;
                break;
            }
            None => break,
        }
    }
    stack
}

/// A node of the trie of stacks.
pub(super) enum Node {
    /// A frame, and the node of its caller.
    Frame(Frame, u32),
    /// The end of a stack: how often modules had been unloaded by then.
    Outermost(Option<u32>),
}

/// The node with that number; `None` where there is none, or it is missing.
pub(super) fn node(peek: &mut Peek<'_>, nodes: &Area, number: u32) -> Option<Node> {
    let place = nodes.at(u64::from(number)).filter(|_| number != 0)?;
    let (pc, behind) = peek.two(place)?;
    let parent = u32::try_from(behind & u64::from(u32::MAX)).unwrap_or(0);
    if parent == 0 {
        return Some(Node::Outermost(u32::try_from(pc).ok()));
    }
    Some(Node::Frame(Frame { pc: pc & !layout::EXACT, exact: pc & layout::EXACT != 0 }, parent))
}
