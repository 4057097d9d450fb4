//! Several models and several callers: who waits for what, and what is said meanwhile.

use diffusion::Options;
use models::ops::precision::Precision;
use models::stable_diffusion::Pipeline;
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use proto::diffusion::v1::{GenerateImagesRequest, ListModelsRequest, StepProgress};
use runtime::options::NamedFolder;
use runtime::{error, explain};
use tonic::Code;

use crate::stage::{
    SOON, Stage, copy, endless, fixture, item, options, png, progress, wanted, wide,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_the_queue_is_told_and_told_again_as_it_moves() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(Options {
        max_batch: 1,
        models: vec![wide(folder.path())],
        ..options()
    })
    .await
    .unwrap();
    let mut running = stage.ask(endless(1)).await.unwrap();
    while progress(&mut running).await.done_step_count == 0 {}
    let named = |client: &str, items| GenerateImagesRequest {
        client: client.to_owned(),
        ..wanted(items, 2)
    };
    let many = (0..50).map(|number| item(100 + number, "dog")).collect();
    let mut many = stage.ask(named("many", many)).await.unwrap();
    let first = progress(&mut many).await;
    assert_eq!((first.done_step_count, first.queue_position), (0, 0));
    // Another caller's one picture takes the second turn, whoever came with fifty.
    let mut one = stage.ask(named("one", vec![item(1, "cat")])).await.unwrap();
    assert_eq!(progress(&mut one).await.queue_position, 1);
    let long = named(&"x".repeat(65), vec![item(1, "cat")]);
    let status = stage.ask(long).await.unwrap_err();
    assert!(explain(&status).contains("client"), "{status}");

    drop(running);
    let moved = async {
        loop {
            match progress(&mut one).await {
                StepProgress {
                    queue_position: 0, ..
                } => break,
                waiting => assert_eq!(waiting.done_step_count, 0),
            }
        }
    };
    tokio::time::timeout(SOON, moved).await.unwrap();
    drop(many);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_precision_is_said_with_each_picture_and_one_that_the_processor_lacks_is_refused() {
    let started = Stage::start(Options {
        precision: Precision::Bf16,
        ..options()
    });
    let rounded = match (started.await, Precision::Bf16.check()) {
        (Ok(stage), Ok(())) => stage,
        (Err(refused), Err(reason)) => {
            assert!(error::chain(&refused).contains(&reason), "{refused}");
            return;
        }
        (started, checked) => panic!("{:?}, {checked:?}", started.err()),
    };
    let exact = Stage::start(options()).await.unwrap();
    let mut made = Vec::new();
    for stage in [rounded, exact] {
        let mut ends = stage.outcomes(wanted(vec![item(1, "dog")], 3)).await;
        let Some(Outcome::Image(generated)) = ends.remove(&format!("{:032x}", 1)) else {
            panic!("{ends:?}")
        };
        made.push(generated.image.unwrap().provenance.unwrap());
    }
    assert_eq!(made[0].parameters["precision"], "bf16");
    assert!(!made[1].parameters.contains_key("precision"));
    assert_ne!(made[0].model_sha256, made[1].model_sha256);
}

/// The tiny checkpoint under several names, of which one fits into memory.
fn two(folder: &std::path::Path) -> Options {
    let named = |name: &str| {
        let folder = folder.join(name);
        copy(&fixture("tiny"), &folder);
        let name = name.to_owned();
        NamedFolder { name, folder }
    };
    Options {
        models: vec![named("first"), named("second")],
        model_memory_bytes: Some(Pipeline::weight_bytes(&fixture("tiny")).unwrap() * 3 / 2),
        ..options()
    }
}

fn of(model: &str) -> GenerateImagesRequest {
    GenerateImagesRequest {
        model: model.to_owned(),
        ..wanted(vec![item(7, "a red dog")], 4)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_in_memory_is_loaded_while_its_caller_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(two(folder.path())).await.unwrap();
    let mut images = stage.images.clone();
    let listed = images.list_models(ListModelsRequest::default()).await;
    let listed = listed.unwrap().into_inner().models;
    let names: Vec<String> = listed
        .into_iter()
        .filter_map(|m| Some(m.info?.name))
        .collect();
    assert_eq!(names, ["first", "second"]);

    let first = stage.outcomes(of("")).await;
    let mut stream = stage.ask(of("second")).await.unwrap();
    let loading = progress(&mut stream).await;
    assert!(loading.loading && loading.step_count == 0, "{loading:?}");
    let mut end = None;
    while let Some(message) = stream.message().await.unwrap() {
        end = message.result;
    }
    let pixels = |outcome: &Outcome| {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png(outcome)))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    };
    let expected = first.values().next().unwrap();
    assert_eq!(pixels(&end.unwrap()), pixels(expected));

    // The other left for it, and comes back; callers of both at once are all answered.
    let (a, b, c, d) = tokio::join!(
        stage.outcomes(of("first")),
        stage.outcomes(of("second")),
        stage.outcomes(of("first")),
        stage.outcomes(of("second")),
    );
    for ends in [a, b, c, d] {
        assert_eq!(pixels(ends.values().next().unwrap()), pixels(expected));
    }
    // What would have refused a call ends the stream of one that waits for its model.
    let _resident = stage.outcomes(of("first")).await;
    let mut odd = of("second");
    odd.settings.as_mut().unwrap().width_px = 63;
    let mut stream = stage.ask(odd).await.unwrap();
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "it should be refused"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(explain(&status).contains("settings.width_px"), "{status}");
    // One that broke on the disk meanwhile is named, and the other goes on.
    let _resident = stage.outcomes(of("first")).await;
    std::fs::remove_file(folder.path().join("second/model_index.json")).unwrap();
    let mut stream = stage.ask(of("second")).await.unwrap();
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(message.is_some(), "it should fail"),
            Err(status) => break status,
        }
    };
    assert!(explain(&status).contains("second"), "{status}");
    assert_eq!(stage.outcomes(of("first")).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_fit_alone_is_refused_at_the_start_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let small = Options {
        model_memory_bytes: Some(1000),
        ..two(folder.path())
    };
    let sentence = error::chain(&Stage::start(small).await.err().unwrap());
    assert!(
        sentence.contains("`first`") && sentence.contains("allows 1000"),
        "{sentence}"
    );
}
