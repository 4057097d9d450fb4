//! The built-in models through the command line, with their real weights.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{fs, path::Path};

use tests::{checkout, finished, program};

/// The pictures were made with diffusers by `models/nano/recipe/reference_pictures.py`.
#[test]
fn a_seed_gives_the_picture_that_diffusers_makes() {
    let references = checkout().join("tests/fixtures/nano_sd");
    let listed: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(references.join("pictures.json")).unwrap()).unwrap();
    assert_eq!(listed.len(), 20);
    let folder = tempfile::tempdir().unwrap();
    for picture in &listed {
        let out = folder.path().join(picture["file"].as_str().unwrap());
        generate(picture, &out);
        let furthest = furthest_pixel(&out, &references.join(picture["file"].as_str().unwrap()));
        assert!(
            furthest <= 2,
            "{picture} is {furthest}/255 away from diffusers' picture"
        );
    }
}

fn generate(picture: &serde_json::Value, out: &Path) {
    let mut command = program("diptych");
    command.env("DIPTYCH_ASSETS", checkout());
    command.args(["generate", "--prompt", picture["prompt"].as_str().unwrap()]);
    command.args(["--negative", picture["negative_prompt"].as_str().unwrap()]);
    command.args(["--scheduler", picture["scheduler"].as_str().unwrap()]);
    for name in ["seed", "steps", "guidance", "width", "height"] {
        command.args([format!("--{name}"), picture[name].to_string()]);
    }
    finished({
        command.arg("--out").arg(out);
        command
    });
}

/// Greatest difference of any channel of any pixel, in levels of 0 to 255.
fn furthest_pixel(ours: &Path, theirs: &Path) -> u8 {
    let (ours, theirs) = (
        image::open(ours).unwrap().to_rgb8(),
        image::open(theirs).unwrap().to_rgb8(),
    );
    assert_eq!(ours.dimensions(), theirs.dimensions());
    ours.iter()
        .zip(theirs.iter())
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap()
}
