//! Embeddings of texts.

use std::path::PathBuf;

use promptgen::{Options, start};
use proto::promptgen::v1::{
    EmbedTextsRequest, GetCapabilitiesRequest,
    text_embedding_service_client::TextEmbeddingServiceClient,
};
use runtime::{Listener, Telemetry, options::ListenOptions};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::stage::{field_of, options, serve};

#[tokio::test]
async fn texts_are_not_embedded_without_a_model_and_a_missing_model_is_named() {
    let without = Options {
        embedding_model: String::new(),
        ..options()
    };
    let (handle, _client) = serve(without).await;
    let mut client = TextEmbeddingServiceClient::connect(handle.endpoint())
        .await
        .unwrap();
    let request = EmbedTextsRequest {
        texts: vec!["a dog".into()],
        model: String::new(),
    };
    let status = client.embed_texts(request).await.unwrap_err();
    assert!(
        status.code() == Code::Unimplemented && status.message().contains("--embedding-model"),
        "{status}"
    );

    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("promptgen");
    let lost = Options {
        embedding_model: "/nowhere/clip".into(),
        ..options()
    };
    let error = start(lost, listener, &telemetry, CancellationToken::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere/clip/config.json"), "{error}");
}

#[tokio::test]
async fn texts_are_embedded_as_transformers_does() {
    let fixtures = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../crates/models/tests/fixtures/sd"
    ));
    let model = fixtures.join("clip").display().to_string();
    let (handle, mut client) = serve(Options {
        embedding_model: model.clone(),
        ..options()
    })
    .await;
    let offered = client
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner()
        .capabilities
        .unwrap();
    assert!(
        offered.models[0].name == model && offered.features.contains(&"text_embedding".to_owned())
    );

    let mut client = TextEmbeddingServiceClient::connect(handle.endpoint())
        .await
        .unwrap();
    let request = |texts: &[&str], model: &str| EmbedTextsRequest {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        model: model.to_owned(),
    };
    // What the script beside the fixture embedded with transformers.
    let texts = ["a red dog", "beach, night"];
    let answer = client
        .embed_texts(request(&texts, ""))
        .await
        .unwrap()
        .into_inner();
    let expected = models::weights::Weights::open(&fixtures.join("expected.safetensors")).unwrap();
    let expected = expected.values("clip_text", &[2, 24]).unwrap();
    let actual = answer
        .embeddings
        .iter()
        .flat_map(|embedding| &embedding.values);
    assert_eq!(answer.embeddings.len(), 2);
    assert!(
        actual
            .zip(&expected)
            .all(|(actual, expected)| (actual - expected).abs() < 1e-5)
    );
    assert_eq!(answer.model_sha256, offered.models[0].sha256);
    let again = client
        .embed_texts(request(&["beach, night"], &model))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        again.embeddings[0], answer.embeddings[1],
        "from the cache, or alone, it is the same"
    );

    assert_eq!(
        field_of(&client.embed_texts(request(&[], "")).await.unwrap_err()),
        "texts"
    );
    assert_eq!(
        field_of(
            &client
                .embed_texts(request(&["x"; 257], ""))
                .await
                .unwrap_err()
        ),
        "texts"
    );
    assert_eq!(
        field_of(
            &client
                .embed_texts(request(&["a", &"x".repeat(8193)], ""))
                .await
                .unwrap_err()
        ),
        "texts[1]"
    );
    let status = client
        .embed_texts(request(&["a"], "other"))
        .await
        .unwrap_err();
    assert!(
        status.code() == Code::NotFound && status.message().contains("clip"),
        "{status}"
    );
}

#[tokio::test]
async fn texts_are_embedded_by_siglip_and_by_sentence_transformers_as_their_folders_say() {
    let fixtures = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../crates/models/tests/fixtures/measuring"
    ));
    let expected = models::weights::Weights::open(&fixtures.join("expected.safetensors")).unwrap();
    for (name, architecture, vectors) in [
        ("siglip", "SiglipModel", "siglip_texts"),
        ("sentence", "SentenceTransformer", "sentence_mean"),
    ] {
        let model = fixtures.join(name).display().to_string();
        let (handle, mut client) = serve(Options {
            embedding_model: model.clone(),
            ..options()
        })
        .await;
        let offered = client.get_capabilities(GetCapabilitiesRequest {}).await;
        let offered = offered.unwrap().into_inner().capabilities.unwrap();
        assert_eq!(offered.models[0].architecture, architecture);
        let mut client = TextEmbeddingServiceClient::connect(handle.endpoint())
            .await
            .unwrap();
        let request = EmbedTextsRequest {
            texts: vec![
                "a red dog on the beach".into(),
                "It's  2 FOXES, in the_snow! (night)".into(),
            ],
            model: String::new(),
        };
        let answer = client.embed_texts(request).await.unwrap().into_inner();
        let values = answer.embeddings.iter().flat_map(|vector| &vector.values);
        let expected = expected.values(vectors, &[4, 32]).unwrap();
        assert!(
            values.zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5),
            "{name}"
        );
        assert_eq!(answer.model_sha256, offered.models[0].sha256);
    }
}
