//! What a recipe's abilities ask of the other stages, looked at before any work.

use anyhow::{Result, anyhow};
use proto::{dataset::v1::Ability, promptgen::v1::GetAbilityRequest};
use tonic::Code;

use super::stages;
use crate::{
    bad_input::{BadInput, complaint},
    recipe::Recipe,
    suite::{ServiceName, Suite},
};

/// Refuses an ability that promptgen does not have, before anything is written in its name.
async fn check_known(suite: &Suite, name: &str) -> Result<()> {
    let request = GetAbilityRequest {
        name: name.to_owned(),
    };
    match suite.promptgen.clone().get_ability(request).await {
        Err(status) if status.code() == Code::NotFound => Err(complaint(&status)),
        _ => Ok(()),
    }
}

/// Models with this name draw single things in a scene, and no more.
const SMALL_MODELS: &str = "builtin:nano";

/// Refuses a recipe whose image model cannot draw what an ability needs, whose dialogues end before they
/// have shown every picture, or whose evaluation would ask about one picture where a sample has several.
///
/// # Errors
/// As said, as bad input; or promptgen does not answer.
pub async fn check(suite: &Suite, recipe: &Recipe) -> Result<()> {
    let mut model = recipe.synth.image.model.clone();
    for name in recipe.synth.abilities.keys() {
        let ability = stages::ability(suite, name).await?;
        if ability == Ability::default() {
            check_known(suite, name).await?;
        }
        check_rounds(&ability, recipe.synth.dialogue.rounds)?;
        if ability.images_per_sample > 1 && recipe.eval.is_some() {
            let complaint = anyhow!(
                "the evaluation asks about one picture, and samples of ability `{name}` have {}: leave the ability or [eval] out",
                ability.images_per_sample
            );
            return Err(complaint.context(BadInput));
        }
        if ability.needs.is_empty() {
            continue;
        }
        if model.is_empty() {
            let models = suite.capabilities(ServiceName::Diffusion).await?.models;
            model = models.into_iter().next().unwrap_or_default().name;
        }
        if model.starts_with(SMALL_MODELS) {
            let complaint = anyhow!(
                "ability `{name}` needs {}, and {model} is none: name another model in [synth.image], or leave the ability out",
                ability.needs
            );
            return Err(complaint.context(BadInput));
        }
    }
    Ok(())
}

fn check_rounds(ability: &Ability, round_count: u32) -> Result<()> {
    let Ability {
        name,
        images_per_sample: image_count,
        shows_one_image_per_turn,
        ..
    } = ability;
    if !shows_one_image_per_turn || round_count >= *image_count {
        return Ok(());
    }
    let complaint = anyhow!(
        "`synth.dialogue.rounds` is {round_count}, and dialogues of ability `{name}` show {image_count} pictures one by one: ask for {image_count} rounds or more"
    );
    Err(complaint.context(BadInput))
}
