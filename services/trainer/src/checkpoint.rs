//! Checkpoints: all that a run needs to go on with the same bits.

use std::collections::HashMap;
use std::path::Path;

use models::checkpoint::{Entry, write_file, write_folder, write_tensors};
use models::llava::Llava;
use models::optim::{Adamw, AdamwSettings, Moments};
use models::weights::Weights;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::output::{Output, step_folders};

/// Where a run stands, between two steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Hash of the plan it belongs to.
    pub(crate) plan_sha256: String,
    /// The owner that wrote it.
    pub(crate) epoch: u64,
    /// The stage under way, from 0.
    pub(crate) stage: usize,
    /// Steps done in it.
    pub(crate) stage_step: u64,
    /// Steps done in all stages.
    pub(crate) step: u64,
    /// Samples drawn in the stage.
    pub(crate) drawn: u64,
    /// Hashes of the base and of all stages' sources; a run on others must not go on from here.
    pub(crate) inputs: Vec<String>,
    /// Samples without supervision, in the stages before this one.
    pub(crate) skipped: u64,
    /// Supervised positions so far.
    pub(crate) supervised: u64,
    /// Loss of the last step.
    pub(crate) last_loss: f64,
}

/// A checkpoint that was found whole.
pub(crate) struct Found {
    pub(crate) position: Position,
    weights: Weights,
    /// Absent at the end of a stage.
    optimizer: Option<Weights>,
}

/// Writes a checkpoint, whole or not at all, and removes the oldest beyond `kept`.
///
/// # Errors
/// The file that cannot be written.
pub(crate) fn save(
    output: &Output,
    position: &Position,
    model: &Llava,
    optimizer: Option<&Adamw>,
    kept: usize,
) -> Result<(), Error> {
    let folder = output.checkpoints();
    std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
    write_folder(
        &folder.join(format!("step-{:08}", position.step)),
        |new| -> Result<(), Error> {
            write_tensors(
                &new.join("weights.safetensors"),
                &model.parameter_entries()?,
                HashMap::new(),
            )?;
            if let Some(optimizer) = optimizer {
                write_tensors(
                    &new.join("optimizer.safetensors"),
                    &moments(optimizer),
                    HashMap::new(),
                )?;
            }
            let state = serde_json::to_vec_pretty(position).unwrap_or_default();
            Ok(write_file(&new.join("state.json"), &state)?)
        },
    )?;
    for (_, old) in step_folders(&folder).into_iter().skip(kept) {
        std::fs::remove_dir_all(&old).map_err(Error::write(old))?;
    }
    Ok(())
}

/// The newest checkpoint that is whole and belongs to the plan.
pub(crate) fn newest(output: &Output) -> Option<Found> {
    step_folders(&output.checkpoints()).into_iter().find_map(|(step, folder)| {
        let found = open(&folder).filter(|found| found.position.plan_sha256 == output.plan_sha256());
        if found.is_none() {
            tracing::warn!(step, folder = %folder.display(), "a checkpoint that is not whole is passed over");
        }
        found
    })
}

impl Found {
    /// Puts the parameters into the model.
    ///
    /// # Errors
    /// Names the tensor that is missing or of another shape.
    pub(crate) fn restore(&self, model: &mut Llava) -> Result<(), Error> {
        Ok(model.replace_parameters(|name, shape| Ok(self.weights.values(name, shape)?))?)
    }

    /// The optimizer of a stage under way, its parameters being those that `model` trains.
    ///
    /// # Errors
    /// A state of another model.
    pub(crate) fn optimizer(
        &self,
        model: &Llava,
        settings: AdamwSettings,
    ) -> Result<Option<Adamw>, Error> {
        let Some(weights) = &self.optimizer else {
            return Ok(None);
        };
        let trained = model
            .parameters()
            .filter(|parameter| parameter.var().is_some());
        let read = |(index, parameter): (usize, &models::parameter::Parameter)| {
            let shape = [parameter.tensor().elem_count()];
            let first = weights.values(&format!("{index:04}.first"), &shape)?;
            Ok(Moments {
                first,
                second: weights.values(&format!("{index:04}.second"), &shape)?,
            })
        };
        let moments: Result<Vec<Moments>, models::llava_error::Error> =
            trained.enumerate().map(read).collect();
        let steps = self.position.stage_step;
        Ok(Some(Adamw::resume(
            model.parameters(),
            settings,
            steps,
            moments?,
        )?))
    }
}

fn open(folder: &Path) -> Option<Found> {
    let position: Position =
        serde_json::from_slice(&std::fs::read(folder.join("state.json")).ok()?).ok()?;
    let weights = Weights::open(&folder.join("weights.safetensors")).ok()?;
    let optimizer = match position.stage_step {
        0 => None,
        _ => Some(Weights::open(&folder.join("optimizer.safetensors")).ok()?),
    };
    Some(Found {
        position,
        weights,
        optimizer,
    })
}

fn moments(optimizer: &Adamw) -> Vec<Entry> {
    let both = |(index, moments): (usize, &Moments)| {
        let entry = |name: &str, values: &Vec<f32>| -> Entry {
            (
                format!("{index:04}.{name}"),
                vec![values.len()],
                values.clone(),
            )
        };
        [
            entry("first", &moments.first),
            entry("second", &moments.second),
        ]
    };
    optimizer
        .moments()
        .iter()
        .enumerate()
        .flat_map(both)
        .collect()
}
