//! Scores of images.

use diffusion::Options;
use proto::dataset::v1::{Artefact, Capabilities, Image, image::Content};
use proto::diffusion::v1::{
    GetCapabilitiesRequest, ImageScore, SafetyVerdict, ScoreImagesRequest, ScoreImagesResponse,
    ScoreItem, ScoreMeasure,
};
use runtime::options::NamedFolder;
use std::path::{Path, PathBuf};
use tonic::Code;

use crate::stage::{Stage, fixture, options, wide};

#[tokio::test(flavor = "multi_thread")]
async fn images_are_scored_and_one_that_cannot_be_read_does_not_sink_the_others() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture("clip/picture.png"),
        folder.path().join("picture.png"),
    )
    .unwrap();
    let mut options = options();
    options.artefacts.artefact_roots = vec![folder.path().to_path_buf()];
    let stage = Stage::start(options).await.unwrap();
    let bytes = std::fs::read(fixture("clip/picture.png")).unwrap();
    let uri = |path: &Path| format!("file://{}", path.canonicalize().unwrap().display());
    let stored = |uri| {
        Some(Content::Artefact(Artefact {
            uri,
            ..Artefact::default()
        }))
    };
    let item = |content| ScoreItem {
        image: Some(Image {
            content,
            ..Image::default()
        }),
        texts: vec!["a red dog".into(), "beach".into()],
    };
    let request = ScoreImagesRequest {
        items: vec![
            item(Some(Content::Data(bytes.into()))),
            item(stored(uri(&folder.path().join("picture.png")))),
            item(Some(Content::Data(vec![1, 2, 3].into()))),
            item(stored(uri(&fixture("clip/picture.png")))),
        ],
        measures: vec![
            ScoreMeasure::Alignment.into(),
            ScoreMeasure::Embedding.into(),
        ],
        model: String::new(),
    };
    let reply = stage
        .scores
        .clone()
        .score_images(request.clone())
        .await
        .unwrap()
        .into_inner();
    let [inline, stored, broken, outside] = reply.scores.as_slice() else {
        panic!("{reply:?}")
    };
    assert_eq!(inline.alignment_cosine.len(), 2);
    assert!((inline.embedding.iter().map(|v| v * v).sum::<f32>() - 1.).abs() < 1e-5);
    assert_eq!(inline, stored);
    assert_eq!(broken.failure.as_ref().unwrap().reason, "UNREADABLE_IMAGE");
    assert!(
        outside
            .failure
            .as_ref()
            .unwrap()
            .message
            .contains("artefact root")
    );
    assert_eq!(
        (reply.model.as_str(), reply.model_sha256.len()),
        ("clip", 64)
    );

    let refused = |request| async {
        stage
            .scores
            .clone()
            .score_images(request)
            .await
            .unwrap_err()
            .code()
    };
    assert_eq!(
        refused(ScoreImagesRequest {
            measures: Vec::new(),
            ..request.clone()
        })
        .await,
        Code::InvalidArgument
    );
    assert_eq!(
        refused(ScoreImagesRequest {
            items: Vec::new(),
            ..request.clone()
        })
        .await,
        Code::InvalidArgument
    );
    let without = Stage::start(Options {
        scoring_models: Vec::new(),
        ..self::options()
    })
    .await
    .unwrap();
    let status = without
        .scores
        .clone()
        .score_images(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

fn measuring(name: &str) -> PathBuf {
    fixture("../measuring").join(name)
}

fn asking(measures: &[ScoreMeasure]) -> ScoreImagesRequest {
    let item = |name: &str| ScoreItem {
        image: Some(Image {
            content: Some(Content::Data(
                std::fs::read(measuring(name)).unwrap().into(),
            )),
            ..Image::default()
        }),
        texts: vec!["a red dog on the beach".into()],
    };
    ScoreImagesRequest {
        items: vec![item("wide.png"), item("grain.png")],
        measures: measures.iter().map(|&measure| measure.into()).collect(),
        model: String::new(),
    }
}

async fn answered(stage: &Stage, measures: &[ScoreMeasure]) -> ScoreImagesResponse {
    let reply = stage.scores.clone().score_images(asking(measures)).await;
    reply.unwrap().into_inner()
}

async fn told(stage: &Stage) -> Capabilities {
    let mut client = stage.images.clone();
    let reply = client.get_capabilities(GetCapabilitiesRequest {}).await;
    reply.unwrap().into_inner().capabilities.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_siglip_scores_and_a_safety_model_judges_as_the_reference_libraries_do() {
    let named = |name: &str| NamedFolder {
        name: name.to_owned(),
        folder: measuring(name),
    };
    let stage = Stage::start(Options {
        scoring_models: vec![named("siglip")],
        safety_model: Some(named("safety_checker")),
        ..options()
    })
    .await
    .unwrap();
    let offered = told(&stage).await;
    let models = &offered.measuring_models;
    assert!(models[0].architecture == "SiglipModel" && models[1].name == "safety_checker");
    assert!(offered.features.contains(&"safety".to_owned()));

    use ScoreMeasure::{Alignment, Embedding, Safety};
    let reply = answered(&stage, &[Alignment, Embedding, Safety]).await;
    let all = models::weights::Weights::open(&measuring("expected.safetensors")).unwrap();
    let vectors = all.values("siglip_images", &[2, 32]).unwrap();
    let texts = all.values("siglip_texts", &[4, 32]).unwrap();
    for (score, expected) in reply.scores.iter().zip(vectors.chunks(32)) {
        let gap = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(score.embedding.iter().zip(expected).all(gap));
        let cosine: f32 = expected.iter().zip(&texts).map(|(a, b)| a * b).sum();
        assert!((score.alignment_cosine[0] - cosine).abs() < 1e-5);
    }
    let verdicts = |reply: &ScoreImagesResponse| -> Vec<SafetyVerdict> {
        reply.scores.iter().map(ImageScore::safety).collect()
    };
    assert_eq!(
        verdicts(&reply),
        [SafetyVerdict::Safe, SafetyVerdict::Unsafe]
    );
    assert_eq!(reply.safety_model_sha256, models[1].sha256);
    assert_eq!(reply.model_sha256, models[0].sha256);
    let unasked = answered(&stage, &[Alignment]).await;
    assert_eq!(verdicts(&unasked), [SafetyVerdict::NotChecked; 2]);
    assert_eq!(unasked.safety_model, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_brings_its_own_safety_checker_and_safety_needs_no_scoring_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = wide(folder.path());
    let (from, to) = (
        measuring("safety_checker"),
        model.folder.join("safety_checker"),
    );
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let start = || {
        Stage::start(Options {
            models: vec![model.clone()],
            scoring_models: Vec::new(),
            ..options()
        })
    };
    let stage = start().await.unwrap();
    let reply = answered(&stage, &[ScoreMeasure::Safety]).await;
    assert_eq!(reply.safety_model, "wide/safety_checker");
    assert!(reply.model.is_empty() && reply.scores[0].embedding.is_empty());
    assert_eq!(reply.scores[1].safety(), SafetyVerdict::Unsafe);

    // One that nobody asked for and that does not load leaves pictures unchecked, and the service up.
    std::fs::remove_file(to.join("model.safetensors")).unwrap();
    let stage = start().await.unwrap();
    assert!(told(&stage).await.measuring_models.is_empty());
    let request = asking(&[ScoreMeasure::Safety]);
    let status = stage
        .scores
        .clone()
        .score_images(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    // One that was asked for is named with its folder.
    let asked = Options {
        safety_model: Some(NamedFolder {
            name: "mine".to_owned(),
            folder: to.clone(),
        }),
        ..options()
    };
    let error = Stage::start(asked).await.err().unwrap();
    let error = runtime::error::chain(&error);
    assert!(
        error.contains("mine") && error.contains(&to.display().to_string()),
        "{error}"
    );
}
