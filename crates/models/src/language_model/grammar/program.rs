//! What a schema compiles to: a small grammar whose parts say which bytes may come.

use super::number::Range;

/// A place in [`Program::nodes`].
pub(super) type NodeId = u32;

/// A grammar. The first node is the whole.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) nodes: Vec<Node>,
}

impl Program {
    pub(super) fn node(&self, id: NodeId) -> &Node {
        // Ids are only made by `add` and `reserve`.
        &self.nodes[id as usize]
    }

    /// Appends a node.
    pub(super) fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        (self.nodes.len() - 1) as NodeId
    }
}

/// A part of the text.
#[derive(Debug)]
pub(super) enum Node {
    /// Exactly these bytes.
    Literal(Box<[u8]>),
    /// Any one of these.
    Choice(Vec<NodeId>),
    /// A string of `min` to `max` characters, quotes included.
    Text { min: u32, max: u32 },
    /// An integer in a range.
    Integer(Range),
    /// A decimal number of bounded length.
    Number,
    /// `min` to `max` items.
    Array { item: NodeId, min: u32, max: u32 },
    /// Properties in this order, those not required left out at will.
    Object(Vec<Property>),
}

/// A property of an object.
#[derive(Debug)]
pub(super) struct Property {
    /// A literal, `"name":`.
    pub(super) key: NodeId,
    pub(super) value: NodeId,
    pub(super) required: bool,
}
