//! Rules of `diptych.trainer.v1.TrainerService`, from the comments in its schema.

use std::{fs, path::Path};

use proto::{
    dataset::v1::{Artefact, Capabilities},
    trainer::v1 as pb,
    trainer::v1::{
        data_source::Location, trainer_service_client::TrainerServiceClient, training_spec::Base,
    },
};
use runtime::Channel;
use tonic::Status;

use super::{
    Case, Subject, client,
    jobs::{self, Slip, Trials, desk, scratch},
    ledger::{Ledger, Miss, Refusal},
    manners, pictures,
};
use crate::jobs::artefact;

/// Samples of the training data.
const SAMPLES: usize = 4;

pub(super) async fn judge(case: &Case, channel: &Channel, ledger: &mut Ledger) {
    let desk = Desk(client!(TrainerServiceClient, channel));
    let told = manners::capabilities(ledger, Subject::Trainer, desk.capabilities()).await;
    let scratch = scratch(case);
    let folder = scratch
        .as_ref()
        .map(tempfile::TempDir::path)
        .map_err(Clone::clone);
    let trials = folder.and_then(|folder| trials(folder, &told.unwrap_or_default()));
    let name = jobs::name(&scratch);
    if let Ok(trials) = &trials {
        refusals(&desk, ledger, &name, &trials.short).await;
    }
    jobs::judge(ledger, &desk, &name, trials).await;
}

struct Desk(TrainerServiceClient<Channel>);

impl Desk {
    async fn capabilities(&self) -> Result<Option<Capabilities>, Status> {
        let reply = self
            .0
            .clone()
            .get_capabilities(pb::GetCapabilitiesRequest {})
            .await?;
        Ok(reply.into_inner().capabilities)
    }
}

desk!(Desk, "training", TrainingSpec, TrainingJob, slip, [
    create_training_job CreateTrainingJobRequest, get_training_job GetTrainingJobRequest,
    list_training_jobs ListTrainingJobsRequest, cancel_training_job CancelTrainingJobRequest,
    watch_training_job WatchTrainingJobRequest
]);

fn slip(job: pb::TrainingJob) -> Slip {
    let result = job.result.and_then(|result| result.model);
    Slip {
        job: job.job.unwrap_or_default(),
        result,
    }
}

async fn refusals(desk: &Desk, ledger: &mut Ledger, name: &str, good: &pb::TrainingSpec) {
    use jobs::Desk as _;
    let name = format!("{name}-bad");
    let with = |change: &dyn Fn(&mut pb::TrainingStage)| {
        let mut spec = good.clone();
        spec.stages.iter_mut().for_each(change);
        spec
    };
    let bare = pb::TrainingSpec {
        stages: Vec::new(),
        ..good.clone()
    };
    let cases = [
        ("no_stage", "A spec without stages", "spec.stages", bare),
        (
            "no_data",
            "A stage without data",
            "spec.stages.data",
            with(&|stage| stage.data.clear()),
        ),
        (
            "no_kind",
            "A stage whose kind is not stated",
            "spec.stages.kind",
            with(&|stage| stage.kind = 0),
        ),
        (
            "no_step",
            "A stage of no steps",
            "spec.stages.step_count",
            with(&|stage| stage.step_count = 0),
        ),
        (
            "no_batch",
            "A stage with batches of none",
            "spec.stages.batch_size",
            with(&|stage| stage.batch_size = 0),
        ),
        (
            "uneven_accumulation",
            "An accumulation_count that does not divide batch_size",
            "spec.stages.accumulation_count",
            with(&|stage| stage.accumulation_count = 3),
        ),
    ];
    for (rule, what, field, spec) in cases {
        let refusal = Refusal::invalid(format!("training_{rule}"), what, field);
        ledger
            .refused(refusal, desk.create(&name, Some(spec)))
            .await;
    }
}

fn trials(folder: &Path, told: &Capabilities) -> Result<Trials<pb::TrainingSpec>, Miss> {
    let model = told.models.first().map(|model| model.name.clone());
    let model = model.ok_or_else(|| Miss::not_judged("the capabilities name no model to train"))?;
    let unfit = |error: anyhow::Error| Miss::not_judged(format!("no training data: {error:#}"));
    let data = data(folder)?;
    let data = artefact(&data, false).map_err(unfit)?;
    let at = |name: &str| artefact(&folder.join(name), true).map_err(unfit);
    let spec = |output: Artefact, step_count: u32| pb::TrainingSpec {
        base: Some(Base::BaseModel(model.clone())),
        stages: vec![stage(data.clone(), step_count)],
        seed: 1,
        output: Some(output),
        ..pb::TrainingSpec::default()
    };
    let elsewhere = artefact(Path::new("/nobody/named/this"), true).map_err(unfit)?;
    Ok(Trials {
        short: spec(at("short")?, 1),
        other: spec(at("short")?, 2),
        long: spec(at("long")?, 100_000),
        unknown_model: pb::TrainingSpec {
            base: Some(Base::BaseModel("no such model".to_owned())),
            ..spec(at("unknown")?, 1)
        },
        outside: spec(elsewhere, 1),
    })
}

fn stage(data: Artefact, step_count: u32) -> pb::TrainingStage {
    let source = pb::DataSource {
        name: "conformance".to_owned(),
        location: Some(Location::LlavaJson(data)),
        ..pb::DataSource::default()
    };
    let optimizer = pb::OptimizerSettings {
        learning_rate: 1e-3,
        ..Default::default()
    };
    pb::TrainingStage {
        name: "instruct".to_owned(),
        kind: pb::StageKind::Instruction.into(),
        data: vec![source],
        step_count,
        batch_size: 2,
        optimizer: Some(optimizer),
        ..pb::TrainingStage::default()
    }
}

/// Writes a few conversations about one picture, as LLaVA JSON.
fn data(folder: &Path) -> Result<std::path::PathBuf, Miss> {
    let picture = pictures::drawn([200, 20, 20])?;
    let row = |index: usize| {
        serde_json::json!({
            "id": index.to_string(),
            "image": "disc.png",
            "conversations": [
                { "from": "human", "value": "<image>\nWhat color is the disc?" },
                { "from": "gpt", "value": "It is red." },
            ],
        })
    };
    let rows: Vec<serde_json::Value> = (0..SAMPLES).map(row).collect();
    let path = folder.join("data.json");
    let written = fs::write(folder.join("disc.png"), pictures::inline(&picture)?)
        .and_then(|()| fs::write(&path, serde_json::Value::from(rows).to_string()));
    written.map_err(|error| Miss::not_judged(format!("no training data: {error}")))?;
    Ok(path)
}
