//! Turns a parsed file into an `Ability`, or says which key makes no sense.

mod several;
mod texts;

use super::{
    Ability, Aspect,
    combination::{Combination, Form, MAX_COMBINATIONS, Plan},
    error::AtKey,
    file::{AbilityFile, SharedFile},
    pictures::MAX_PICTURES,
    template::is_name,
    value::Value,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use texts::{SPECIAL, Texts};

type Axes = BTreeMap<String, Vec<Value>>;
type Checked<T = ()> = Result<T, AtKey>;

/// Fewest hand-written prompts: a prompt writer needs that many to see the form.
const MIN_PROMPT_EXAMPLES: usize = 5;
/// Characters with a meaning of their own in a prompt or in the split's hash.
const RESERVED: [char; 11] = ['(', ')', '[', ']', '{', '}', ',', ':', '|', '\\', '\n'];

pub(super) fn ability(file: AbilityFile, shared: &SharedFile, sha256: String) -> Checked<Ability> {
    let AbilityFile {
        name,
        description,
        images_per_sample,
        negative_prompt,
        cautions,
        prompt_examples,
        ..
    } = &file;
    require(
        "name",
        is_name(name),
        "use lower-case letters, digits and underscores, a letter first",
    )?;
    require(
        "description",
        !description.trim().is_empty(),
        "say in one sentence what it is",
    )?;
    require(
        "images_per_sample",
        (1..=MAX_PICTURES as u32).contains(images_per_sample),
        "must be 1 to 4",
    )?;
    require(
        "question_kinds",
        !file.question_kinds.is_empty(),
        "name at least one kind",
    )?;
    let enough = prompt_examples.len() >= MIN_PROMPT_EXAMPLES;
    require("prompt_examples", enough, "write five or more by hand")?;
    require(
        "dialogue_examples",
        !file.dialogue_examples.is_empty(),
        "write one or more by hand",
    )?;
    require(
        "forms",
        !file.forms.is_empty(),
        "an ability needs at least one way to put a prompt together",
    )?;
    require(
        "evaluation",
        !file.evaluation.is_empty(),
        "an ability needs questions for its evaluation",
    )?;
    let axes = merged_axes(&file, shared)?;
    let aspects = merged_aspects(&file, shared, &axes)?;
    let main = aspects.contains_key(&file.main_aspect);
    require(
        "main_aspect",
        main,
        &format!("is none of the aspects {}", names(aspects.keys())),
    )?;
    several::keys(&file, &aspects)?;
    let combinations = combinations(name, &file.forms, &axes)?;
    let texts = Texts {
        axes: &axes,
        aspects: &aspects,
        main_aspect: &file.main_aspect,
        image_count: *images_per_sample as usize,
        shown: file.shown,
    };
    let captions = if file.captions.is_empty() {
        &shared.captions
    } else {
        &file.captions
    };
    for caption in captions {
        texts.check("captions", caption, None)?;
    }
    let questions = texts.questions(&file, shared)?;
    texts.evaluation(&file.evaluation)?;
    let ability = Ability {
        name: name.clone(),
        description: description.clone(),
        images_per_sample: *images_per_sample,
        picture_rules: file.pictures.clone(),
        shown: file.shown,
        needs: file.needs.clone(),
        negative_prompt: negative_prompt.clone(),
        cautions: cautions.clone(),
        prompt_examples: prompt_examples.clone(),
        dialogue_examples: file.dialogue_examples,
        question_kinds: file.question_kinds,
        captions: captions.clone(),
        main_aspect: file.main_aspect,
        evaluation: file.evaluation,
        axes,
        aspects,
        questions,
        combinations,
        sha256,
    };
    several::rules(&ability)?;
    Ok(ability)
}

/// A file is found by its ability's name.
pub(super) fn file_name(name: &str, path: &Path) -> Checked {
    let fits = path.file_stem().is_some_and(|stem| stem == name);
    require(
        "name",
        fits,
        &format!("`{name}` must be the file's name without .toml"),
    )
}

fn merged_axes(file: &AbilityFile, shared: &SharedFile) -> Checked<Axes> {
    let mut axes = shared.axes.clone();
    axes.extend(file.axes.clone());
    require(
        "axes.keyword",
        !axes.contains_key("keyword"),
        "the keywords are this axis; write them under `keywords`",
    )?;
    let keywords = keywords(file, &axes)?;
    axes.insert("keyword".to_owned(), keywords);
    for (name, values) in &axes {
        let key = if name == "keyword" {
            "keywords".to_owned()
        } else {
            format!("axes.{name}")
        };
        require(
            &key,
            is_name(name) && !values.is_empty(),
            "needs a plain name and one value or more",
        )?;
        values_of(&key, values)?;
    }
    Ok(axes)
}

/// The keywords by list, or as the values of an axis.
fn keywords(file: &AbilityFile, axes: &Axes) -> Checked<Vec<Value>> {
    let Some(axis) = &file.keyword_axis else {
        require(
            "keywords",
            !file.keywords.is_empty(),
            "an ability needs at least one keyword",
        )?;
        return Ok(file.keywords.clone());
    };
    require(
        "keyword_axis",
        file.keywords.is_empty(),
        "give either `keywords` or `keyword_axis`",
    )?;
    let values = axes.get(axis).cloned();
    values.ok_or_else(|| {
        AtKey::new(
            "keyword_axis",
            format!(
                "there is no axis `{axis}`; the axes are {}",
                names(axes.keys())
            ),
        )
    })
}

fn values_of(key: &str, values: &[Value]) -> Checked {
    let mut seen = BTreeSet::new();
    for value in values {
        let text = &value.text;
        let key = format!("{key}.{text}");
        let plain = !text.trim().is_empty() && text.trim() == text && !text.contains(RESERVED);
        require(
            &key,
            plain,
            "must be words without brackets, commas or colons",
        )?;
        require(
            &key,
            value.weight.is_finite() && value.weight > 0.0,
            "its weight must be above 0",
        )?;
        require(&key, seen.insert(text), "stands there twice")?;
    }
    for value in values {
        for other in &value.like {
            let known = values.iter().any(|value| value.text == *other);
            require(
                &format!("{key}.{}.like", value.text),
                known,
                &format!("`{other}` is no value of this axis"),
            )?;
        }
    }
    Ok(())
}

fn merged_aspects(
    file: &AbilityFile,
    shared: &SharedFile,
    axes: &Axes,
) -> Checked<BTreeMap<String, Aspect>> {
    let mut aspects = shared.aspects.clone();
    aspects.extend(file.aspects.clone());
    for (name, aspect) in &aspects {
        let key = format!("aspects.{name}");
        require(
            &key,
            is_name(name) && !SPECIAL.contains(&name.as_str()),
            "is no name for an aspect",
        )?;
        let known = axes.contains_key(&aspect.axis);
        require(
            &key,
            known,
            &format!(
                "there is no axis `{}`; the axes are {}",
                aspect.axis,
                names(axes.keys())
            ),
        )?;
    }
    Ok(aspects)
}

fn combinations(ability: &str, forms: &[Form], axes: &Axes) -> Checked<Vec<Combination>> {
    let mut found = Vec::new();
    let mut texts = BTreeSet::new();
    for (index, form) in forms.iter().enumerate() {
        let key = format!("forms[{index}]");
        let plan = Plan::new(ability, form);
        rows(&key, form, &plan, axes)?;
        slots_of_form(&key, &plan, axes)?;
        let used = plan.axes();
        let product = used.iter().filter_map(|axis| axes.get(axis)).map(Vec::len);
        let product = product.fold(1_usize, usize::saturating_mul);
        // The forms' rows cut the product down while it grows; ten times is what is still quick.
        require(
            &key,
            product <= 10 * MAX_COMBINATIONS,
            &format!("makes {product} combinations, too many to order"),
        )?;
        let made = plan.combinations(axes);
        let reason = match form.count {
            Some(_) => "allows no combination at all whose count is a number",
            None => "allows no combination at all",
        };
        require(&key, !made.is_empty(), reason)?;
        found.extend(
            made.into_iter()
                .filter(|made| texts.insert(made.plain_text())),
        );
    }
    let few = found.len() <= MAX_COMBINATIONS;
    require(
        "forms",
        few,
        &format!("make {} prompts, more than {MAX_COMBINATIONS}", found.len()),
    )?;
    Ok(found)
}

fn rows(key: &str, form: &Form, plan: &Plan<'_>, axes: &Axes) -> Checked {
    let used = plan.axes();
    let all = form
        .allow
        .iter()
        .map(|row| ("allow", row))
        .chain(form.deny.iter().map(|row| ("deny", row)));
    for (list, row) in all {
        for (axis, texts) in row {
            let key = format!("{key}.{list}.{axis}");
            let values = axes.get(axis).filter(|_| used.contains(axis));
            let Some(values) = values else {
                return Err(AtKey::new(
                    key,
                    format!("this form uses only the axes {}", names(used.iter())),
                ));
            };
            for text in texts {
                let known = values.iter().any(|value| value.text == *text);
                require(&key, known, &format!("`{text}` is no value of this axis"))?;
            }
        }
    }
    Ok(())
}

fn slots_of_form(key: &str, plan: &Plan<'_>, axes: &Axes) -> Checked {
    for (name, template) in plan.templates() {
        let key = format!("{key}.{name}");
        for slot in template.slots() {
            if slot.name == "phrase" {
                require(&key, name == "parts", "only `parts` can hold {phrase}")?;
                continue;
            }
            let Some(values) = axes.get(&slot.name) else {
                let known = names(axes.keys());
                return Err(AtKey::new(
                    key,
                    format!("there is no axis `{}`; the axes are {known}", slot.name),
                ));
            };
            let some = values.iter().any(|value| slot.of(value).is_some());
            require(
                &key,
                some,
                &format!("no value of `{}` has the word form asked for", slot.name),
            )?;
        }
    }
    Ok(())
}

fn require(key: &str, holds: bool, reason: &str) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(AtKey::new(key, reason))
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}
