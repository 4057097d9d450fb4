//! Checkpoints with a transformer in the UNet's place, among others and broken.

use models::scheduler::Kind;
use models::stable_diffusion::{Error, Original, PictureFile, Pipeline, PromptSyntax, Request};

use super::{alone_and_together, copied, fixture, refusal, request};

#[test]
fn a_picture_of_a_transformer_is_the_same_bytes_alone_and_among_others() {
    for name in ["sd3", "sd35", "flux"] {
        let pipeline = Pipeline::load(&fixture(name).join("checkpoint"), name).unwrap();
        let requests = [
            request("dog", 1),
            Request {
                negative_prompt: "sketch".into(),
                guidance: 7.,
                ..request("snow, fox, a city", 3)
            },
            Request {
                guidance: 0.,
                width_px: 96,
                ..request("fox", 4)
            },
        ];
        alone_and_together(&pipeline, &requests);
    }
}

#[test]
fn what_a_transformer_cannot_do_is_said_and_not_left_out_in_silence() {
    let field = |error: Error| match error {
        Error::Invalid { field, reason } => (field, reason),
        other => panic!("{other}"),
    };
    for name in ["sd3", "flux"] {
        let pipeline = Pipeline::load(&fixture(name).join("checkpoint"), name).unwrap();
        let emphasis = Request {
            syntax: PromptSyntax::Webui,
            ..request("(snow)", 1)
        };
        let (wrong, reason) = field(pipeline.check(&emphasis).unwrap_err());
        assert_eq!(wrong, "prompt_syntax", "{reason}");
        let skipping = Request {
            clip_skip: 1,
            ..request("snow", 1)
        };
        let (wrong, _) = field(pipeline.check(&skipping).unwrap_err());
        assert_eq!(wrong, "clip_skip");
        let file = std::fs::read(fixture("sd15/init.png")).unwrap();
        let original = Original {
            picture: PictureFile::open(&file).unwrap(),
            strength: 0.5,
            mask: None,
        };
        let onwards = Request {
            original: Some(original),
            ..request("snow", 1)
        };
        let (wrong, _) = field(pipeline.check(&onwards).unwrap_err());
        assert_eq!(wrong, "init_image");
        let odd = Request {
            width_px: 72,
            ..request("snow", 1)
        };
        let (wrong, reason) = field(pipeline.check(&odd).unwrap_err());
        assert!(
            wrong == "width_px" && reason.contains("multiple of 16"),
            "{reason}"
        );
        let other = Request {
            scheduler: Some(Kind::parse("euler").unwrap()),
            ..request("snow", 1)
        };
        let (wrong, reason) = field(pipeline.check(&other).unwrap_err());
        assert!(
            wrong == "scheduler" && reason.contains("flow_euler"),
            "{reason}"
        );
        let negative = Request {
            negative_prompt: "sketch".into(),
            ..request("snow", 1)
        };
        let warnings = pipeline.begin(&negative).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(name == "flux"), "{warnings:?}");
    }
    let pipeline = Pipeline::load(&fixture("sd3/checkpoint"), "sd3").unwrap();
    // The plane of places has six tokens a side, of two latents of eight pixels each.
    assert_eq!(pipeline.max_side_px(), 96);
    let long = pipeline.begin(&request(&"snow ".repeat(300), 1)).unwrap();
    assert!(long.warnings[0].ends_with("of the prompt were cut off"));
    assert!(
        long.warnings[1].ends_with("cut off for T5"),
        "{:?}",
        long.warnings
    );
}

/// A file of a checkpoint, what to replace in it, by what, and words of the refusal.
type Break = (&'static str, &'static str, &'static str, &'static str);

const TRANSFORMER: &str = "transformer/config.json";
const INDEX: &str = "model_index.json";

const OF_SD3: &[Break] = &[
    (
        INDEX,
        "T5EncoderModel",
        "UMT5EncoderModel",
        "`text_encoder_3` = \"UMT5EncoderModel\"",
    ),
    (
        INDEX,
        "SD3Transformer2DModel",
        "FluxTransformer2DModel",
        "`transformer` = ",
    ),
    (
        TRANSFORMER,
        "\"qk_norm\": null",
        "\"qk_norm\": \"layer_norm\"",
        "`qk_norm` = \"layer_norm\"",
    ),
    (TRANSFORMER, "{", "{\"swiglu\": true,", "`swiglu` = true"),
    (
        TRANSFORMER,
        "\"num_layers\": 3",
        "\"num_layers\": 0",
        "`num_layers` is zero",
    ),
    (
        TRANSFORMER,
        "\"num_layers\": 3",
        "\"num_layers\": 4",
        "`transformer_blocks.2.norm1_context.linear.weight` has shape",
    ),
    (
        TRANSFORMER,
        "\"caption_projection_dim\": 16",
        "\"caption_projection_dim\": 18",
        "`caption_projection_dim` is 18",
    ),
    (
        TRANSFORMER,
        "\"pooled_projection_dim\": 22",
        "\"pooled_projection_dim\": 24",
        "`time_text_embed.text_embedder.linear_1.weight` has shape",
    ),
    (
        TRANSFORMER,
        "\"dual_attention_layers\": []",
        "\"dual_attention_layers\": [0]",
        "`transformer_blocks.0.norm1.linear.weight` has shape",
    ),
    (
        TRANSFORMER,
        "\"dual_attention_layers\": []",
        "\"dual_attention_layers\": [3]",
        "`dual_attention_layers` names layer 3 of 3",
    ),
    (
        TRANSFORMER,
        "\"pos_embed_max_size\": 6",
        "\"pos_embed_max_size\": 3",
        "`pos_embed_max_size` is 3",
    ),
    (
        "scheduler/scheduler_config.json",
        "FlowMatchEulerDiscreteScheduler",
        "EulerDiscreteScheduler",
        "must be FlowMatchEulerDiscreteScheduler",
    ),
    (
        "text_encoder_3/config.json",
        "gated-gelu",
        "relu",
        "`feed_forward_proj` = \"relu\"",
    ),
    (
        "text_encoder_3/config.json",
        "\"vocab_size\": 96",
        "\"vocab_size\": 97",
        "has shape",
    ),
    (
        "tokenizer_3/tokenizer_config.json",
        "\"</s>\"",
        "\"<end>\"",
        "no token `<end>`",
    ),
    (
        "tokenizer_3/tokenizer.json",
        "Unigram",
        "Multigram",
        "tokenizer.json",
    ),
];

const OF_SD35: &[Break] = &[(
    TRANSFORMER,
    "\"qk_norm\": \"rms_norm\"",
    "\"qk_norm\": null",
    "`transformer_blocks.0.attn.norm_added_k.weight`",
)];

const OF_FLUX: &[Break] = &[
    (
        INDEX,
        "T5EncoderModel",
        "CLIPTextModel",
        "`text_encoder_2` = \"CLIPTextModel\"",
    ),
    (
        TRANSFORMER,
        "\"guidance_embeds\": true",
        "\"guidance_embeds\": false",
        "`time_text_embed.guidance_embedder.linear_1.bias`",
    ),
    (
        TRANSFORMER,
        "\"num_single_layers\": 2",
        "\"num_single_layers\": 1",
        "`single_transformer_blocks.1.",
    ),
    (
        TRANSFORMER,
        "\"num_single_layers\": 2",
        "\"num_single_layers\": 3",
        "`single_transformer_blocks.2.norm.linear.weight`",
    ),
    (
        TRANSFORMER,
        "    2,\n",
        "    4,\n",
        "`axes_dims_rope` must be even",
    ),
    (
        TRANSFORMER,
        "\"patch_size\": 1",
        "\"patch_size\": 2",
        "`patch_size` = 2",
    ),
];

#[test]
fn what_a_checkpoint_with_a_transformer_lacks_or_has_too_much_is_named() {
    for (name, breaks) in [("sd3", OF_SD3), ("sd35", OF_SD35), ("flux", OF_FLUX)] {
        for (file, from, to, words) in breaks {
            let folder = copied(name);
            let path = folder.path().join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{name}/{file} has no {from}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let sentence = refusal(folder.path());
            assert!(sentence.contains(words), "{name}/{file}, {to}: {sentence}");
        }
    }
    for (gone, words) in [
        ("transformer", "`transformer` has no folder"),
        ("tokenizer_3", "`tokenizer_3` has no folder"),
    ] {
        let folder = copied("sd3");
        std::fs::remove_dir_all(folder.path().join(gone)).unwrap();
        let sentence = refusal(folder.path());
        assert!(sentence.contains(words), "{gone}: {sentence}");
    }
    let folder = copied("sd3");
    let weights = folder
        .path()
        .join("transformer/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let key = b"transformer_blocks.1.attn.to_add_out.bias";
    let place = bytes.windows(key.len()).position(|w| w == key).unwrap();
    bytes[place] = b'T';
    std::fs::write(&weights, bytes).unwrap();
    let sentence = refusal(folder.path());
    assert!(
        sentence.contains("`transformer_blocks.1.attn.to_add_out.bias`"),
        "{sentence}"
    );
}
