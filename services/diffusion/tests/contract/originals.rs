//! Pictures from pictures, several of an item, and pictures that are withheld.

use diffusion::{Options, UnsafePictures};
use image::{ImageFormat, Rgb, RgbImage};
use proto::dataset::v1::Image;
use proto::dataset::v1::image::Content;
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use proto::diffusion::v1::{
    GenerateImagesRequest, GetCapabilitiesRequest, ImageItem, SafetyVerdict,
};
use runtime::options::NamedFolder;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use tonic::Code;

use crate::stage::{Stage, fixture, item, options, png, wanted, wide, with};

fn drawing(width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(9 * x) as u8, (7 * y) as u8, 90])
    });
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

fn inline(bytes: Vec<u8>) -> Option<Image> {
    Some(Image {
        content: Some(Content::Data(bytes.into())),
        ..Image::default()
    })
}

fn from(number: u64, bytes: Vec<u8>, strength: f32) -> ImageItem {
    ImageItem {
        init_image: inline(bytes),
        strength,
        ..item(number, "a red dog")
    }
}

async fn first(stage: &Stage, request: GenerateImagesRequest) -> Outcome {
    stage.outcomes(request).await.into_values().next().unwrap()
}

fn reason(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failure(failure) => &failure.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_goes_on_from_another_and_one_that_cannot_be_used_sinks_no_other() {
    let stage = Stage::start(options()).await.unwrap();
    let masked = ImageItem {
        mask_image: inline(drawing(24, 16)),
        ..from(3, drawing(24, 16), 0.5)
    };
    let unfit = ImageItem {
        mask_image: inline(drawing(16, 16)),
        ..from(6, drawing(24, 16), 0.5)
    };
    let items = vec![
        from(1, drawing(24, 16), 0.5),
        from(2, drawing(24, 16), 0.),
        masked,
        from(4, b"no picture".to_vec(), 0.5),
        from(5, drawing(23, 16), 0.5),
        unfit,
    ];
    let ends = stage.outcomes(wanted(items, 6)).await;
    let end = |number: u64| &ends[&format!("{number:032x}")];
    let mut pictures = Vec::new();
    for number in 1..=3 {
        let Outcome::Image(generated) = end(number) else {
            panic!("{:?}", end(number))
        };
        let image = generated.image.as_ref().unwrap();
        assert_eq!((image.width_px, image.height_px), (24, 16));
        let made = image.provenance.as_ref().unwrap();
        let strength = if number == 2 { "0.8" } else { "0.5" };
        assert_eq!(made.parameters["strength"], strength);
        assert_eq!(made.parent_sha256.len(), if number == 3 { 3 } else { 2 });
        pictures.push(png(end(number)).to_vec());
    }
    assert!(pictures[0] != pictures[1] && pictures[1] != pictures[2]);
    assert_eq!(reason(end(4)), "UNREADABLE_IMAGE");
    assert_eq!(
        (reason(end(5)), reason(end(6))),
        ("UNFIT_IMAGE", "UNFIT_IMAGE")
    );

    let mask_alone = ImageItem {
        mask_image: inline(drawing(16, 16)),
        ..item(1, "dog")
    };
    for (field, item) in [
        ("items[0].strength", from(1, drawing(16, 16), 1.5)),
        ("items[0].strength", from(1, drawing(16, 16), f32::NAN)),
        // Of six steps, a tenth is none.
        ("items[0].strength", from(1, drawing(16, 16), 0.1)),
        ("items[0].mask_image", mask_alone),
        (
            "items[0].image_count",
            ImageItem {
                image_count: 65,
                ..item(1, "dog")
            },
        ),
    ] {
        let status = stage.ask(wanted(vec![item], 6)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        let details = tonic_types::StatusExt::get_error_details(&status);
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_pictures_states_its_seed_and_is_the_one_made_alone() {
    let stage = Stage::start(options()).await.unwrap();
    let several = ImageItem {
        image_count: 3,
        seed: u64::MAX,
        ..item(1, "fox")
    };
    let mut stream = stage.ask(wanted(vec![several], 4)).await.unwrap();
    let mut found = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(outcome @ Outcome::Image(_)) = message.result {
            found.push((message.image_index, outcome));
        }
    }
    found.sort_by_key(|(index, _)| *index);
    assert_eq!(found.len(), 3);
    for ((index, outcome), seed) in found.iter().zip([u64::MAX, 0, 1]) {
        let Outcome::Image(generated) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(generated.seed, seed, "picture {index}");
        let alone = ImageItem {
            seed,
            ..item(9, "fox")
        };
        assert!(png(&first(&stage, wanted(vec![alone], 4)).await) == png(outcome));
    }
}

fn checked(folder: &Path) -> NamedFolder {
    let model = wide(folder);
    let from: PathBuf = fixture("../measuring").join("safety_checker");
    let to = model.folder.join("safety_checker");
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    model
}

/// The tiny checkpoint under the tiny checker, whose thresholds flag some of its pictures.
#[tokio::test(flavor = "multi_thread")]
async fn a_flagged_picture_is_withheld_unless_it_is_asked_for_and_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let model = checked(folder.path());
    let start = |unsafe_pictures| {
        Stage::start(Options {
            models: vec![model.clone()],
            scoring_models: Vec::new(),
            unsafe_pictures,
            ..options()
        })
    };
    let asking = |deliver_unsafe| {
        let items = (1..=12).map(|number| item(number, "a red dog")).collect();
        let mut request = wanted(items, 2);
        let settings = request.settings.as_mut().unwrap();
        (settings.width_px, settings.height_px) = (16, 16);
        settings.deliver_unsafe = deliver_unsafe;
        request
    };
    let stage = start(UnsafePictures::OnRequest).await.unwrap();
    let (kept, all) = (
        stage.outcomes(asking(false)).await,
        stage.outcomes(asking(true)).await,
    );
    let mut verdicts = Vec::new();
    for (id, outcome) in &all {
        let Outcome::Image(generated) = outcome else {
            panic!("{outcome:?}")
        };
        verdicts.push(generated.safety());
        match generated.safety() {
            SafetyVerdict::Safe => assert!(png(&kept[id]) == png(outcome)),
            SafetyVerdict::Unsafe => assert_eq!(reason(&kept[id]), "UNSAFE_IMAGE"),
            other => panic!("{other:?}"),
        }
    }
    println!("{verdicts:?}");
    assert!(verdicts.contains(&SafetyVerdict::Unsafe), "{verdicts:?}");
    let capabilities = stage.images.clone();
    let reply = { capabilities }
        .get_capabilities(GetCapabilitiesRequest {})
        .await;
    let features = reply.unwrap().into_inner().capabilities.unwrap().features;
    assert!(features.contains(&"safety_checked".to_owned()));

    let stage = start(UnsafePictures::Withhold).await.unwrap();
    let status = stage.ask(asking(true)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("deliver_unsafe"), "{status}");
    let stage = start(UnsafePictures::Deliver).await.unwrap();
    let delivered = stage.outcomes(asking(false)).await;
    assert!(
        delivered
            .values()
            .all(|end| matches!(end, Outcome::Image(_)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inpainting_checkpoint_says_so_and_a_refused_sampler_tells_no_path() {
    let folder = tempfile::tempdir().unwrap();
    let model = wide(folder.path());
    let config = model.folder.join("scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let spread = text.replacen('{', "{\"solver_order\": 9,", 1);
    std::fs::write(config, spread).unwrap();
    let inpaint = NamedFolder {
        name: "inpaint".into(),
        folder: fixture("../layouts/sd15_inpaint/checkpoint"),
    };
    let stage = Stage::start(Options {
        models: vec![inpaint, model],
        ..options()
    })
    .await
    .unwrap();
    let mut images = stage.images.clone();
    let listed = images.list_models(proto::diffusion::v1::ListModelsRequest::default());
    let listed = listed.await.unwrap().into_inner().models;
    assert_eq!(
        (listed[0].only_inpaints, listed[1].only_inpaints),
        (true, false)
    );
    let bare = first(&stage, wanted(vec![item(1, "dog")], 3)).await;
    assert_eq!(reason(&bare), "UNFIT_IMAGE");

    let request = GenerateImagesRequest {
        model: "wide".into(),
        ..with(|s| s.scheduler = proto::diffusion::v1::Scheduler::Dpmpp2m.into())
    };
    let status = stage.ask(request).await.unwrap_err();
    let sentence = runtime::explain(&status);
    assert!(sentence.contains("solver_order"), "{sentence}");
    assert!(!sentence.contains("scheduler_config"), "{sentence}");
}
