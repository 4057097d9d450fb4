use super::*;
use crate::examples::sample;
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

#[test]
fn a_conversation_written_with_tokens_is_read_back_with_its_pictures() {
    let mut sample = sample("animal", 0);
    sample.images.push(sample.images[0].clone());
    let conversation = sample.conversation.as_mut().unwrap();
    conversation.turns.extend(conversation.turns.clone());
    conversation.turns[2].image_index = vec![1];
    let read = unmarked(&turns(&sample), 2).unwrap();
    let said = &sample.conversation.unwrap().turns;
    for (read, said) in read.iter().zip(said) {
        assert_eq!((&read.text, read.role), (&said.text, said.role));
        assert_eq!(read.image_index, said.image_index);
    }
    let tokens_for_none = [Turn {
        speaker: Speaker::Human,
        value: "<image> What?".into(),
    }];
    assert!(
        unmarked(&tokens_for_none, 0)
            .unwrap_err()
            .contains("1 image tokens")
    );
}
