//! Keywords beyond those of an ability's file, by a call of its own. One list for an ability and a
//! recipe's seed: the order of slots rests on it.

use super::{SEEDS, brief, correction};
use crate::error::Error;
use dataset::ability::{Ability, Draws};
use llm::{LanguageModel, Question, Schema};
use serde::Deserialize;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::OnceCell;

/// Most lists that are kept in memory; the journal has them all.
const MAX_LISTS: usize = 1024;

/// Ability by its hash, and seed of the recipe.
type Name = (String, u64);
type List = Arc<Vec<String>>;

/// Gets and keeps lists of keywords.
pub(super) struct Keywords {
    model: Arc<dyn LanguageModel>,
    /// Keywords that an ability should have.
    wanted: usize,
    schema: Arc<Schema>,
    lists: Mutex<HashMap<Name, Arc<OnceCell<List>>>>,
}

#[derive(Deserialize)]
struct Listed {
    keywords: Vec<String>,
}

impl Keywords {
    pub(super) fn new(model: Arc<dyn LanguageModel>, wanted: usize) -> Result<Self, Error> {
        Ok(Self {
            model,
            wanted,
            schema: brief::keyword_schema()?,
            lists: Mutex::default(),
        })
    }

    /// Keywords that an ability should have; 0 for those of its file.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// The keywords that an ability needs beyond its own: none, or a list that is asked for once.
    pub(super) async fn of(&self, ability: &Ability, seed: u64) -> Result<List, Error> {
        let missing = self.wanted.saturating_sub(ability.keywords().len());
        if missing == 0 {
            return Ok(List::default());
        }
        let cell = self.cell((ability.sha256().to_owned(), seed));
        let list = cell
            .get_or_try_init(|| self.ask(ability, seed, missing))
            .await?;
        Ok(Arc::clone(list))
    }

    fn cell(&self, name: Name) -> Arc<OnceCell<List>> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.len() >= MAX_LISTS && !lists.contains_key(&name) {
            lists.clear();
        }
        Arc::clone(lists.entry(name).or_default())
    }

    async fn ask(&self, ability: &Ability, seed: u64, missing: usize) -> Result<List, Error> {
        let mut draws = Draws::new(&["keywords", ability.name(), &seed.to_string()]);
        let sampling_seed = draws.below(SEEDS) as u64;
        let mut messages = brief::keyword_messages(ability, missing);
        let mut corrections = 0;
        loop {
            let question = Question {
                key: format!("promptgen keywords {} {seed} {corrections}", ability.name()),
                messages: messages.clone(),
                schema: Arc::clone(&self.schema),
                seed: sampling_seed,
            };
            let answer = self.model.answer(&question).await?;
            let listed: Listed = serde_json::from_value(answer.value).map_err(Error::Answer)?;
            let mut found = new_keywords(ability, listed.keywords);
            if found.len() >= missing {
                found.truncate(missing);
                return Ok(Arc::new(found));
            }
            let complaints = format!(
                "only {} of them are new, plain words; {missing} are needed",
                found.len()
            );
            if corrections == self.model.max_corrections() {
                return Err(Error::Unusable {
                    corrections,
                    complaints,
                });
            }
            corrections += 1;
            messages.extend(correction(&answer.text, &complaints));
        }
    }
}

/// What is new and plain of a list, in its order, each once.
fn new_keywords(ability: &Ability, listed: Vec<String>) -> Vec<String> {
    let is_plain = |word: &String| {
        let has_letters = word.chars().any(char::is_alphabetic);
        let is_word = |mark: char| mark.is_alphanumeric() || matches!(mark, ' ' | '-' | '\'');
        has_letters && word.chars().all(is_word) && word.split(' ').count() <= 4
    };
    let is_known = |word: &String| {
        let mut known = ability.keywords().iter();
        known.any(|value| value.accepted().contains(word))
    };
    let mut seen = BTreeSet::new();
    let small = listed.into_iter().map(|word| word.trim().to_lowercase());
    small
        .filter(|word| is_plain(word) && !is_known(word) && seen.insert(word.clone()))
        .collect()
}
