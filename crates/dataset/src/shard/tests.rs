use super::*;
use crate::examples::{sample, samples};
use proto::dataset::v1::Provenance;

#[test]
fn samples_come_back_as_they_went_in() {
    let mut samples = samples("animal", 0..3);
    samples[1].prompts[0].facts = None;
    samples[1].prompts[0].provenance = None;
    samples[2].gates[0].value = None;
    let image = samples[2].images[0].clone();
    samples[2].images.push(image);
    let file = encode(&samples).unwrap();
    assert_eq!(decode(file).unwrap(), samples);
    assert_eq!(decode(encode(&[]).unwrap()).unwrap(), []);
}

#[test]
fn equal_samples_give_equal_bytes_whatever_the_order_of_a_map() {
    let settings = |names: &mut dyn Iterator<Item = u32>| {
        let mut sample = sample("animal", 0);
        let parameters = names
            .map(|name| (format!("setting {name}"), "1".to_owned()))
            .collect();
        sample.images[0].provenance = Some(Provenance {
            parameters,
            ..Provenance::default()
        });
        encode(&[sample]).unwrap()
    };
    assert_eq!(settings(&mut (0..40)), settings(&mut (0..40).rev()));
}

#[test]
fn a_broken_file_is_an_error_wherever_it_is_cut_or_changed() {
    let file = encode(&samples("animal", 0..4)).unwrap();
    for length in (0..file.len()).step_by(file.len() / 50) {
        assert!(
            decode(file.slice(..length)).is_err(),
            "cut at byte {length}"
        );
    }
    assert!(decode(b"PAR1 this is not Parquet PAR1".as_slice().into()).is_err());
}

#[test]
fn the_schema_tells_hugging_face_which_column_holds_images() {
    let file = encode(&samples("animal", 0..1)).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
    let reader = reader.unwrap();
    let note: serde_json::Value =
        serde_json::from_str(&reader.schema().metadata()["huggingface"]).unwrap();
    // `datasets` heeds the note for a column that is as nullable as its own would be.
    let fields = format!("{:?}", reader.schema().fields());
    let count = |text| fields.matches(text).count();
    assert_eq!(count("Field {"), count("nullable: true"), "{fields}");
    let features = &note["info"]["features"];
    assert_eq!(
        features["images"],
        serde_json::json!([{ "_type": "Image" }])
    );
    assert_eq!(features["slot"]["dtype"], "uint64");
    assert_eq!(features["conversation"][0]["text"]["dtype"], "string");
}
