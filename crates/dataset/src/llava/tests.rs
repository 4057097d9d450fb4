use super::*;
use crate::{
    examples::{partition, plan, sample, samples},
    store::{PartitionTally, Reader as Dataset, Root, Writer},
};
use std::{fs, path::Path};

fn read_all(folder: &Path, json: &str) -> Vec<Result<Record, String>> {
    let path = folder.join("data.json");
    fs::write(&path, json).unwrap();
    match read(&path) {
        Ok(records) => records
            .map(|record| record.map_err(|error| error.to_string()))
            .collect(),
        Err(error) => vec![Err(error.to_string())],
    }
}

#[tokio::test]
async fn an_export_is_read_back_picture_by_picture_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[("animal", 70)]);
    let root = Root::create_folder(&folder.path().join("dataset")).unwrap();
    let writer = Writer::open(root.clone(), &plan).await.unwrap();
    for number in 0..2 {
        let partition = partition(&plan, "animal", number);
        let samples = samples("animal", partition.slots());
        writer
            .commit(&partition, samples, PartitionTally::default())
            .await
            .unwrap();
    }
    let dataset = Dataset::open(root).await.unwrap();
    let target = folder.path().join("llava");
    let exported = export(&dataset, &target).await.unwrap();
    assert_eq!(
        exported,
        Exported {
            sample_count: 70,
            image_count: 70
        }
    );

    assert_eq!(
        image_folder(&target.join("data.json")),
        target.join("images")
    );
    let records: Vec<Record> = read(&target.join("data.json"))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(records.len(), 70);
    for (slot, record) in records.iter().enumerate() {
        let sample = sample("animal", slot as u64);
        assert_eq!(record.id, sample.id);
        assert_eq!(record.turns, turns(&sample));
        let image = fs::read(target.join("images").join(&record.images[0])).unwrap();
        assert_eq!(crate::identity::sha256_hex(image), sample.images[0].sha256);
    }
    assert_eq!(records[0].turns[0].value, "<image>\nWhat is in picture 0?");

    let again = export(&dataset, &target).await.unwrap_err();
    assert!(again.to_string().contains("is not empty"), "{again}");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    export(&dataset, &empty).await.unwrap();
    let json = |folder: &Path| fs::read(folder.join("data.json")).unwrap();
    assert_eq!(json(&empty), json(&target));
    // Nothing is left beside the targets.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn the_forms_found_in_public_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let records = read_all(
        folder.path(),
        r#" [ {"id": 7, "image": "coco/7.jpg", "model": "", "conversations": [
                {"from": "gpt", "value": "Hello."},
                {"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "A {bus}."}]} ,
              {"id":"text_0","conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"A"}]},
              {"image":["a.png","b.png"],"conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"A"}]}]"#,
    );
    let records: Vec<Record> = records.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        (
            records[0].id.as_str(),
            records[1].id.as_str(),
            records[2].id.as_str()
        ),
        ("7", "text_0", "")
    );
    assert_eq!(records[0].images, [PathBuf::from("coco/7.jpg")]);
    assert_eq!(records[0].turns.len(), 2);
    assert!(records[1].images.is_empty());
    assert_eq!(records[2].images.len(), 2);
    assert!(read_all(folder.path(), "[]").is_empty());
}

#[test]
fn a_bad_record_is_named_and_a_rule_broken_by_one_leaves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let good =
        r#"{"id":"ok","conversations":[{"from":"human","value":"Q"},{"from":"gpt","value":"A"}]}"#;
    let escape = good.replace(r#""id":"ok""#, r#""id":"bad","image":"../../etc/passwd""#);
    let mute = r#"{"id":"mute","conversations":[{"from":"human","value":"Q"}]}"#;
    let found = read_all(folder.path(), &format!("[{escape},{mute},{good}]"));
    assert!(found[0].as_ref().unwrap_err().contains("record 0"));
    assert!(
        found[0]
            .as_ref()
            .unwrap_err()
            .contains("inside the image folder")
    );
    assert!(found[1].as_ref().unwrap_err().contains("id `mute`"));
    assert_eq!(found[2].as_ref().unwrap().id, "ok");

    for (json, complaint) in [
        (format!("[{good},{{\"id\":\"x\"}}]"), "record 1"),
        (format!("[{good},{}", &good[..40]), "at byte 87"),
        (format!("[{good}{good}]"), "commas"),
        (format!("[{good}"), "commas"),
        (good.to_owned(), "begins with `{`"),
        ("[7]".to_owned(), "not a record"),
        (String::new(), "does not begin"),
    ] {
        let found = read_all(folder.path(), &json);
        let last = found.last().unwrap().as_ref().unwrap_err();
        assert!(last.contains(complaint), "{json}: {last}");
        assert!(last.contains("data.json"), "{last}");
    }
}

#[test]
fn images_stand_in_the_turn_that_shows_them() {
    let mut sample = sample("animal", 0);
    sample.images.push(sample.images[0].clone());
    sample.images.push(sample.images[0].clone());
    let conversation = sample.conversation.as_mut().unwrap();
    conversation.turns.extend(conversation.turns.clone());
    conversation.turns[0].image_index = vec![0];
    conversation.turns[2].image_index = vec![1];
    let turns = turns(&sample);
    assert!(
        turns[0].value.starts_with("<image>\n<image>\nWhat"),
        "image 2 is shown by no turn"
    );
    assert!(turns[2].value.starts_with("<image>\nWhat"));
}
