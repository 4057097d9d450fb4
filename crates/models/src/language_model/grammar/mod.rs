//! Decoding that can only write JSON of a given schema.
//!
//! A schema becomes a grammar over bytes; at every position the vocabulary, as a tree over bytes, is
//! walked beside it, and only tokens that stay inside may be chosen. Objects and arrays are written
//! without line breaks, with a space or none after `:` and `,`, properties in the schema's order.
//! Near the end of the token budget only tokens remain that leave enough to finish: every decode
//! ends, and ends valid.
//!
//! The crate `llguidance` does more (Lark grammars, patterns) and was left out: it switches
//! `serde_json` to another order of keys for the whole workspace, and it knows no budget.

mod cost;
mod json;
mod matcher;
mod number;
mod program;
mod schema;
mod stack;
mod trie;

use std::sync::Arc;

use self::cost::Costs;
pub(crate) use self::matcher::Matcher;
use self::program::Program;
use self::trie::Trie;
use super::error::Error;

/// The tokens of a model as a tree over bytes.
#[derive(Debug)]
pub(crate) struct Vocabulary(Trie);

impl Vocabulary {
    /// From the bytes of every token; those without are never chosen.
    pub(crate) fn new(tokens: &[Box<[u8]>]) -> Self {
        Self(Trie::new(tokens))
    }
}

/// A schema compiled for one model; [`crate::language_model::LanguageModel::constraint`] makes it.
/// It can serve any number of texts, from any number of threads.
#[derive(Debug, Clone)]
pub struct Constraint(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    program: Program,
    costs: Costs,
    vocabulary: Arc<Vocabulary>,
}

impl Constraint {
    /// Compiles `schema`, the text of a JSON schema.
    pub(crate) fn new(schema: &str, vocabulary: Arc<Vocabulary>) -> Result<Self, Error> {
        let program = schema::compile(schema)?;
        let costs = Costs::new(&program, &vocabulary.0).map_err(|reason| Error::Schema {
            pointer: "#".into(),
            reason,
        })?;
        Ok(Self(Arc::new(Compiled {
            program,
            costs,
            vocabulary,
        })))
    }

    /// Whether it was compiled for this vocabulary.
    pub(crate) fn is_of(&self, vocabulary: &Arc<Vocabulary>) -> bool {
        Arc::ptr_eq(&self.0.vocabulary, vocabulary)
    }

    /// The fewest tokens that a text of this schema can have.
    pub fn least_tokens(&self) -> usize {
        self.0.costs.stack(&self.0.program, &stack::start()) as usize
    }
}
