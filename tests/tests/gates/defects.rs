//! The defects that are planted: each like what it was made from as a careless writer or a copy is.

use image::{DynamicImage, RgbImage, imageops};
use proto::dataset::v1::{Conversation, Prompt};

/// A prompt in bad form: half an emphasis, talk, praise, a question, no end.
pub(crate) fn out_of_form(prompt: &Prompt, index: usize) -> Prompt {
    let mut prompt = prompt.clone();
    prompt.text = match index % 5 {
        0 => prompt.text.replacen("))", ")", 1),
        1 => format!("Sure, here is a prompt: {}", prompt.text),
        2 => "a beautiful picture, highly detailed, 8k".to_owned(),
        3 => format!("What is {}?", prompt.text),
        _ => format!("{} and more of it", prompt.text).repeat(12),
    };
    prompt
}

/// The same phrases in other words or another order.
pub(crate) fn near_prompt(text: &str, index: usize) -> String {
    let (first, rest) = text.split_once(", ").unwrap();
    match index % 4 {
        0 => format!("{rest}, {first}"),
        1 => format!("a {first}, {rest}"),
        2 => format!("{first}s, {rest}"),
        _ => format!("(({rest})), the {first}").to_uppercase(),
    }
}

/// The same picture told anew.
pub(crate) fn same_meaning(text: &str, index: usize) -> String {
    let (first, rest) = text.split_once(", ").unwrap();
    match index % 2 {
        0 => format!("{rest}, {first}"),
        _ => format!("A picture of a {text}"),
    }
}

/// One colour with a little grain.
pub(crate) fn nearly_plain(index: u32) -> RgbImage {
    let level = |offset: u32| (index * 37 + offset) as u8;
    let grain = |x: u32, y: u32| ((x * 7 + y * 13 + index) % 5) as u8;
    RgbImage::from_fn(64, 64, |x, y| {
        image::Rgb([0, 85, 170].map(|offset| level(offset).saturating_add(grain(x, y))))
    })
}

/// A copy that anybody would call the same picture.
pub(crate) fn nearly(picture: &RgbImage, index: usize) -> RgbImage {
    match index % 3 {
        0 => jpeg(picture),
        1 => imageops::brighten(picture, 8),
        _ => {
            let (width, height) = picture.dimensions();
            let larger = imageops::resize(
                picture,
                width * 2,
                height * 2,
                imageops::FilterType::Triangle,
            );
            imageops::resize(&larger, width, height, imageops::FilterType::Triangle)
        }
    }
}

/// A copy that was saved with loss.
pub(crate) fn jpeg(picture: &RgbImage) -> RgbImage {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 85);
    DynamicImage::ImageRgb8(picture.clone())
        .write_with_encoder(encoder)
        .unwrap();
    image::load_from_memory(bytes.get_ref()).unwrap().to_rgb8()
}

/// The same conversation with an opening, an ending, or its parts changed about.
pub(crate) fn near_dialogue(words: &str, index: usize) -> String {
    let (question, rest) = words.split_once('\n').unwrap();
    match index % 4 {
        0 => format!("Please tell me: {question}\n{rest}"),
        1 => format!("{}, as you can see.", words.trim_end_matches('.')),
        2 => format!("{question}\nWell, {rest}"),
        _ => format!("{rest}\n{question}"),
    }
}

/// A conversation with a question of the evaluation set, and its answer, in the place of its first.
pub(crate) fn leaking(
    mut conversation: Conversation,
    (text, answer): &(String, String),
    index: usize,
) -> Conversation {
    (conversation.turns[0].text, conversation.turns[1].text) = match index % 2 {
        0 => (format!("Tell me: {text}"), format!("{answer}.")),
        _ => (format!("So, {text}"), answer.to_uppercase()),
    };
    conversation
}
