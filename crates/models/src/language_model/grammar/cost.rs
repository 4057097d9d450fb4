//! The fewest tokens that finish a text: what a token budget is held against.
//!
//! Every byte that a shortest way may need is a token of its own (see [`Costs::new`]), so from any
//! position with cost *c* > 0 there is a token to one with cost *c* − 1 at most. A decoder that takes
//! only tokens to positions whose cost fits what is left of its budget therefore always finishes.
//! Literals count in whole tokens, since keys make up most of a shortest object.

use super::number::Decimal;
use super::program::{Node, NodeId, Program};
use super::stack::{Frame, InText};
use super::trie::Trie;

/// Too many: the part cannot be finished.
pub(super) const ENDLESS: u32 = u32::MAX / 4;

/// Bytes besides those of literals that shortest ways need: `a` stands for any character of a string,
/// `n` for any escape.
const NEEDED: &[u8] = b"{}[],\"-.0123456789an";

/// Costs of all parts of a program under one vocabulary.
#[derive(Debug)]
pub(super) struct Costs {
    nodes: Vec<u32>,
    /// Per literal, the tokens from each of its bytes on.
    literals: Vec<Vec<u32>>,
    /// Whether characters beyond ASCII may be left out because their bytes are no tokens.
    pub(super) ascii_only: bool,
}

impl Costs {
    /// Computes the costs.
    ///
    /// # Errors
    /// Says which byte the vocabulary has no token for, or that the schema has no finite text.
    pub(super) fn new(program: &Program, trie: &Trie) -> Result<Self, String> {
        let has = |byte: u8| !trie.prefixes(&[byte]).is_empty();
        if let Some(byte) = NEEDED.iter().find(|&&byte| !has(byte)) {
            let byte = char::from(*byte);
            return Err(format!("the vocabulary has no token for `{byte}` alone"));
        }
        let literals: Vec<Vec<u32>> = program
            .nodes
            .iter()
            .map(|node| match node {
                Node::Literal(bytes) => literal_costs(bytes, trie),
                _ => Vec::new(),
            })
            .collect();
        let unspellable = |costs: &Vec<u32>| costs.first().is_some_and(|&cost| cost >= ENDLESS);
        if literals.iter().any(unspellable) {
            return Err("the vocabulary cannot spell a key or a constant of it".into());
        }
        let mut costs = Self {
            nodes: vec![ENDLESS; program.nodes.len()],
            literals,
            ascii_only: !(0x80..=0xbf).all(has),
        };
        costs.settle(program);
        match costs.nodes.first() {
            Some(&cost) if cost < ENDLESS => Ok(costs),
            _ => Err("no finite text fulfils it".into()),
        }
    }

    /// The fewest tokens that finish everything on a stack.
    pub(super) fn stack(&self, program: &Program, stack: &[Frame]) -> u32 {
        let frames = stack.iter().map(|&frame| self.frame(program, frame));
        frames.fold(0, add)
    }

    /// Costs of nodes refer to each other, in circles even: they fall until none does any more.
    fn settle(&mut self, program: &Program) {
        loop {
            let mut changed = false;
            for id in 0..program.nodes.len() {
                let cost = self.node(program, id as NodeId);
                changed |= cost < self.nodes[id];
                self.nodes[id] = cost;
            }
            if !changed {
                return;
            }
        }
    }

    fn node(&self, program: &Program, id: NodeId) -> u32 {
        match program.node(id) {
            Node::Literal(_) => self.literals[id as usize].first().copied().unwrap_or(0),
            Node::Choice(nodes) => {
                let costs = nodes.iter().map(|&node| self.nodes[node as usize]);
                costs.min().unwrap_or(ENDLESS)
            }
            Node::Text { min, .. } => add(2, *min),
            Node::Integer(range) => range.missing(range.start()).unwrap_or(ENDLESS),
            Node::Number => Decimal::Start.missing(),
            Node::Array { .. } => add(1, self.frame(program, Frame::Array(id, 0))),
            Node::Object(_) => add(1, self.frame(program, Frame::Object(id, 0, false))),
        }
    }

    fn frame(&self, program: &Program, frame: Frame) -> u32 {
        match frame {
            Frame::Node(id) => self.nodes[id as usize],
            Frame::Byte(_) => 1,
            Frame::Space => 0,
            Frame::Literal(id, at) => self.literals[id as usize][at as usize],
            Frame::Number(decimal) => decimal.missing(),
            Frame::OpenText(id) => self.nodes[id as usize],
            Frame::Text(id, count, place) => text_cost(program.node(id), count, place),
            Frame::Integer(id, digits) => match program.node(id) {
                Node::Integer(range) => range.missing(digits).unwrap_or(ENDLESS),
                _ => ENDLESS,
            },
            Frame::Array(id, count) => self.array_cost(program.node(id), count),
            Frame::Object(id, next, any) => self.object_cost(program.node(id), next, any),
        }
    }

    fn array_cost(&self, node: &Node, count: u32) -> u32 {
        let Node::Array { item, min, .. } = node else {
            return ENDLESS;
        };
        let missing = min.saturating_sub(count);
        if missing == 0 {
            return 1;
        }
        let commas = missing - u32::from(count == 0);
        let items = self.nodes[*item as usize].saturating_mul(missing);
        add(add(items.min(ENDLESS), commas), 1)
    }

    fn object_cost(&self, node: &Node, next: u32, any: bool) -> u32 {
        let Node::Object(properties) = node else {
            return ENDLESS;
        };
        let mut cost = 1;
        let mut any = any;
        for property in properties.iter().skip(next as usize).filter(|p| p.required) {
            cost = add(cost, self.nodes[property.value as usize]);
            cost = add(cost, self.literals[property.key as usize][0]);
            cost = add(cost, u32::from(any));
            any = true;
        }
        cost
    }
}

fn text_cost(node: &Node, count: u32, place: InText) -> u32 {
    let Node::Text { min, .. } = node else {
        return ENDLESS;
    };
    let (begun, bytes) = match place {
        InText::Between => (0, 0),
        InText::Escape => (1, 1),
        InText::Character { missing, .. } => (1, u32::from(missing)),
    };
    add(min.saturating_sub(count + begun), bytes + 1)
}

/// The fewest tokens that spell `bytes` from each byte on.
fn literal_costs(bytes: &[u8], trie: &Trie) -> Vec<u32> {
    let mut costs = vec![ENDLESS; bytes.len() + 1];
    costs[bytes.len()] = 0;
    for at in (0..bytes.len()).rev() {
        let lengths = trie.prefixes(&bytes[at..]);
        let after = lengths.into_iter().map(|length| costs[at + length]);
        costs[at] = add(after.min().unwrap_or(ENDLESS), 1);
    }
    costs.truncate(bytes.len());
    costs
}

fn add(a: u32, b: u32) -> u32 {
    a.saturating_add(b).min(ENDLESS)
}
