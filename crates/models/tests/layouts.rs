//! Checkpoints in the published layouts, whole and broken. `fixtures/make_layouts.py` made them.

#![allow(clippy::unwrap_used, reason = "tests: a panic is the report")]

#[path = "layouts/compare.rs"]
mod compare;
#[path = "layouts/joint.rs"]
mod joint;

use std::path::{Path, PathBuf};

use models::lora::LoraFile;
use models::ops::precision::Precision;
use models::stable_diffusion::{Picture, Pipeline, PromptSyntax, Request};

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/layouts");
    fixtures.join(name)
}

/// Old keys, f16, one file; sharded, gelu, v-prediction; two encoders, bf16; `fp16` files and
/// `tokenizer.json`, no guidance; f32, eight groups, latents at a quarter; a UNet that is told a mask.
/// The first, the third and the sixth with pictures from pictures. Transformers: with T5, f16; with
/// normalised queries and a second attention, without T5; [dev], sharded, bf16.
const LAYOUTS: [&str; 9] = [
    "sd15",
    "sd21",
    "sdxl",
    "sdxl_turbo",
    "groups8",
    "sd15_inpaint",
    "sd3",
    "sd35",
    "flux",
];

#[test]
fn every_published_layout_gives_the_numbers_and_pictures_of_diffusers() {
    let mut broken = Vec::new();
    for name in LAYOUTS {
        for row in compare::compare(&fixture(name)).unwrap() {
            if row.error.is_nan() || row.error > row.bound {
                broken.push(format!("{name}, {}: off by {:e}", row.what, row.error));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn request(prompt: &str, seed: u64) -> Request {
    Request {
        prompt: prompt.into(),
        negative_prompt: String::new(),
        seed,
        steps: 3,
        guidance: 4.,
        width_px: 64,
        height_px: 64,
        syntax: PromptSyntax::Plain,
        scheduler: None,
        ..Request::default()
    }
}

#[test]
fn a_picture_of_two_encoders_is_the_same_bytes_alone_and_among_others() {
    let pipeline = Pipeline::load(&fixture("sdxl/checkpoint"), "xl").unwrap();
    let requests = [
        request("dog", 1),
        Request {
            syntax: PromptSyntax::Webui,
            negative_prompt: "sketch".into(),
            ..request("((snow)), fox BREAK a city", 3)
        },
        Request {
            guidance: 0.,
            width_px: 96,
            ..request("fox", 4)
        },
    ];
    alone_and_together(&pipeline, &requests);
}

/// Makes three pictures each by itself, and all at once but for a first step of the second.
fn alone_and_together(pipeline: &Pipeline, requests: &[Request; 3]) {
    let alone: Vec<Picture> = requests
        .iter()
        .map(|r| pipeline.generate(r).unwrap())
        .collect();
    let mut together: Vec<_> = requests
        .iter()
        .map(|r| pipeline.begin(r).unwrap())
        .collect();
    pipeline.step(&mut [&mut together[1]]).unwrap();
    while together.iter().any(|picture| !picture.is_done()) {
        let mut all: Vec<_> = together.iter_mut().collect();
        pipeline.step(&mut all).unwrap();
    }
    let found = pipeline.finish(&together.iter().collect::<Vec<_>>());
    for (found, alone) in found.into_iter().zip(alone) {
        assert!(found.unwrap() == alone);
    }
}

/// A copy of a fixture's checkpoint in a folder of its own.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in std::fs::read_dir(fixture(name).join("checkpoint")).unwrap() {
        let part = part.unwrap();
        let target = folder.path().join(part.file_name());
        if part.path().is_file() {
            std::fs::copy(part.path(), target).unwrap();
            continue;
        }
        std::fs::create_dir(&target).unwrap();
        for file in std::fs::read_dir(part.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), target.join(file.file_name())).unwrap();
        }
    }
    folder
}

fn refusal(folder: &Path) -> String {
    Pipeline::load(folder, "broken").err().unwrap().to_string()
}

#[test]
fn what_a_checkpoint_of_two_encoders_lacks_or_has_too_much_is_named() {
    let index = "model_index.json";
    let unet = "unet/config.json";
    for (file, from, to, words) in [
        (
            index,
            "StableDiffusionXLPipeline",
            "KandinskyPipeline",
            "StableDiffusionPipeline, StableDiffusionXLPipeline",
        ),
        (
            index,
            "StableDiffusionXLPipeline",
            "StableDiffusionPipeline",
            "`force_zeros_for_empty_prompt`",
        ),
        (
            index,
            "{",
            "{\"requires_aesthetics_score\": true,",
            "`requires_aesthetics_score`",
        ),
        (
            index,
            "CLIPTextModelWithProjection",
            "T5EncoderModel",
            "`text_encoder_2` = \"T5EncoderModel\" is not supported",
        ),
        (index, "{", "", "is not a JSON object"),
        (
            unet,
            "\"text_time\"",
            "\"text_image\"",
            "`addition_embed_type` = \"text_image\"",
        ),
        (unet, "\"text_time\"", "null", "`addition_time_embed_dim`"),
        (
            unet,
            "\"projection_class_embeddings_input_dim\": 56",
            "\"projection_class_embeddings_input_dim\": 30",
            "`projection_class_embeddings_input_dim`",
        ),
        (
            unet,
            "\"projection_class_embeddings_input_dim\": 56",
            "\"projection_class_embeddings_input_dim\": 60",
            "`add_embedding.linear_1.weight` has shape",
        ),
        (
            unet,
            "\"reverse_transformer_layers_per_block\": null",
            "\"reverse_transformer_layers_per_block\": [1]",
            "`reverse_transformer_layers_per_block`",
        ),
        (
            unet,
            "\"time_cond_proj_dim\": null",
            "\"time_cond_proj_dim\": 256",
            "`time_cond_proj_dim`",
        ),
        (
            "text_encoder_2/config.json",
            "\"gelu\"",
            "\"gelu_new\"",
            "`hidden_act`",
        ),
        (
            "text_encoder_2/config.json",
            "\"projection_dim\": 20",
            "\"projection_dim\": 21",
            "`text_projection.weight` has shape",
        ),
        (
            "text_encoder_2/config.json",
            "clip_text_model",
            "t5",
            "`model_type`",
        ),
        (
            "vae/config.json",
            "\"latents_mean\": null",
            "\"latents_mean\": [0.1]",
            "`latents_mean`",
        ),
        (
            "tokenizer_2/tokenizer_config.json",
            "\"model_max_length\": 16",
            "\"model_max_length\": 12",
            "12 tokens",
        ),
    ] {
        let folder = copied("sdxl");
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let sentence = refusal(folder.path());
        assert!(sentence.contains(words), "{file}, {to}: {sentence}");
    }
    for (gone, words) in [
        ("text_encoder_2", "`text_encoder_2` has no folder"),
        ("tokenizer_2", "`tokenizer_2` has no folder"),
        ("scheduler", "scheduler_config.json"),
    ] {
        let folder = copied("sdxl");
        std::fs::remove_dir_all(folder.path().join(gone)).unwrap();
        let sentence = refusal(folder.path());
        assert!(sentence.contains(words), "{gone}: {sentence}");
    }
    let folder = copied("sd21");
    let shard = "unet/diffusion_pytorch_model-00002-of-00002.safetensors";
    std::fs::remove_file(folder.path().join(shard)).unwrap();
    let sentence = refusal(folder.path());
    assert!(sentence.contains("00002-of-00002"), "{sentence}");
}

#[test]
fn a_precision_changes_the_checksum_and_the_picture_by_little() {
    for name in ["sd15", "sd3", "flux"] {
        let folder = fixture(name).join("checkpoint");
        let load = |precision| Pipeline::load_in(precision, &folder, name, &[]).unwrap();
        let (exact, rounded) = (load(Precision::F32), load(Precision::Bf16));
        assert_eq!(
            exact.sha256(),
            Pipeline::load(&folder, name).unwrap().sha256()
        );
        assert_ne!(exact.sha256(), rounded.sha256(), "{name}");
        let made = [&exact, &rounded].map(|p| p.generate(&request("a red dog", 1)).unwrap().rgb);
        let gaps = made[0].iter().zip(&made[1]).map(|(a, b)| a.abs_diff(*b));
        let mean = gaps.map(f64::from).sum::<f64>() / made[0].len() as f64;
        assert!(made[0] != made[1] && mean < 8., "{name}: {mean}");
    }
}

#[test]
fn an_adapter_changes_the_checksum_and_one_for_another_model_is_refused_by_name() {
    let folder = fixture("sd15/checkpoint");
    let lora = |name: &str, scale: f32| LoraFile {
        file: fixture(name),
        scale,
    };
    let plain = Pipeline::load(&folder, "plain").unwrap();
    let load = |loras: &[LoraFile]| Pipeline::load_adapted(&folder, "adapted", loras);
    let half = load(&[lora("sd15/peft.safetensors", 0.5)]).unwrap();
    let whole = load(&[lora("sd15/peft.safetensors", 1.)]).unwrap();
    let sums = [plain.sha256(), half.sha256(), whole.sha256()];
    assert!(sums[0] != sums[1] && sums[1] != sums[2] && sums[0] != sums[2]);
    let pictures = [&plain, &half, &whole].map(|p| p.generate(&request("a red dog", 1)).unwrap());
    assert!(pictures[0] != pictures[1] && pictures[1] != pictures[2]);

    for (file, words) in [
        ("sdxl/kohya.safetensors", "lora_"),
        ("sd15/expected.safetensors", "no tensor of a LoRA"),
        ("sd15/absent.safetensors", "absent.safetensors"),
    ] {
        let sentence = load(&[lora(file, 1.)]).err().unwrap().to_string();
        assert!(sentence.contains(words), "{file}: {sentence}");
    }
    let error = load(&[lora("sd15/peft.safetensors", f32::NAN)]).err();
    assert!(error.unwrap().to_string().contains("cannot be scaled"));
}
