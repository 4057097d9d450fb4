//! Pictures: where they come from, whom they wait for, and what is refused.

use diffusion::Options;
use models::stable_diffusion::{Pipeline, PromptSyntax, Request};
use proto::dataset::v1::Image;
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use proto::diffusion::v1::{
    GenerateImagesRequest, GetCapabilitiesRequest, ImageItem, ListModelsRequest, SamplingSettings,
    Scheduler,
};
use runtime::options::NamedFolder;
use runtime::{error, explain};
use std::collections::HashMap;
use tonic::Code;

use crate::stage::{
    SOON, Stage, endless, fixture, item, options, png, progress, wanted, wide, with,
};

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_with_progress_and_say_where_they_come_from() {
    let stage = Stage::start(options()).await.unwrap();
    let mut stream = stage
        .ask(wanted(vec![item(7, "a red dog, beach, cartoon")], 10))
        .await
        .unwrap();
    let waiting = progress(&mut stream).await;
    assert_eq!((waiting.done_step_count, waiting.step_count), (0, 10));
    for step in 1..=10 {
        assert_eq!(progress(&mut stream).await.done_step_count, step);
    }
    let end = stream.message().await.unwrap().unwrap();
    let Some(Outcome::Image(generated)) = end.result.clone() else {
        panic!("{end:?}")
    };
    assert!(stream.message().await.unwrap().is_none());
    let image = generated.image.unwrap();
    assert!(image.ai_generated && !generated.prompt_truncated && image.media_type == "image/png");
    let provenance = image.provenance.unwrap();
    assert_eq!(
        (
            provenance.seed,
            provenance.seeded,
            provenance.model.as_str()
        ),
        (7, true, "tiny")
    );
    assert_eq!(provenance.model_sha256.len(), 64);
    assert_eq!(provenance.parameters["scheduler"], "ddim");

    let outcome = end.result.unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png(&outcome)))
        .read_info()
        .unwrap();
    let texts: HashMap<String, String> = reader
        .info()
        .uncompressed_latin1_text
        .iter()
        .map(|c| (c.keyword.clone(), c.text.clone()))
        .collect();
    assert_eq!(texts["Source"], "AI-generated");
    assert_eq!(
        (texts["prompt"].as_str(), texts["seed"].as_str()),
        ("a red dog, beach, cartoon", "7")
    );
    assert_eq!(texts["model_sha256"], provenance.model_sha256);
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let expected = Request {
        prompt: "a red dog, beach, cartoon".into(),
        negative_prompt: String::new(),
        seed: 7,
        steps: 10,
        guidance: 4.,
        width_px: 16,
        height_px: 16,
        syntax: PromptSyntax::Plain,
        scheduler: None,
        ..Request::default()
    };
    let expected = Pipeline::load(&fixture("tiny"), "tiny")
        .unwrap()
        .generate(&expected)
        .unwrap();
    assert_eq!((image.width_px, image.height_px), (16, 16));
    assert!(pixels == expected.rgb);

    let capabilities = stage
        .images
        .clone()
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .unwrap();
    let capabilities = capabilities.into_inner().capabilities.unwrap();
    assert_eq!(capabilities.models[0].sha256, provenance.model_sha256);
    assert!(capabilities.features.contains(&"alignment".to_owned()));
    let models = stage
        .images
        .clone()
        .list_models(ListModelsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            models.models[0].default_width_px,
            models.models[0].size_multiple_px
        ),
        (16, 2)
    );
    assert_eq!(models.models[0].default_scheduler(), Scheduler::Ddim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_refused_and_the_field_is_named() {
    let stage = Stage::start(options()).await.unwrap();
    let two = |a, b| wanted(vec![item(a, "dog"), item(b, "cat")], 3);
    let strength = ImageItem {
        strength: 0.5,
        ..item(1, "dog")
    };
    let start = ImageItem {
        init_image: Some(Image::default()),
        ..item(1, "dog")
    };
    let nameless = ImageItem {
        sample_id: "1".into(),
        ..item(1, "dog")
    };
    for (field, request) in [
        ("settings.width_px", with(|s| s.width_px = 63)),
        ("settings.height_px", with(|s| s.height_px = 30_000)),
        // Four times the model's 16 pixels, and no more.
        ("settings.width_px", with(|s| s.width_px = 66)),
        ("settings.step_count", with(|s| s.step_count = 1001)),
        (
            "settings.guidance_scale",
            with(|s| s.guidance_scale = Some(f32::NAN)),
        ),
        ("settings.scheduler", with(|s| s.scheduler = 99)),
        (
            "settings.scheduler",
            with(|s| s.scheduler = Scheduler::FlowEuler.into()),
        ),
        ("settings.prompt_syntax", with(|s| s.prompt_syntax = 9)),
        // The tiny encoder has two layers.
        ("settings.clip_skip", with(|s| s.clip_skip = 2)),
        (
            "settings.guidance_rescale",
            with(|s| s.guidance_rescale = f32::NAN),
        ),
        ("settings.eta", with(|s| s.eta = 0.5)),
        ("items", wanted(Vec::new(), 3)),
        (
            "items",
            wanted((0..1000).map(|n| item(n, "dog")).collect(), 3),
        ),
        ("items[1].sample_id", two(5, 5)),
        ("items[0].sample_id", wanted(vec![nameless], 3)),
        ("items[0].strength", wanted(vec![strength], 3)),
        ("items[0].init_image", wanted(vec![start], 3)),
    ] {
        let status = stage.ask(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        let details = tonic_types::StatusExt::get_error_details(&status);
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            field,
            "{status}"
        );
    }
    let unknown = GenerateImagesRequest {
        model: "dall-e".into(),
        ..wanted(vec![item(1, "dog")], 3)
    };
    let status = stage.ask(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(explain(&status).contains("there are: tiny"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sampler_of_the_schema_makes_its_own_picture_or_says_why_not() {
    let stage = Stage::start(options()).await.unwrap();
    let mut pictures = HashMap::new();
    for number in 1..=11 {
        let scheduler = Scheduler::try_from(number).unwrap();
        let request = with(|s| {
            s.scheduler = number;
            // Where the stride is whole, DDIM and Euler are one way in two notations.
            s.step_count = 7;
        });
        if scheduler == Scheduler::FlowEuler {
            let status = stage.ask(request).await.unwrap_err();
            assert!(explain(&status).contains("flow matching"), "{status}");
            continue;
        }
        let outcomes = stage.outcomes(request).await;
        let outcome = outcomes.values().next().unwrap();
        let Outcome::Image(image) = outcome else {
            panic!("{scheduler:?}: {outcome:?}")
        };
        let provenance = image.image.as_ref().unwrap().provenance.as_ref().unwrap();
        let name = &provenance.parameters["scheduler"];
        let mut reader = png::Decoder::new(std::io::Cursor::new(png(outcome)))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let twin = pictures.insert(pixels, name.clone());
        assert!(twin.is_none(), "{name} makes the picture of {twin:?}");
    }
    assert_eq!(pictures.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_prompt_that_is_too_long_does_not_sink_the_others() {
    let stage = Stage::start(options()).await.unwrap();
    let long = "dog ".repeat(10_000);
    let ends = stage
        .outcomes(wanted(
            vec![item(1, &long), item(2, "cat"), item(3, &"cat ".repeat(40))],
            3,
        ))
        .await;
    assert_eq!(ends.len(), 3);
    let Outcome::Failure(failure) = &ends[&format!("{:032x}", 1)] else {
        panic!("{ends:?}")
    };
    assert_eq!(
        (failure.reason.as_str(), failure.retryable),
        ("PROMPT_TOO_LONG", false)
    );
    // Every BREAK is one more pass through the text encoder.
    let many = wanted(vec![item(1, &"BREAK ".repeat(14)), item(2, "a BREAK b")], 3);
    let many = GenerateImagesRequest {
        settings: Some(SamplingSettings {
            prompt_syntax: proto::dataset::v1::PromptSyntax::Webui.into(),
            ..many.settings.unwrap()
        }),
        ..many
    };
    let broken = stage.outcomes(many).await;
    let Outcome::Failure(failure) = &broken[&format!("{:032x}", 1)] else {
        panic!("{broken:?}")
    };
    assert!(
        failure.message.contains("15 chunks, at most 14"),
        "{failure:?}"
    );
    assert!(matches!(broken[&format!("{:032x}", 2)], Outcome::Image(_)));
    for (number, cut) in [(2, false), (3, true)] {
        let Outcome::Image(image) = &ends[&format!("{number:032x}")] else {
            panic!("{ends:?}")
        };
        assert_eq!(image.prompt_truncated, cut);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_refused_at_once_and_a_caller_that_leaves_frees_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(Options {
        queue_capacity: 1,
        max_batch: 1,
        models: vec![wide(folder.path())],
        ..options()
    })
    .await
    .unwrap();
    let mut running = stage.ask(endless(1)).await.unwrap();
    while progress(&mut running).await.done_step_count == 0 {}
    let mut waiting = stage.ask(endless(2)).await.unwrap();
    assert_eq!(progress(&mut waiting).await.done_step_count, 0);

    let status = stage
        .ask(wanted(vec![item(3, "fox")], 2))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(error::reason(&status).as_deref(), Some("QUEUE_FULL"));
    assert!(error::retry_after(&status).is_some());
    assert!(runtime::prometheus::render().contains("diptych_queue_depth"));

    // The one in the queue gets the device as soon as the other's caller is gone.
    drop(running);
    let begins = async { while progress(&mut waiting).await.done_step_count == 0 {} };
    tokio::time::timeout(SOON, begins).await.unwrap();
    drop(waiting);
    let ends = loop {
        // The server learns of a caller that left from its connection, a moment later.
        match stage.ask(wanted(vec![item(4, "fox")], 2)).await {
            Ok(mut stream) => break stream.message().await.unwrap(),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    };
    assert!(ends.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_bytes_alone_and_among_other_callers() {
    let stage = Stage::start(Options {
        max_batch: 3,
        ..options()
    })
    .await
    .unwrap();
    let alone = stage.outcomes(wanted(vec![item(7, "a red dog")], 6)).await;
    let caller = |number: u64, width_px| {
        let items = vec![
            item(100 + number, "cat"),
            item(7, "a red dog"),
            item(200 + number, "snow (fox)"),
        ];
        let mut request = wanted(items, 6);
        request.settings.as_mut().unwrap().width_px = width_px;
        stage.outcomes(request)
    };
    let (a, b, c, wide) = tokio::join!(caller(0, 0), caller(1, 0), caller(2, 16), caller(3, 24));
    let id = format!("{:032x}", 7);
    for ends in [a, b, c] {
        assert_eq!(ends.len(), 3);
        assert!(png(&ends[&id]) == png(&alone[&id]));
    }
    assert_eq!(wide.len(), 3);
    assert!(
        png(&wide[&id]) != png(&alone[&id]),
        "another width is another picture"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_load_ends_the_start_with_its_file() {
    let missing = NamedFolder {
        name: "gone".into(),
        folder: "/nonexistent/model".into(),
    };
    let error = Stage::start(Options {
        models: vec![missing],
        ..Options::default()
    })
    .await
    .err()
    .unwrap();
    let sentence = error::chain(&error);
    assert!(
        sentence.contains("gone") && sentence.contains("model_index.json"),
        "{sentence}"
    );
    let error = Stage::start(Options::default()).await.err().unwrap();
    assert!(error::chain(&error).contains("--model NAME=DIR"), "{error}");
}
