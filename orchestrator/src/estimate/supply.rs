//! How many samples an ability can give: the grammar has so many prompts and no more.

use anyhow::Result;
use dataset::ability::{Abilities, Ability, Draw, Split};
use serde::Serialize;

use crate::{assets::Assets, bad_input::BadInput, recipe::Recipe};

/// What is wanted of an ability, and what can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Supply {
    /// Name of the ability.
    pub ability: String,
    /// Samples that the recipe asks for.
    pub wanted: u64,
    /// Distinct prompts that there are, of several pictures sets of them. Not known where something
    /// else than this process's grammar writes, and where there are at least as many sets as wanted.
    pub distinct_prompts: Option<u64>,
    /// Most samples that can be had, where fewer than wanted.
    pub at_most: Option<u64>,
}

/// Counts the prompts of every ability of a recipe, as the grammar draws them.
///
/// # Errors
/// The abilities cannot be read, or a style of the recipe is none of theirs.
pub fn supplies(recipe: &Recipe, assets: &Assets) -> Result<Vec<Supply>> {
    let abilities = Abilities::load_folder(&assets.root().join("abilities"));
    let abilities = abilities.map_err(|error| anyhow::Error::from(error).context(BadInput))?;
    let supply = |(name, &wanted): (&String, &u64)| {
        let count = |ability| distinct_prompts(recipe, ability, wanted);
        // Promptgen itself refuses what it does not know.
        let distinct_prompts = abilities.get(name).map(count).transpose()?.flatten();
        Ok(Supply {
            ability: name.clone(),
            wanted,
            distinct_prompts,
            // Two slots never share a prompt: those past the last one stay empty.
            at_most: distinct_prompts.filter(|&count| count < wanted),
        })
    };
    recipe.synth.abilities.iter().map(supply).collect()
}

/// The recipe with as many samples of each ability as can be had.
#[must_use]
pub fn within(mut recipe: Recipe, supplies: &[Supply]) -> Recipe {
    for supply in supplies {
        if let (Some(most), Some(wanted)) = (
            supply.at_most,
            recipe.synth.abilities.get_mut(&supply.ability),
        ) {
            *wanted = most.min(*wanted);
        }
    }
    recipe
}

impl Supply {
    /// What is to be said of an ability that has fewer prompts than samples are wanted.
    pub fn warning(&self) -> Option<String> {
        let most = self.at_most?;
        let Self {
            ability, wanted, ..
        } = self;
        Some(format!(
            "{ability}: {wanted} samples are wanted, and the grammar has {most} distinct prompts: \
             at most {most} samples can be had; ask for fewer, add values to abilities/{ability}.toml, or let a language model \
             write (`backend` under [synth.prompts])"
        ))
    }
}

fn distinct_prompts(recipe: &Recipe, ability: &Ability, wanted: u64) -> Result<Option<u64>> {
    let weights = recipe.synth.style_weights.iter();
    let weights = weights.map(|(style, &weight)| (style.clone(), f64::from(weight)));
    let draw = Draw {
        seed: recipe.seed,
        split: Split::Training,
        style_weights: &weights.collect(),
    };
    let refused = |error| anyhow::Error::from(error).context(BadInput);
    if ability.images_per_sample() <= 1 {
        let count = ability.ordered(&draw).map_err(refused)?.len();
        return Ok(Some(count as u64));
    }
    // The sets of a large ability are not counted to their end: it would take long, and nobody asked.
    let most = usize::try_from(wanted).unwrap_or(usize::MAX);
    let sets = ability.picture_sets(&draw).map_err(refused)?;
    let count = sets.take(most).count() as u64;
    Ok(Some(count).filter(|&count| count < wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Recipe {
        toml::from_str(&format!("seed = 1\n[synth]\n{text}")).unwrap()
    }

    #[test]
    fn more_samples_than_prompts_are_not_promised() {
        let assets = Assets::find(None).unwrap();
        let all = recipe("abilities = { animal = 100000, food = 2, similarity = 3 }\n");
        let found = supplies(&all, &assets).unwrap();
        let [animal, food, similarity] = &found[..] else {
            panic!("{found:?}")
        };
        let prompts = animal.distinct_prompts.unwrap();
        assert!(prompts > 2 && prompts < 100_000, "{prompts}");
        assert_eq!(animal.at_most, Some(prompts));
        let said = animal.warning().unwrap();
        assert!(
            said.contains(&format!("at most {prompts} samples")),
            "{said}"
        );
        assert_eq!((food.at_most, food.warning()), (None, None));
        assert_eq!(
            (similarity.distinct_prompts, similarity.at_most),
            (None, None)
        );
        let possible = within(all, &found);
        assert_eq!(possible.synth.abilities["animal"], prompts);
        assert_eq!(possible.synth.abilities["food"], 2);

        // Fewer styles are fewer prompts, whatever the gates.
        let styled = recipe(
            "abilities = { animal = 100000 }\nstyle_weights = { cartoon = 1.0 }\n[synth.gates]\n",
        );
        let found = supplies(&styled, &assets).unwrap().remove(0);
        assert!(found.distinct_prompts.unwrap() < prompts);
        assert_eq!(found.at_most, found.distinct_prompts);
    }
}
