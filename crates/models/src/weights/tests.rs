use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use super::Weights;

fn write(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, v)| v.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), data)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap(),
        )
    });
    serialize_to_file(views, None, path).unwrap();
}

#[test]
fn a_broken_checkpoint_is_refused_with_the_name_of_the_file_and_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    write(
        &file,
        &[
            ("a.weight", &[2, 2], vec![1., 2., 3., 4.]),
            ("b", &[1], vec![f32::NAN]),
        ],
    );
    let weights = Weights::open_in(folder.path(), &["model"]).unwrap();

    assert_eq!(
        weights.values("a.weight", &[2, 2]).unwrap(),
        [1., 2., 3., 4.]
    );
    for (key, shape, words) in [
        (
            "a.weight",
            vec![4],
            "`a.weight` has shape [2, 2], config.json asks for [4]",
        ),
        ("c", vec![1], "no tensor `c`"),
        ("b", vec![1], "`b` holds a value that is not finite"),
    ] {
        let error = weights.values(key, &shape).unwrap_err().to_string();
        assert!(
            error.contains(words) && error.contains("model.safetensors"),
            "{error}"
        );
    }
    assert!(weights.finish(&[]).unwrap_err().to_string().contains("`b`"));
    assert!(weights.finish(&["b"]).is_ok());

    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let error = Weights::open(&file).err().unwrap().to_string();
    assert!(error.contains("truncated"), "{error}");
}

#[test]
fn a_sharded_checkpoint_reads_as_one_and_cannot_leave_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    write(
        &folder.path().join("m-1.safetensors"),
        &[("text_model.x", &[1], vec![1.])],
    );
    write(
        &folder.path().join("m-2.safetensors"),
        &[("head", &[1], vec![2.])],
    );
    let index = folder.path().join("model.safetensors.index.json");
    let map = r#"{"weight_map":{"text_model.x":"m-1.safetensors","head":"m-2.safetensors"}}"#;
    std::fs::write(&index, map).unwrap();
    let weights = Weights::open_in(folder.path(), &["model"])
        .unwrap()
        .with_optional_prefix("text_model.");
    assert_eq!(weights.values("x", &[1]).unwrap(), [1.]);
    assert_eq!(weights.values("head", &[1]).unwrap(), [2.]);
    weights.finish(&[]).unwrap();

    std::fs::write(&index, r#"{"weight_map":{"x":"../m-1.safetensors"}}"#).unwrap();
    let error = Weights::open_in(folder.path(), &["model"])
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("not a plain file name"), "{error}");
}
