//! In-context examples that grow by curation: candidates are gathered, a person keeps or drops them,
//! and what was kept enters the ability's file.
//!
//! [`gather`] asks the services, by [`errand`], or reads a dataset → [`journal`] keeps candidates and decisions on
//! the disk → [`page`] shows them on a loopback address → [`ability_file`] writes.

mod ability_file;
mod candidate;
mod errand;
mod gather;
mod journal;
mod page;

use std::{collections::HashSet, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

pub(crate) use self::{
    ability_file::AbilityFile,
    candidate::{BadField, Candidate, Entry},
    errand::Errand,
    gather::{Request, Source, gather},
    journal::{Journal, Verdict},
    page::{Listen, serve},
};
use self::{ability_file::Held, journal::Decision};
use crate::{bad_input::BadInput, cli::CurateKind};

/// The candidates of one ability, and what a person decided about them.
pub(crate) struct Curation {
    file: AbilityFile,
    kind: CurateKind,
    journal: Journal,
    /// What the file held when it was last looked at.
    held: Held,
    entered: Counts,
}

/// Entries by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) prompts: u64,
    pub(crate) dialogues: u64,
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Nobody has decided.
    Open,
    /// Kept, and not in the file yet.
    Kept,
    /// Dropped.
    Dropped,
    /// In the file.
    Entered,
}

/// How many entries stand where, of those that are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) open: u64,
    pub(crate) kept: u64,
    pub(crate) dropped: u64,
    pub(crate) entered: u64,
}

impl Curation {
    /// Goes on with what the journal holds.
    ///
    /// # Errors
    /// The ability's file cannot be read.
    pub(crate) fn new(file: AbilityFile, kind: CurateKind, journal: Journal) -> Result<Self> {
        let held = file.held()?;
        Ok(Self {
            file,
            kind,
            journal,
            held,
            entered: Counts::default(),
        })
    }

    /// The ability's name.
    pub(crate) fn ability(&self) -> &str {
        self.file.ability()
    }

    /// The ability's file.
    pub(crate) fn file(&self) -> &Path {
        self.file.path()
    }

    /// Where candidates and decisions lie.
    pub(crate) fn folder(&self) -> &Path {
        self.journal.folder()
    }

    /// Whether there is an entry of this id among those that are curated now.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.entry(id).is_some()
    }

    /// The entries of a candidate that are curated now, by id.
    fn entries<'a>(&self, candidate: &'a Candidate) -> impl Iterator<Item = (String, &'a Entry)> {
        let kind = self.kind;
        let wanted = candidate
            .entries
            .iter()
            .filter(move |entry| entry.is_of(kind));
        wanted.map(|entry| (entry.id(), entry))
    }

    /// Where an entry stands. What stands in the file is entered, whoever put it there.
    fn state(&self, id: &str, entry: &Entry) -> State {
        let decision = self.journal.decision(id);
        let text = decision.map_or(entry, |decision| &decision.entry);
        match decision.map(|decision| decision.verdict) {
            _ if self.held.contains(text) => State::Entered,
            Some(Verdict::Keep) => State::Kept,
            Some(Verdict::Drop) => State::Dropped,
            Some(Verdict::Open) | None => State::Open,
        }
    }

    /// Candidates with something to decide or to save.
    fn pending(&self) -> impl Iterator<Item = &Candidate> {
        let is_pending = |candidate: &&Candidate| {
            self.entries(candidate)
                .any(|(id, entry)| matches!(self.state(&id, entry), State::Open | State::Kept))
        };
        self.journal.candidates().iter().filter(is_pending)
    }

    /// Candidates that nobody has finished with.
    pub(crate) fn open_count(&self) -> usize {
        let is_open = |candidate: &&Candidate| {
            self.entries(candidate)
                .any(|(id, entry)| self.state(&id, entry) == State::Open)
        };
        self.journal.candidates().iter().filter(is_open).count()
    }

    /// Sample ids of the candidates to show, in their order.
    pub(crate) fn shown(&self) -> Vec<String> {
        let ids = self.pending().map(|candidate| candidate.sample_id.clone());
        ids.collect()
    }

    /// The candidates of these samples, each with its entries, their texts as edited, and where they
    /// stand.
    pub(crate) fn cards(&self, shown: &[String]) -> Vec<Card> {
        let shown: HashSet<&String> = shown.iter().collect();
        let candidates = self.journal.candidates().iter();
        let candidates = candidates.filter(|candidate| shown.contains(&candidate.sample_id));
        candidates.map(|candidate| self.card(candidate)).collect()
    }

    /// An entry that is curated now, by its id.
    pub(crate) fn item(&self, id: &str) -> Option<Item> {
        let entry = self.entry(id)?;
        Some(Item {
            id: id.to_owned(),
            state: self.state(id, entry),
            entry: self.text_of(id, entry).clone(),
        })
    }

    fn card(&self, candidate: &Candidate) -> Card {
        let item = |(id, entry): (String, &Entry)| Item {
            state: self.state(&id, entry),
            entry: self.text_of(&id, entry).clone(),
            id,
        };
        Card {
            sample_id: candidate.sample_id.clone(),
            origin: candidate.origin.clone(),
            prompt: candidate.prompt.clone(),
            facts: candidate.facts.clone(),
            pictures: candidate.pictures.clone(),
            entries: self.entries(candidate).map(item).collect(),
        }
    }

    /// An entry as edited.
    fn text_of<'a>(&'a self, id: &str, entry: &'a Entry) -> &'a Entry {
        let decision = self.journal.decision(id);
        decision.map_or(entry, |decision| &decision.entry)
    }

    /// Counts of the entries of these samples.
    pub(crate) fn tally(&self, shown: &[String]) -> Tally {
        let mut tally = Tally::default();
        for item in self.cards(shown).iter().flat_map(|card| &card.entries) {
            *match item.state {
                State::Open => &mut tally.open,
                State::Kept => &mut tally.kept,
                State::Dropped => &mut tally.dropped,
                State::Entered => &mut tally.entered,
            } += 1;
        }
        tally
    }

    /// Writes down a decision about an entry, with its text as edited.
    ///
    /// # Errors
    /// No such entry, a text that cannot be an example, a disk that does not take it.
    pub(crate) fn decide(
        &mut self,
        id: &str,
        verdict: Verdict,
        edited: Option<Entry>,
    ) -> Result<()> {
        let Some(original) = self.entry(id).cloned() else {
            let unknown = BadField::new("id", format!("there is no candidate `{id}`"));
            return Err(anyhow::Error::new(unknown).context(BadInput));
        };
        let entry = match edited {
            Some(edited) => edited.replacing(&original).context(BadInput)?,
            None => self.text_of(id, &original).clone(),
        };
        self.journal.decide(Decision {
            id: id.to_owned(),
            verdict,
            entry,
        })
    }

    fn entry(&self, id: &str) -> Option<&Entry> {
        let candidates = self.journal.candidates().iter();
        let mut entries = candidates.flat_map(|candidate| self.entries(candidate));
        let (_, entry) = entries.find(|(own, _)| own == id)?;
        Some(entry)
    }

    /// Enters what is kept, and curated now, into the ability's file.
    ///
    /// # Errors
    /// The file would not be one that the suite loads, or cannot be written; it is then as it was.
    pub(crate) fn save(&mut self) -> Result<Counts> {
        let candidates = self.journal.candidates().iter();
        let entries = candidates.flat_map(|candidate| self.entries(candidate));
        let kept = entries.filter(|(id, entry)| self.state(id, entry) == State::Kept);
        let kept: Vec<Entry> = kept
            .map(|(id, entry)| self.text_of(&id, entry).clone())
            .collect();
        let entered = self.file.enter(&kept)?;
        self.held = self.file.held()?;
        self.entered.prompts += entered.prompts;
        self.entered.dialogues += entered.dialogues;
        Ok(entered)
    }

    /// One sentence on what came of it all.
    pub(crate) fn summary(&self, shown: &[String]) -> String {
        let Counts { prompts, dialogues } = self.entered;
        let file = self.file().display();
        let mut summary = format!(
            "{} and {} entered in {file}",
            counted(prompts, "prompt"),
            counted(dialogues, "dialogue")
        );
        let Tally { open, kept, .. } = self.tally(shown);
        if kept > 0 {
            summary.push_str(&format!("; {kept} kept and not saved"));
        }
        if open > 0 {
            summary.push_str(&format!("; {open} undecided"));
        }
        if kept + open > 0 {
            summary.push_str(": run it again to go on");
        }
        summary
    }
}

/// A candidate as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    sample_id: String,
    origin: String,
    prompt: String,
    facts: Vec<String>,
    pictures: Vec<candidate::Plate>,
    entries: Vec<Item>,
}

/// An entry as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Item {
    id: String,
    state: State,
    #[serde(flatten)]
    entry: Entry,
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
