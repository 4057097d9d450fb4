//! Checks what an ability says of samples with several pictures.

use super::{
    super::{
        Ability, QuestionTemplate, Split,
        file::{AbilityFile, Shown},
        pictures::SetOrder,
        template::{Slot, Template},
    },
    Aspect, Checked, names, require,
    texts::Texts,
};
use proto::dataset::v1::QuestionKind;
use std::{collections::BTreeMap, slice};

/// The keys that only such abilities have, and the aspects they name.
pub(super) fn keys(file: &AbilityFile, aspects: &BTreeMap<String, Aspect>) -> Checked {
    let is_several = file.images_per_sample > 1;
    let has_rules = !file.pictures.is_empty();
    require(
        "pictures",
        is_several || !has_rules,
        "this ability has one picture per sample (images_per_sample)",
    )?;
    require(
        "pictures",
        !is_several || has_rules,
        "say in one [[pictures]] or more what the pictures of a sample share and how they differ",
    )?;
    require(
        "shown",
        is_several || file.shown == Shown::Together,
        "there is one picture per sample (images_per_sample)",
    )?;
    let asks_of_all = file.question_kinds.contains(&QuestionKind::MultiImage);
    require(
        "question_kinds",
        is_several || !asks_of_all,
        "multi_image asks about several pictures, and there is one (images_per_sample)",
    )?;
    for (index, rule) in file.pictures.iter().enumerate() {
        for (list, named) in [("shared", &rule.shared), ("different", &rule.different)] {
            known(&format!("pictures[{index}].{list}"), named, aspects)?;
        }
    }
    Ok(())
}

/// Every rule must allow some pictures that are not held out.
pub(super) fn rules(ability: &Ability) -> Checked {
    let training = || {
        let all = ability.combinations.iter();
        all.filter(|found| found.split() == Split::Training)
            .collect::<Vec<_>>()
    };
    for (index, rule) in ability.picture_rules.iter().enumerate() {
        let mut sets = SetOrder::new(ability, &training(), slice::from_ref(rule), BTreeMap::new());
        require(
            &format!("pictures[{index}]"),
            sets.next().is_some(),
            &format!(
                "no {} pictures of this ability are so",
                ability.images_per_sample
            ),
        )?;
    }
    Ok(())
}

fn known(key: &str, named: &[String], aspects: &BTreeMap<String, Aspect>) -> Checked {
    let unknown = named.iter().find(|&name| !aspects.contains_key(name));
    let unknown = unknown.map_or("", String::as_str);
    let all = names(aspects.keys());
    require(
        key,
        unknown.is_empty(),
        &format!("`{unknown}` is none of the aspects {all}"),
    )
}

impl Texts<'_> {
    /// Whether a sample of this ability can be asked so: where pictures are shown together, a
    /// question about one of them must say which.
    pub(super) fn is_askable(&self, question: &QuestionTemplate) -> bool {
        self.image_count == 1
            || self.shown == Shown::OnePerTurn
            || question.kind == QuestionKind::MultiImage
            || question.names_picture()
    }

    /// What may be missing where no question of a kind is left.
    pub(super) fn hint(&self, kind: QuestionKind) -> &'static str {
        match self.image_count > 1 && kind != QuestionKind::MultiImage {
            true => " that says with {ordinal} which picture it is about",
            false => "",
        }
    }

    /// What a question says of several pictures.
    pub(super) fn pictures(&self, key: &str, question: &QuestionTemplate) -> Checked {
        let is_of_all = question.kind == QuestionKind::MultiImage;
        for (list, named) in [("same", &question.same), ("different", &question.different)] {
            let key = format!("{key}.{list}");
            known(&key, named, self.aspects)?;
            require(
                &key,
                is_of_all || named.is_empty(),
                "only a question of the kind multi_image compares pictures",
            )?;
        }
        let names_one = |ask: &Template| ask.slots().any(|slot| slot.name == "ordinal");
        let count = question.ask.iter().filter(|ask| names_one(ask)).count();
        require(
            &format!("{key}.ask"),
            count == 0 || count == question.ask.len(),
            "either all wordings hold {ordinal} or none",
        )
    }

    /// A benchmark's question about all pictures needs words that answer it.
    pub(super) fn scorable(&self, key: &str, question: &QuestionTemplate) -> Checked {
        let about = question.about.as_deref().unwrap_or(self.main_aspect);
        let is_shared = question.same.iter().any(|aspect| aspect == about);
        let is_of_all = question.kind == QuestionKind::MultiImage;
        require(
            &format!("{key}.accept"),
            !is_of_all || is_shared || !question.accept.is_empty(),
            "say what answers it, or ask about what is the `same`",
        )
    }

    /// Whether a placeholder is about pictures that there are.
    pub(super) fn picture(&self, key: &str, slot: &Slot, kind: Option<QuestionKind>) -> Checked {
        let is_of_all = kind == Some(QuestionKind::MultiImage);
        if slot.name == "ordinal" {
            let fits = self.image_count > 1 && kind.is_some() && !is_of_all;
            let is_bare = slot.form.is_none() && !slot.article && slot.picture.is_none();
            return require(
                key,
                fits && is_bare,
                "{ordinal} stands in questions about one of several pictures",
            );
        }
        let Some(picture) = slot.picture else {
            return Ok(());
        };
        let reason = format!(
            "`{}.{}` stands in questions of the kind multi_image about as many pictures, and there are {}",
            picture + 1,
            slot.name,
            self.image_count
        );
        let is_aspect = self.aspects.contains_key(&slot.name);
        require(
            key,
            is_of_all && is_aspect && picture < self.image_count,
            &reason,
        )
    }
}
