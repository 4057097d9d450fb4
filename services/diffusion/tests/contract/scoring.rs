//! Scores of images.

use diffusion::Options;
use proto::dataset::v1::{Artefact, Image, image::Content};
use proto::diffusion::v1::{ScoreImagesRequest, ScoreItem, ScoreMeasure};
use std::path::Path;
use tonic::Code;

use crate::stage::{Stage, fixture, options};

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
