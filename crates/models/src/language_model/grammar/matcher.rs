//! Following a text through a grammar, with the automaton built as far as it is needed.

use std::collections::HashMap;

use super::stack::{self, MAX_STACKS, Stack};
use super::{Compiled, Constraint};

/// A place in [`Automaton::states`].
type StateId = u32;
/// Not looked at yet.
const UNKNOWN: StateId = StateId::MAX;
/// No text goes on so.
const NOWHERE: StateId = StateId::MAX - 1;
/// States of about a kilobyte each that are kept from one token to the next.
const MAX_STATES: usize = 8192;

/// One text's way through a grammar.
pub(crate) struct Matcher {
    constraint: Constraint,
    states: Vec<State>,
    known: HashMap<Vec<Stack>, StateId>,
    at: StateId,
}

struct State {
    /// All ways to read the text, sorted.
    stacks: Vec<Stack>,
    /// The fewest tokens to the end.
    cost: u32,
    next: Box<[StateId; 256]>,
}

impl Matcher {
    /// At the beginning of a text.
    pub(crate) fn new(constraint: &Constraint) -> Self {
        let mut matcher = Self {
            constraint: constraint.clone(),
            states: Vec::new(),
            known: HashMap::new(),
            at: 0,
        };
        matcher.at = matcher.state_of(vec![stack::start()]);
        matcher
    }

    /// Tokens after which the text can still be finished with `tokens_left` tokens, them included.
    /// While the text was begun with enough of them, there is always one, or the text may end.
    pub(crate) fn allowed(&mut self, tokens_left: usize) -> Vec<u32> {
        self.forget_if_many();
        let constraint = self.constraint.clone();
        let trie = &constraint.0.vocabulary.0;
        let nodes = trie.nodes();
        let (mut allowed, mut path, mut index) = (Vec::new(), vec![self.at], 0);
        while let Some(node) = nodes.get(index) {
            path.truncate(usize::from(node.depth));
            let from = path.last().copied().unwrap_or(self.at);
            let state = self.step(from, node.byte);
            if state == NOWHERE {
                index = node.end as usize;
                continue;
            }
            if (self.states[state as usize].cost as usize) < tokens_left {
                allowed.extend_from_slice(trie.tokens_at(node));
            }
            path.push(state);
            index += 1;
        }
        allowed
    }

    /// Follows an allowed token; `false` (and no change) for any other.
    pub(crate) fn accept(&mut self, bytes: &[u8]) -> bool {
        let mut at = self.at;
        for &byte in bytes {
            at = self.step(at, byte);
            if at == NOWHERE {
                return false;
            }
        }
        self.at = at;
        true
    }

    /// Whether the text is valid as it stands.
    pub(crate) fn may_end(&self) -> bool {
        self.stacks().iter().any(Vec::is_empty)
    }

    /// Whether the text is valid and nothing may follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.stacks().iter().all(Vec::is_empty)
    }

    fn stacks(&self) -> &[Stack] {
        &self.states[self.at as usize].stacks
    }

    fn step(&mut self, from: StateId, byte: u8) -> StateId {
        let known = self.states[from as usize].next[usize::from(byte)];
        if known != UNKNOWN {
            return known;
        }
        let Compiled { program, costs, .. } = &*self.constraint.0;
        let stacks = &self.states[from as usize].stacks;
        let next = stacks
            .iter()
            .filter_map(|s| stack::advance(program, s, costs.ascii_only, byte));
        let next: Vec<Stack> = next.collect();
        let to = match next.is_empty() {
            true => NOWHERE,
            false => self.state_of(next),
        };
        self.states[from as usize].next[usize::from(byte)] = to;
        to
    }

    /// The state of a set of stacks, unfolded.
    fn state_of(&mut self, folded: Vec<Stack>) -> StateId {
        let Compiled { program, costs, .. } = &*self.constraint.0;
        let mut stacks = Vec::new();
        for stack in folded {
            stack::unfold(program, stack, &mut stacks);
        }
        stacks.sort_unstable();
        stacks.dedup();
        if stacks.len() > MAX_STACKS {
            stacks.sort_by_key(|stack| costs.stack(program, stack));
            stacks.truncate(MAX_STACKS);
            stacks.sort_unstable();
        }
        if let Some(&state) = self.known.get(&stacks) {
            return state;
        }
        let cost = stacks.iter().map(|stack| costs.stack(program, stack)).min();
        let id = self.states.len() as StateId;
        self.known.insert(stacks.clone(), id);
        self.states.push(State {
            stacks,
            cost: cost.unwrap_or(0),
            next: Box::new([UNKNOWN; 256]),
        });
        id
    }

    /// Starts the automaton afresh from where the text stands.
    fn forget_if_many(&mut self) {
        if self.states.len() > MAX_STATES {
            let here = self.states.swap_remove(self.at as usize).stacks;
            self.states.clear();
            self.known.clear();
            self.at = self.state_of(here);
        }
    }
}
