//! A vocabulary as a tree over bytes, laid out so that a subtree is a range.

/// One byte of one or more tokens.
#[derive(Debug)]
pub(super) struct TrieNode {
    /// The byte.
    pub(super) byte: u8,
    /// Bytes from the root, this one included.
    pub(super) depth: u16,
    /// The first node behind this one's subtree.
    pub(super) end: u32,
    /// Tokens that end here, as a range of [`Trie::tokens`].
    first_token: u32,
    token_count: u32,
}

/// The tokens that have bytes, in the order of their bytes.
#[derive(Debug, Default)]
pub(super) struct Trie {
    nodes: Vec<TrieNode>,
    tokens: Vec<u32>,
}

/// Longer tokens are never chosen under a grammar; published vocabularies have some of spaces alone.
const MAX_TOKEN_BYTES: usize = 1024;

impl Trie {
    /// Builds the tree; tokens without bytes are left out.
    pub(super) fn new(tokens: &[Box<[u8]>]) -> Self {
        let mut sorted: Vec<(&[u8], u32)> = (0..)
            .zip(tokens)
            .map(|(id, bytes)| (bytes.as_ref(), id))
            .filter(|(bytes, _)| (1..=MAX_TOKEN_BYTES).contains(&bytes.len()))
            .collect();
        sorted.sort_unstable();
        let mut trie = Self::default();
        let mut path: Vec<usize> = Vec::new(); // nodes from the root to the last token's end
        for (bytes, id) in sorted {
            let known = path.iter().zip(bytes);
            let shared = known
                .take_while(|&(&node, &b)| trie.nodes[node].byte == b)
                .count();
            trie.close(&mut path, shared);
            for (depth, &byte) in (1..).zip(bytes).skip(shared) {
                path.push(trie.nodes.len());
                trie.nodes.push(TrieNode {
                    byte,
                    depth,
                    end: 0,
                    first_token: trie.tokens.len() as u32,
                    token_count: 0,
                });
            }
            if let Some(&node) = path.last() {
                trie.nodes[node].token_count += 1;
                trie.tokens.push(id);
            }
        }
        trie.close(&mut path, 0);
        trie
    }

    /// All nodes, each before its subtree.
    pub(super) fn nodes(&self) -> &[TrieNode] {
        &self.nodes
    }

    /// Tokens that end at a node.
    pub(super) fn tokens_at(&self, node: &TrieNode) -> &[u32] {
        &self.tokens[node.first_token as usize..][..node.token_count as usize]
    }

    /// The lengths of all tokens that `bytes` starts with, in rising order.
    pub(super) fn prefixes(&self, bytes: &[u8]) -> Vec<usize> {
        let (mut lengths, mut at, mut end) = (Vec::new(), 0, self.nodes.len());
        for (depth, byte) in bytes.iter().enumerate() {
            while at < end && self.nodes[at].byte != *byte {
                at = self.nodes[at].end as usize;
            }
            let Some(node) = self.nodes[..end].get(at) else {
                break;
            };
            if node.token_count > 0 {
                lengths.push(depth + 1);
            }
            (at, end) = (at + 1, node.end as usize);
        }
        lengths
    }

    fn close(&mut self, path: &mut Vec<usize>, length: usize) {
        let end = self.nodes.len() as u32;
        for node in path.drain(length..) {
            self.nodes[node].end = end;
        }
    }
}
