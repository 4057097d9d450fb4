//! Every part against diffusers and transformers, on a tiny checkpoint with random weights.
//!
//! `fixtures/make_sd.py` made the checkpoint and the expected numbers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a panic is the report"
)]

#[path = "stable_diffusion/refusals.rs"]
mod refusals;

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use models::clip_text::ClipText;
use models::clip_tokenizer::ClipTokenizer;
use models::scheduler;
use models::stable_diffusion::{Picture, Pipeline, PromptSyntax, Request};
use models::torch_rng::TorchRng;
use models::unet::Unet;
use models::vae::Vae;
use models::weights::Weights;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sd")
}

fn tiny() -> PathBuf {
    fixtures().join("tiny")
}

struct Expected(Weights);

impl Expected {
    fn open() -> Self {
        Self(Weights::open(&fixtures().join("expected.safetensors")).unwrap())
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.0.tensor(name, self.0.shape(name).unwrap()).unwrap()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        numbers(&self.tensor(name))
    }
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor
        .contiguous()
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// ‖found − expected‖ / ‖expected‖.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let gap = norm(
        &mut found
            .iter()
            .zip(expected)
            .map(|(f, e)| f64::from(*f) - f64::from(*e)),
    );
    gap / norm(&mut expected.iter().map(|e| f64::from(*e)))
}

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    let error = relative_error(found, expected);
    println!("{what}: relative error {error:.1e}");
    assert!(error < 1e-5, "{what}: relative error {error:e}");
}

fn request(prompt: &str, seed: u64) -> Request {
    Request {
        prompt: prompt.into(),
        negative_prompt: "sketch".into(),
        seed,
        steps: 10,
        guidance: 4.,
        width_px: 16,
        height_px: 16,
        syntax: PromptSyntax::Plain,
        scheduler: None,
        ..Request::default()
    }
}

#[test]
fn noise_is_that_of_pytorch() {
    let expected = Expected::open();
    for count in [1, 15, 16, 37, 1000] {
        let mut rng = TorchRng::new(5_000_000_123);
        for (name, found) in [
            (format!("randn_{count}"), rng.randn(count)),
            (format!("randn_{count}_next"), rng.randn(20)),
        ] {
            let gap = |(f, e): (&f32, &f32)| (f - e).abs() < 1e-6;
            assert!(found.iter().zip(&expected.values(&name)).all(gap), "{name}");
        }
    }
}

#[test]
fn text_states_are_those_of_transformers() {
    let expected = Expected::open();
    let tokenizer = ClipTokenizer::load(&tiny().join("tokenizer")).unwrap();
    let text = ClipText::load(&tiny().join("text_encoder")).unwrap();
    let prompts = [
        "a red dog, beach, cartoon",
        "It's  2 FOXES in the_snow! caf\u{e9} (night)",
        "",
    ];
    let ids: Vec<f32> = expected.values("ids");
    let (mut hidden, mut pooled) = (Vec::new(), Vec::new());
    for (prompt, ids) in prompts.iter().zip(ids.chunks(16)) {
        let framed = tokenizer.framed(&tokenizer.encode(prompt).unwrap(), 16);
        assert_eq!(
            framed.iter().map(|id| *id as f32).collect::<Vec<_>>(),
            ids,
            "{prompt}"
        );
        let states = text.encode(&framed).unwrap();
        hidden.extend(numbers(&states.hidden));
        pooled.extend(states.pooled);
    }
    assert_close("text states", &hidden, &expected.values("text_hidden"));
    assert_close("pooled text", &pooled, &expected.values("text_pooled"));
    assert!(text.encode(&[60_000]).is_err() && text.encode(&[]).is_err());
}

#[test]
fn the_unet_is_that_of_diffusers_at_every_sample_s_own_time_step() {
    let expected = Expected::open();
    let unet = Unet::load(&tiny().join("unet")).unwrap();
    let hidden = expected.tensor("text_hidden");
    let contexts: Vec<_> = (0..3)
        .map(|i| unet.context(&hidden.get(i).unwrap()).unwrap())
        .collect();
    let contexts: Vec<_> = contexts.iter().collect();
    let found = unet
        .forward(&expected.tensor("unet_in"), &[1., 501., 999.], &contexts)
        .unwrap();
    assert_close("unet", &numbers(&found), &expected.values("unet_out"));
    let found = unet
        .forward(&expected.tensor("unet_odd_in"), &[250.], &contexts[..1])
        .unwrap();
    assert_close(
        "unet, odd size",
        &numbers(&found),
        &expected.values("unet_odd_out"),
    );
}

#[test]
fn the_autoencoder_is_that_of_diffusers_both_ways() {
    let expected = Expected::open();
    let vae = Vae::load(&tiny().join("vae")).unwrap();
    let decoded = vae
        .decode(&expected.tensor("vae_in"))
        .unwrap()
        .permute((0, 3, 1, 2))
        .unwrap();
    assert_close("decoder", &numbers(&decoded), &expected.values("vae_out"));
    let picture = expected
        .tensor("encode_in")
        .permute((0, 2, 3, 1))
        .unwrap()
        .contiguous()
        .unwrap();
    assert_close(
        "encoder",
        &numbers(&vae.encode_mean(&picture).unwrap()),
        &expected.values("encode_out"),
    );
}

#[test]
fn ddim_goes_diffusers_way_for_every_setting() {
    let text = std::fs::read(fixtures().join("schedules.json")).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let list = |v: &serde_json::Value| -> Vec<f32> { serde_json::from_value(v.clone()).unwrap() };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scheduler_config.json");
    let cases = all["cases"].as_array().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        std::fs::write(&file, case["config"].to_string()).unwrap();
        let config = scheduler::Config::read(&file).unwrap();
        let way = scheduler::Way::of(7);
        let mut way = config.build(None).unwrap().start(&way).unwrap();
        let mut latents = list(&all["start"]);
        let mut rng = TorchRng::new(0);
        let mut timesteps = Vec::new();
        while let Some(t) = way.timestep() {
            let output: Vec<f32> = latents.iter().map(|x| (3. * x + t / 1000.).sin()).collect();
            way.advance(&output, &mut latents, &mut rng);
            timesteps.push(t);
        }
        assert_eq!(timesteps, list(&case["timesteps"]), "{}", case["config"]);
        let error = relative_error(&latents, &list(&case["end"]));
        assert!(error < 1e-4, "{error:e} for {}", case["config"]);
    }
}

#[test]
fn a_seed_gives_diffusers_picture() {
    let expected = Expected::open();
    let pipeline = Pipeline::load(&tiny(), "tiny").unwrap();
    let wide = Request {
        steps: 5,
        guidance: 1.,
        width_px: 24,
        ..request("blue cat in the city", 8)
    };
    for (name, request) in [
        ("plain", request("a red dog, beach, cartoon", 7)),
        ("wide", wide),
    ] {
        let picture = pipeline.generate(&request).unwrap();
        let expected = expected.values(&format!("picture_{name}"));
        assert_eq!(picture.rgb.len(), expected.len());
        let gap = picture
            .rgb
            .iter()
            .zip(&expected)
            .map(|(f, e)| (f32::from(*f) - e).abs())
            .fold(0., f32::max);
        println!("{name}: largest difference {gap}/255");
        assert!(gap <= 2., "{name}: {gap}/255");
    }
}

#[test]
fn a_picture_is_the_same_bytes_alone_and_among_others_that_join_and_leave() {
    let pipeline = Pipeline::load(&tiny(), "tiny").unwrap();
    let webui = Request {
        syntax: PromptSyntax::Webui,
        ..request("((snow)), fox BREAK a city", 3)
    };
    let requests = [
        request("dog", 1),
        Request {
            steps: 4,
            guidance: 1.,
            ..request("cat", 2)
        },
        webui,
        Request {
            width_px: 24,
            ..request("fox", 4)
        },
    ];
    let alone: Vec<Picture> = requests
        .iter()
        .map(|r| pipeline.generate(r).unwrap())
        .collect();

    let mut together: Vec<_> = requests
        .iter()
        .map(|r| pipeline.begin(r).unwrap())
        .collect();
    // The first is two steps ahead of the others.
    for _ in 0..2 {
        pipeline.step(&mut [&mut together[0]]).unwrap();
    }
    while together.iter().any(|picture| !picture.is_done()) {
        let mut all: Vec<_> = together.iter_mut().collect();
        pipeline.step(&mut all).unwrap();
    }
    let found = pipeline.finish(&together.iter().collect::<Vec<_>>());
    for (found, alone) in found.into_iter().zip(alone) {
        assert!(found.unwrap() == alone);
    }
}

#[test]
fn clip_embeds_texts_and_pictures_as_transformers_does() {
    let expected = Expected::open();
    let clip = models::clip::Clip::load(&fixtures().join("clip")).unwrap();
    let texts: Vec<f32> = ["a red dog", "beach, night"]
        .iter()
        .flat_map(|text| clip.embed_text(text).unwrap())
        .collect();
    assert_close("clip texts", &texts, &expected.values("clip_text"));
    let picture = std::fs::read(fixtures().join("clip/picture.png")).unwrap();
    let picture = models::clip_image::decode_rgb(&picture).unwrap();
    assert_close(
        "clip picture",
        &clip.embed_images(&[picture]).unwrap()[0],
        &expected.values("clip_image"),
    );
}
