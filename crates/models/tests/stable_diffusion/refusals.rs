//! What a checkpoint and a request are refused for.

use std::path::Path;

use models::scheduler;
use models::stable_diffusion::{Error, Original, PictureFile, Pipeline, PromptSyntax, Request};

use super::{fixtures, request, tiny};

#[test]
fn a_bad_request_is_refused_with_the_name_of_the_field() {
    let pipeline = Pipeline::load(&tiny(), "tiny").unwrap();
    let good = request("dog", 1);
    let flow = scheduler::Kind::parse("flow_euler").unwrap();
    for (field, bad) in [
        (
            "width_px",
            Request {
                width_px: 15,
                ..good.clone()
            },
        ),
        (
            "width_px", // the model's own side is 16
            Request {
                width_px: 66,
                ..good.clone()
            },
        ),
        (
            "prompt",
            Request {
                prompt: "BREAK ".repeat(14),
                syntax: PromptSyntax::Webui,
                ..good.clone()
            },
        ),
        (
            "height_px",
            Request {
                height_px: 30_000,
                ..good.clone()
            },
        ),
        (
            "steps",
            Request {
                steps: 0,
                ..good.clone()
            },
        ),
        (
            "steps",
            Request {
                steps: 2000,
                ..good.clone()
            },
        ),
        (
            "guidance",
            Request {
                guidance: f32::NAN,
                ..good.clone()
            },
        ),
        (
            "scheduler",
            Request {
                scheduler: Some(flow),
                ..good.clone()
            },
        ),
        (
            "prompt",
            Request {
                prompt: "dog ".repeat(6000),
                ..good.clone()
            },
        ),
        (
            "negative_prompt",
            Request {
                negative_prompt: "x".repeat(100_000),
                ..good.clone()
            },
        ),
        (
            "guidance_rescale",
            Request {
                guidance_rescale: 1.5,
                ..good.clone()
            },
        ),
        (
            "clip_skip", // the encoder has two layers
            Request {
                clip_skip: 2,
                ..good.clone()
            },
        ),
        ("strength", from(&good, 0., None)),
        ("strength", from(&good, f64::NAN, None)),
        ("strength", from(&good, 1.1, None)),
        // A twentieth of ten steps is none.
        ("strength", from(&good, 0.05, None)),
        (
            "mask_image",
            from(&good, 0.5, Some(picture("clip/picture.png"))),
        ),
        (
            "init_image",
            Request {
                width_px: 24,
                ..from(&good, 0.5, None)
            },
        ),
    ] {
        match pipeline.begin(&bad) {
            Err(Error::Invalid { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {:?}", other.map(|_| ())),
        }
    }
    let largest = Request {
        width_px: 64,
        height_px: 64,
        ..good.clone()
    };
    pipeline.check(&largest).unwrap();
    assert_eq!((pipeline.max_side_px(), pipeline.cost(&largest)), (64, 16));
    let wide = Request {
        width_px: 18,
        ..good.clone()
    };
    assert_eq!((pipeline.cost(&good), pipeline.cost(&wide)), (1, 2));
    assert!(
        scheduler::Kind::parse("fast")
            .unwrap_err()
            .to_string()
            .contains("there are: ddim")
    );
    let cut = pipeline.begin(&request(&"dog ".repeat(30), 1)).unwrap();
    assert!(
        cut.warnings[0].contains("the last 16 tokens"),
        "{:?}",
        cut.warnings
    );
}

fn picture(name: &str) -> PictureFile {
    PictureFile::open(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

/// A PNG of 16 × 16 pixels; its head can be read, and of a damaged one nothing else.
fn small(is_damaged: bool) -> PictureFile {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8, y as u8, 7]));
    pixels
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    let mut bytes = bytes.into_inner();
    if is_damaged {
        bytes.truncate(60);
    }
    PictureFile::open(&bytes).unwrap()
}

/// `good`, from a picture.
fn from(good: &Request, strength: f64, mask: Option<PictureFile>) -> Request {
    Request {
        original: Some(Original {
            picture: small(false),
            strength,
            mask,
        }),
        ..good.clone()
    }
}

#[test]
fn a_checkpoint_that_only_repaints_wants_a_mask_and_a_damaged_picture_is_no_picture() {
    let folder = fixtures().join("../layouts/sd15_inpaint/checkpoint");
    let inpaint = Pipeline::load(&folder, "inpaint").unwrap();
    let side = inpaint.default_side_px();
    let bare = Request {
        width_px: side,
        height_px: side,
        ..request("dog", 1)
    };
    let error = inpaint.check(&bare).unwrap_err().to_string();
    assert!(error.contains("mask_image"), "{error}");

    let tiny = Pipeline::load(&tiny(), "tiny").unwrap();
    let damaged = Request {
        original: Some(Original {
            picture: small(true),
            strength: 0.5,
            mask: None,
        }),
        ..request("dog", 1)
    };
    tiny.check(&damaged).unwrap();
    let error = tiny.begin(&damaged).err().unwrap().to_string();
    assert!(error.contains("init_image: cannot be decoded"), "{error}");
    assert!(PictureFile::open(b"no picture").is_err());
}

/// Copies the checkpoint, changes one file, and gives the sentence that loading it ends with.
fn refusal(file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
    let folder = tempfile::tempdir().unwrap();
    copy(&tiny(), folder.path());
    let path = folder.path().join(file);
    std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
    Pipeline::load(folder.path(), "broken")
        .err()
        .unwrap()
        .to_string()
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_that_cannot_be_served_is_refused_by_name() {
    let replaced = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap()
                .replacen(from, to, 1)
                .into_bytes()
        }
    };
    let unet = "unet/config.json";
    for (file, change, words) in [
        (
            unet,
            replaced(
                "\"class_embed_type\": null",
                "\"class_embed_type\": \"timestep\"",
            ),
            "`class_embed_type`",
        ),
        (
            unet,
            replaced("\"norm_num_groups\": 8", "\"norm_num_groups\": 5"),
            "`norm_num_groups`",
        ),
        (
            unet,
            replaced("\"DownBlock2D\"", "\"AttnDownBlock2D\""),
            "AttnDownBlock2D",
        ),
        (
            unet,
            replaced("\"flip_sin_to_cos\"", "\"flip_sine\""),
            "`flip_sine`",
        ),
        (
            unet,
            replaced("\"layers_per_block\": 1", "\"layers_per_block\": 2"),
            "no tensor `down_blocks.0.resnets.1",
        ),
        (
            unet,
            replaced("\"cross_attention_dim\": 32", "\"cross_attention_dim\": 31"),
            "config.json asks for [32, 31]",
        ),
        (
            "vae/config.json",
            replaced("\"latent_channels\": 4", "\"latent_channels\": 3"),
            "has shape",
        ),
        (
            "scheduler/scheduler_config.json",
            replaced("DDIMScheduler", "MyScheduler"),
            "MyScheduler",
        ),
        (
            "model_index.json",
            replaced("UNet2DConditionModel", "UNet3D"),
            "UNet3D",
        ),
        (
            "text_encoder/config.json",
            replaced("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
            "no place for",
        ),
        (
            "text_encoder/config.json",
            replaced("{", "{\"rope_theta\": 10000,"),
            "`rope_theta`",
        ),
        (
            "tokenizer/vocab.json",
            replaced("{", "{\"extra\": 9999, "),
            "tokenizer has",
        ),
        ("tokenizer/merges.txt", replaced("a n", "an"), "merges.txt"),
    ] {
        let sentence = refusal(file, change);
        assert!(sentence.contains(words), "{file}: {sentence}");
    }
    let sentence = refusal("unet/diffusion_pytorch_model.safetensors", |b| {
        b[..b.len() - 10].to_vec()
    });
    assert!(
        sentence.contains("truncated") && sentence.contains("unet"),
        "{sentence}"
    );
    // The last number of the file becomes an f16 NaN.
    let sentence = refusal("vae/diffusion_pytorch_model.safetensors", |mut b| {
        let end = b.len();
        b[end - 1] = 0x7e;
        b
    });
    assert!(sentence.contains("not finite"), "{sentence}");
    let folder = tempfile::tempdir().unwrap();
    let sentence = Pipeline::load(folder.path(), "absent")
        .err()
        .unwrap()
        .to_string();
    assert!(sentence.contains("model_index.json"), "{sentence}");
}
