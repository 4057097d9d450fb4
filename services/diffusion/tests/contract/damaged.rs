//! Checkpoints that are not what they should be: the start ends with the model, the file and what is
//! wrong with it, and what is only seen in a picture is an error in the place of the picture.

use std::path::{Path, PathBuf};

use diffusion::Options;
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use runtime::error;
use runtime::options::NamedFolder;

use crate::stage::{Stage, copy, fixture, item, options, wanted};

/// What happens to a copy of the tiny checkpoint.
type Damage = fn(&Path);

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// Writes a file anew from its bytes.
fn change(path: PathBuf, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let bytes = change(std::fs::read(&path).unwrap());
    std::fs::write(path, bytes).unwrap();
}

/// Replaces a text in a file, in the header of its tensors too, where it must be as long.
fn replace(path: PathBuf, from: &str, to: &str) {
    change(path, |mut bytes| {
        let found = bytes.windows(from.len()).position(|w| w == from.as_bytes());
        let at = found.expect("the text is in the file");
        bytes.splice(at..at + from.len(), to.bytes());
        bytes
    });
}

/// Where the numbers of a file of tensors begin.
fn numbers_begin(bytes: &[u8]) -> usize {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    8 + usize::try_from(length).unwrap()
}

fn damaged(folder: &Path, damage: Damage) -> Options {
    copy(&fixture("tiny"), folder);
    damage(folder);
    serving(folder.to_owned())
}

fn serving(folder: PathBuf) -> Options {
    let name = "broken".to_owned();
    Options {
        models: vec![NamedFolder { name, folder }],
        ..options()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_ends_the_start_with_its_name_the_file_and_the_reason() {
    let rows: [(&str, Damage, &[&str]); 10] = [
        (
            "a part is missing",
            |f| std::fs::remove_dir_all(f.join("vae")).unwrap(),
            &["model_index.json", "vae"],
        ),
        (
            "a tensor is missing",
            |f| replace(f.join(UNET), "\"conv_in.bias\"", "\"conv_in.bia5\""),
            &["unet", "conv_in.bias"],
        ),
        (
            "a tensor too many",
            |f| {
                let file = f.join("text_encoder/config.json");
                replace(file, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
            },
            &["text_encoder", "no place for"],
        ),
        (
            "a wrong shape",
            |f| replace(f.join(UNET), "[16,4,3,3]", "[4,16,3,3]"),
            &["unet", "conv_in.weight", "[4, 16, 3, 3]"],
        ),
        (
            "a truncated file",
            |f| change(f.join(UNET), |bytes| bytes[..bytes.len() - 1000].to_vec()),
            &["unet", "truncated"],
        ),
        (
            "an unknown sampler",
            |f| {
                let file = f.join("scheduler/scheduler_config.json");
                replace(file, "DDIMScheduler", "OtherScheduler");
            },
            &["scheduler_config.json", "OtherScheduler"],
        ),
        (
            "an unknown class of pipeline",
            |f| {
                let file = f.join("model_index.json");
                replace(file, "StableDiffusionPipeline", "KandinskyPipeline");
            },
            &["model_index.json", "KandinskyPipeline"],
        ),
        (
            "an unknown class of a part",
            |f| replace(f.join("model_index.json"), "AutoencoderKL", "VQModel"),
            &["model_index.json", "vae", "VQModel"],
        ),
        (
            "weights that are no numbers",
            |f| {
                change(f.join(UNET), |mut bytes| {
                    let at = numbers_begin(&bytes);
                    // An f16 NaN, little-endian.
                    bytes[at..at + 2].copy_from_slice(&[0x00, 0x7e]);
                    bytes
                });
            },
            &["unet", "conv_in.bias", "not finite"],
        ),
        (
            "no JSON",
            |f| change(f.join("unet/config.json"), |bytes| bytes[..40].to_vec()),
            &["unet", "config.json"],
        ),
    ];
    for (row, damage, words) in rows {
        let folder = tempfile::tempdir().unwrap();
        let error = Stage::start(damaged(folder.path(), damage)).await.err();
        let sentence = error::chain(&error.unwrap_or_else(|| panic!("{row}: it starts")));
        for word in ["broken"].iter().chain(words) {
            assert!(sentence.contains(word), "{row}: {word:?} in {sentence}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_for_another_model_ends_the_start_and_is_named() {
    let lora = fixture("").join("../layouts/sdxl/kohya.safetensors");
    let folder = format!("{}+{}", fixture("tiny").display(), lora.display());
    let error = Stage::start(serving(folder.into())).await.err();
    let sentence = error::chain(&error.expect("it starts"));
    assert!(
        sentence.contains("broken") && sentence.contains("kohya.safetensors"),
        "{sentence}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_one_colour_is_an_error_and_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let black: Damage = |f| {
        change(f.join(VAE), |mut bytes| {
            let at = numbers_begin(&bytes);
            bytes[at..].fill(0);
            bytes
        });
    };
    let stage = Stage::start(damaged(folder.path(), black)).await.unwrap();
    let ends = stage.outcomes(wanted(vec![item(1, "dog")], 2)).await;
    let Some(Outcome::Failure(failure)) = ends.values().next() else {
        panic!("{ends:?}")
    };
    assert_eq!(
        (failure.reason.as_str(), failure.retryable),
        ("BLANK_IMAGE", false)
    );
}
