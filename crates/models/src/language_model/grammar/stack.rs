//! Where in a grammar a text stands: stacks of parts that are still to come.
//!
//! A text may be readable in several ways, so a position is a set of stacks. The part on top of each
//! takes the next byte; what lies below follows when it is done.

use super::number::{Decimal, Digits};
use super::program::{Node, NodeId, Program, Property};

/// A part that is begun or to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Frame {
    /// To come.
    Node(NodeId),
    /// One byte.
    Byte(u8),
    /// A literal from this byte on.
    Literal(NodeId, u32),
    /// One space, or none.
    Space,
    /// The quote that opens a string.
    OpenText(NodeId),
    /// Inside a string, after so many characters.
    Text(NodeId, u32, InText),
    /// Digits of an integer.
    Integer(NodeId, Digits),
    /// A decimal number.
    Number(Decimal),
    /// After so many items.
    Array(NodeId, u32),
    /// Before the property of this index; whether one was written.
    Object(NodeId, u32, bool),
}

/// Where inside a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum InText {
    /// Between characters.
    Between,
    /// After a backslash.
    Escape,
    /// Inside a character: so many bytes are missing, the next of them in this range.
    Character { missing: u8, low: u8, high: u8 },
}

/// Parts still to come, the next one last.
pub(super) type Stack = Vec<Frame>;

/// The most ways to read one text that are followed; the shortest to finish are kept.
pub(super) const MAX_STACKS: usize = 1024;

/// The text's beginning.
pub(super) fn start() -> Stack {
    vec![Frame::Node(0)]
}

/// Unfolds the top of `stack` until every way on begins with a part that takes a byte, or ends.
pub(super) fn unfold(program: &Program, stack: Stack, found: &mut Vec<Stack>) {
    let mut open = vec![stack];
    while let Some(mut stack) = open.pop() {
        match stack.last().copied() {
            Some(Frame::Node(id)) => {
                stack.pop();
                enter(program, id, stack, &mut open);
            }
            Some(Frame::Array(id, count)) => {
                stack.pop();
                next_item(program, (id, count), stack, &mut open);
            }
            Some(Frame::Object(id, next, any)) => {
                stack.pop();
                if let Node::Object(properties) = program.node(id) {
                    next_property(properties, (id, next, any), &stack, &mut open);
                }
            }
            Some(top) => {
                if may_be_over(program, top) {
                    open.push(stack[..stack.len() - 1].to_vec());
                }
                found.push(stack);
            }
            None => found.push(stack),
        }
    }
}

/// The stack after one more byte, if its top takes that byte.
pub(super) fn advance(
    program: &Program,
    stack: &Stack,
    ascii_only: bool,
    byte: u8,
) -> Option<Stack> {
    let (top, rest) = stack.split_last()?;
    let next = match *top {
        Frame::Byte(expected) => (byte == expected).then_some(None),
        Frame::Space => (byte == b' ').then_some(None),
        Frame::Literal(id, at) => match program.node(id) {
            Node::Literal(bytes) if bytes[at as usize] == byte => {
                let more = at as usize + 1 < bytes.len();
                Some(more.then_some(Frame::Literal(id, at + 1)))
            }
            _ => None,
        },
        Frame::OpenText(id) => (byte == b'"').then_some(Some(Frame::Text(id, 0, InText::Between))),
        Frame::Text(id, count, place) => match program.node(id) {
            Node::Text { min, max } => {
                let text = TextSoFar {
                    count,
                    place,
                    min: *min,
                    max: *max,
                    ascii_only,
                };
                let next = text.advance(byte);
                next.map(|inside| inside.map(|(count, place)| Frame::Text(id, count, place)))
            }
            _ => None,
        },
        Frame::Integer(id, digits) => match program.node(id) {
            Node::Integer(range) => {
                let next = range.advance(digits, byte);
                next.map(|digits| Some(Frame::Integer(id, digits)))
            }
            _ => None,
        },
        Frame::Number(decimal) => decimal.advance(byte).map(|d| Some(Frame::Number(d))),
        Frame::Node(_) | Frame::Array(..) | Frame::Object(..) => None,
    };
    let mut stack = rest.to_vec();
    stack.extend(next?);
    Some(stack)
}

/// Whether the part on top may end without another byte.
fn may_be_over(program: &Program, top: Frame) -> bool {
    match top {
        Frame::Space => true,
        Frame::Number(decimal) => decimal.missing() == 0,
        Frame::Integer(id, digits) => match program.node(id) {
            Node::Integer(range) => range.is_whole(digits),
            _ => false,
        },
        _ => false,
    }
}

fn enter(program: &Program, id: NodeId, mut stack: Stack, open: &mut Vec<Stack>) {
    match program.node(id) {
        Node::Choice(nodes) => {
            for &node in nodes {
                let mut stack = stack.clone();
                stack.push(Frame::Node(node));
                open.push(stack);
            }
            return;
        }
        Node::Literal(_) => stack.push(Frame::Literal(id, 0)),
        Node::Text { .. } => stack.push(Frame::OpenText(id)),
        Node::Integer(range) => stack.push(Frame::Integer(id, range.start())),
        Node::Number => stack.push(Frame::Number(Decimal::Start)),
        Node::Array { .. } => stack.extend([Frame::Array(id, 0), Frame::Byte(b'[')]),
        Node::Object(_) => stack.extend([Frame::Object(id, 0, false), Frame::Byte(b'{')]),
    }
    open.push(stack);
}

fn next_item(program: &Program, (id, count): (NodeId, u32), stack: Stack, open: &mut Vec<Stack>) {
    let Node::Array { item, min, max } = *program.node(id) else {
        return;
    };
    if count < max {
        let mut stack = stack.clone();
        stack.extend([Frame::Array(id, count + 1), Frame::Node(item)]);
        if count > 0 {
            stack.extend([Frame::Space, Frame::Byte(b',')]);
        }
        open.push(stack);
    }
    if count >= min {
        let mut stack = stack;
        stack.push(Frame::Byte(b']'));
        open.push(stack);
    }
}

fn next_property(
    properties: &[Property],
    (id, next, any): (NodeId, u32, bool),
    stack: &Stack,
    open: &mut Vec<Stack>,
) {
    for (index, property) in (0..).zip(properties).skip(next as usize) {
        let mut stack = stack.clone();
        stack.extend([
            Frame::Object(id, index + 1, true),
            Frame::Node(property.value),
            Frame::Space,
            Frame::Literal(property.key, 0),
        ]);
        if any {
            stack.extend([Frame::Space, Frame::Byte(b',')]);
        }
        open.push(stack);
        if property.required {
            return;
        }
    }
    let mut stack = stack.clone();
    stack.push(Frame::Byte(b'}'));
    open.push(stack);
}

struct TextSoFar {
    count: u32,
    place: InText,
    min: u32,
    max: u32,
    ascii_only: bool,
}

impl TextSoFar {
    /// After one more byte; `Some(None)` after the closing quote. Characters are UTF-8 (RFC 3629,
    /// section 4); of the escapes, `\u` is left out, since every character can stand for itself.
    fn advance(&self, byte: u8) -> Option<Option<(u32, InText)>> {
        let done = Some(Some((self.count + 1, InText::Between)));
        let inside = |place| Some(Some((self.count, place)));
        let character = |missing, low, high| inside(InText::Character { missing, low, high });
        match self.place {
            InText::Between if byte == b'"' => (self.count >= self.min).then_some(None),
            InText::Between if self.count >= self.max => None,
            InText::Between if byte >= 0x80 && self.ascii_only => None,
            InText::Between => match byte {
                b'\\' => inside(InText::Escape),
                0x20..=0x7f => done,
                0xc2..=0xdf => character(1, 0x80, 0xbf),
                0xe0 => character(2, 0xa0, 0xbf),
                0xed => character(2, 0x80, 0x9f),
                0xe1..=0xef => character(2, 0x80, 0xbf),
                0xf0 => character(3, 0x90, 0xbf),
                0xf1..=0xf3 => character(3, 0x80, 0xbf),
                0xf4 => character(3, 0x80, 0x8f),
                _ => None,
            },
            InText::Escape => b"\"\\/bfnrt".contains(&byte).then_some(done).flatten(),
            InText::Character { missing, low, high } => match (low..=high).contains(&byte) {
                true if missing == 1 => done,
                true => character(missing - 1, 0x80, 0xbf),
                false => None,
            },
        }
    }
}
