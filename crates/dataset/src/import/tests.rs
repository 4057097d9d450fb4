use super::*;
use crate::store::Reader;
use futures::TryStreamExt as _;
use std::fs;

fn png(level: u8) -> Vec<u8> {
    let mut file = io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(9, 7, image::Rgb([level; 3]));
    picture
        .write_to(&mut file, image::ImageFormat::Png)
        .unwrap();
    file.into_inner()
}

async fn samples(folder: &Path) -> Vec<Sample> {
    let reader = Reader::open(Root::folder(folder).unwrap()).await.unwrap();
    reader.samples().try_collect().await.unwrap()
}

#[tokio::test]
async fn llava_json_becomes_a_dataset_and_a_bad_record_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("a.png"), png(1)).unwrap();
    let record = |id: usize, image: &str| {
        format!(
            r#"{{"id": "r{id}", "image": "{image}", "conversations": [
            {{"from": "human", "value": "What is it?\n<image>"}}, {{"from": "gpt", "value": "A fox."}}]}}"#
        )
    };
    let json = folder.path().join("data.json");
    let records: Vec<String> = (0..70).map(|id| record(id, "a.png")).collect();
    fs::write(&json, format!("[{}]", records.join(","))).unwrap();
    let source = Source::Llava {
        json: json.clone(),
        images: images.clone(),
    };
    let target = folder.path().join("dataset");
    let mut told = Vec::new();
    let mut watch = |done, all| told.push((done, all));
    let imported = import(&source, &target, &mut watch).await.unwrap();
    assert_eq!((imported.sample_count, imported.image_count), (70, 70));
    assert_eq!(told, [(64, 70), (70, 70)]);
    let found = samples(&target).await;
    assert_eq!(
        found[69].conversation.as_ref().unwrap().turns[0].text,
        "What is it?"
    );
    assert_eq!(
        found[69].conversation.as_ref().unwrap().turns[0].image_index,
        [0]
    );
    let origin = found[69].conversation.as_ref().unwrap().provenance.as_ref();
    assert_eq!(origin.unwrap().parameters["id"], "r69");
    assert_eq!(
        (found[0].images[0].width_px, found[0].images[0].height_px),
        (9, 7)
    );

    fs::write(images.join("cut.png"), &png(1)[..40]).unwrap();
    for (image, says) in [("b.png", "there is no picture"), ("cut.png", "its picture")] {
        let mut records = records.clone();
        records.push(record(70, image));
        fs::write(&json, format!("[{}]", records.join(","))).unwrap();
        let other = folder.path().join("other");
        let error = import(&source, &other, &mut |_, _| ()).await.unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("record 70 of") && error.contains("data.json"),
            "{error}"
        );
        assert!(error.contains(says) && error.contains(image), "{error}");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            3,
            "something is left"
        );
    }
}

#[tokio::test]
async fn the_release_is_kept_with_prompts_and_dialogues_and_without_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let release = folder.path().join("release");
    fs::create_dir(&release).unwrap();
    let row = r#"[{"id": "0", "image": "animal/0.jpg", "prompt": "((Peacock)), garden",
        "question": "<image>\nDescribe it.", "answer": "A peacock."}]"#;
    fs::write(release.join("animal.json"), row).unwrap();
    fs::write(release.join("plant.json"), row.replace("Peacock", "Rose")).unwrap();
    let source = Source::StableLlava {
        path: release.clone(),
    };
    let target = folder.path().join("dataset");
    let imported = import(&source, &target, &mut |_, _| ()).await.unwrap();
    assert_eq!((imported.sample_count, imported.image_count), (2, 0));
    let found = samples(&target).await;
    assert_eq!(found[1].prompts[0].text, "((Rose)), garden");
    assert_eq!(found[1].prompts[0].keyword, "Rose");
    assert_eq!(
        found[1].conversation.as_ref().unwrap().turns[0].text,
        "Describe it."
    );

    fs::write(
        release.join("vehicle.json"),
        row.replace("\"answer\"", "\"anwser\""),
    )
    .unwrap();
    let error = import(&source, &folder.path().join("other"), &mut |_, _| ()).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("record 0 of") && error.contains("vehicle.json"),
        "{error}"
    );
    assert!(error.contains("missing field `answer`"), "{error}");
}
