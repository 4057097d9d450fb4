//! Checks the wordings of an ability: every placeholder must be one that can be filled.

use super::{
    super::{
        Aspect, QuestionTemplate,
        error::AtKey,
        file::{AbilityFile, SharedFile, Shown},
        template::{Slot, Template},
    },
    Axes, Checked, names, require,
};
use proto::dataset::v1::QuestionKind;
use std::collections::BTreeMap;

/// Placeholders that a question fills by itself, by kind; they are no aspects.
pub(super) const SPECIAL: [&str; 10] = [
    "value",
    "truth",
    "first",
    "second",
    "options",
    "letter",
    "caption",
    "abnormality",
    "phrase",
    "ordinal",
];

fn special_of(kind: QuestionKind) -> &'static [&'static str] {
    match kind {
        QuestionKind::Caption => &["caption", "truth", "abnormality"],
        QuestionKind::YesNo | QuestionKind::Negative => &["value", "truth", "abnormality"],
        QuestionKind::EitherOr => &["first", "second", "truth", "abnormality"],
        QuestionKind::MultipleChoice => &["options", "letter", "truth", "abnormality"],
        _ => &["truth", "abnormality"],
    }
}

/// What the texts of an ability can name.
pub(super) struct Texts<'a> {
    pub(super) axes: &'a Axes,
    pub(super) aspects: &'a BTreeMap<String, Aspect>,
    pub(super) main_aspect: &'a str,
    pub(super) image_count: usize,
    pub(super) shown: Shown,
}

impl Texts<'_> {
    /// The ability's questions, then the shared ones, of the kinds it wants.
    pub(super) fn questions(
        &self,
        file: &AbilityFile,
        shared: &SharedFile,
    ) -> Checked<Vec<QuestionTemplate>> {
        let own = file
            .questions
            .iter()
            .map(|question| ("questions", question));
        let all = own.chain(
            shared
                .questions
                .iter()
                .map(|question| ("questions of shared.toml", question)),
        );
        let mut kept = Vec::new();
        for (index, (list, question)) in all.enumerate() {
            let key = format!("{list}[{index}]");
            self.question(&key, question)?;
            require(
                &format!("{key}.answer"),
                !question.answer.is_empty(),
                "write one answer or more",
            )?;
            let both = question.kind != QuestionKind::YesNo || !question.answer_no.is_empty();
            require(
                &format!("{key}.answer_no"),
                both,
                "a yes/no question needs the wording of its no",
            )?;
            if file.question_kinds.contains(&question.kind) && self.is_askable(question) {
                kept.push(question.clone());
            }
        }
        for &kind in &file.question_kinds {
            let some = kept.iter().any(|question| question.kind == kind);
            require(
                "question_kinds",
                some,
                &format!(
                    "there is no question of the kind {}{}",
                    kind.as_str_name(),
                    self.hint(kind)
                ),
            )?;
        }
        Ok(kept)
    }

    pub(super) fn evaluation(&self, questions: &[QuestionTemplate]) -> Checked {
        for (index, question) in questions.iter().enumerate() {
            let key = format!("evaluation[{index}]");
            self.question(&key, question)?;
            let bare = question.answer.is_empty() && question.answer_no.is_empty();
            require(
                &format!("{key}.answer"),
                bare,
                "evaluation has accepted keywords, no worded answers",
            )?;
            self.scorable(&key, question)?;
        }
        Ok(())
    }

    fn question(&self, key: &str, question: &QuestionTemplate) -> Checked {
        let about = question.about.as_deref().unwrap_or(self.main_aspect);
        let known = self.aspects.contains_key(about);
        let aspects = names(self.aspects.keys());
        require(
            &format!("{key}.about"),
            known,
            &format!("`{about}` is none of the aspects {aspects}"),
        )?;
        self.pictures(key, question)?;
        for (aspect, values) in &question.when {
            self.condition(&format!("{key}.when.{aspect}"), aspect, values)?;
        }
        require(
            &format!("{key}.ask"),
            !question.ask.is_empty(),
            "write one wording or more",
        )?;
        let lists = [
            ("ask", &question.ask),
            ("answer", &question.answer),
            ("answer_no", &question.answer_no),
            ("accept", &question.accept),
        ];
        for (list, templates) in lists {
            for template in templates {
                self.check(
                    &format!("{key}.{list}"),
                    template,
                    Some((question.kind, about)),
                )?;
            }
        }
        Ok(())
    }

    fn condition(&self, key: &str, aspect: &str, values: &[String]) -> Checked {
        let axis = self
            .aspects
            .get(aspect)
            .and_then(|aspect| self.axes.get(&aspect.axis));
        let Some(axis) = axis else {
            return Err(AtKey::new(key, format!("`{aspect}` is no aspect")));
        };
        let unknown = values
            .iter()
            .find(|text| !axis.iter().any(|value| value.text == **text));
        require(
            key,
            unknown.is_none(),
            &format!("{unknown:?} is no value of this aspect"),
        )
    }

    pub(super) fn check(
        &self,
        key: &str,
        template: &Template,
        question: Option<(QuestionKind, &str)>,
    ) -> Checked {
        for slot in template.slots() {
            self.picture(key, slot, question.map(|(kind, _)| kind))?;
            if slot.name == "ordinal" {
                continue;
            }
            let special =
                question.filter(|(kind, _)| special_of(*kind).contains(&slot.name.as_str()));
            let bare =
                ["options", "letter", "caption", "abnormality"].contains(&slot.name.as_str());
            match special {
                Some(_) if bare => require(
                    key,
                    slot.form.is_none() && !slot.article,
                    "this placeholder has one form only",
                )?,
                Some((_, about)) => self.words(key, slot, about)?,
                None if slot.name == "abnormality" => {}
                None => self.words(key, slot, &slot.name)?,
            }
        }
        Ok(())
    }

    /// Every value of an aspect must have the word form that a template asks for.
    fn words(&self, key: &str, slot: &Slot, aspect: &str) -> Checked {
        let axis = self
            .aspects
            .get(aspect)
            .and_then(|aspect| self.axes.get(&aspect.axis));
        let Some(values) = axis else {
            let known = names(self.aspects.keys());
            return Err(AtKey::new(
                key,
                format!("`{{{}}}` names none of the aspects {known}", slot.name),
            ));
        };
        let lacking = values.iter().find(|value| slot.of(value).is_none());
        let Some(lacking) = lacking else {
            return Ok(());
        };
        let form = slot.form.as_deref().unwrap_or_default();
        Err(AtKey::new(
            key,
            format!("`{}` has no word form `{form}`", lacking.text),
        ))
    }
}
