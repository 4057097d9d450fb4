//! Samples to Parquet.

use super::{
    EncodeError,
    columns::{
        Column, bytes, flag, list, number32, number64, numbers32, optional, real32, real64, text,
        texts, word,
    },
    features::huggingface,
};
use arrow::{
    array::RecordBatch,
    datatypes::{FieldRef, Schema},
};
use bytes::Bytes;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
    schema::types::ColumnPath,
};
use proto::dataset::v1::{
    Attribute, Conversation, Facts, GateResult, Image, Prompt, Provenance, Relation, Sample,
    Subject, Turn, WeightedText, image::Content,
};
use std::{io::Write, sync::Arc};

/// Writes samples, in the order given, as one Parquet file.
///
/// # Errors
/// Images of 2 GiB or more in all.
pub(crate) fn encode(samples: &[Sample]) -> Result<Bytes, EncodeError> {
    let images = samples.iter().flat_map(|sample| &sample.images);
    let size_bytes = images.map(|image| encoded_file(image).len()).sum();
    if size_bytes >= i32::MAX as usize {
        return Err(EncodeError::TooLarge { size_bytes });
    }
    let mut writer = writer(Vec::new())?;
    writer.write(&batch(samples)?)?;
    Ok(writer.into_inner()?.into())
}

/// A writer of files with the columns that samples have, any samples.
pub(super) fn writer<W: Write + Send>(output: W) -> Result<ArrowWriter<W>, EncodeError> {
    let schema = batch(&[])?.schema();
    let note = schema.metadata().get(NOTE).cloned().unwrap_or_default();
    Ok(ArrowWriter::try_new(
        output,
        schema,
        Some(properties(note)?),
    )?)
}

/// The columns of samples, with the note for `datasets` in their schema.
pub(super) fn batch(samples: &[Sample]) -> Result<RecordBatch, EncodeError> {
    let rows: Vec<Row<'_>> = samples.iter().map(Row::new).collect();
    let (fields, arrays): (Vec<FieldRef>, Vec<_>) =
        sample_columns(&rows.iter().collect::<Vec<_>>())
            .into_iter()
            .unzip();
    let schema = Schema::new(fields);
    let note = huggingface(&schema);
    let schema = Arc::new(schema.with_metadata([(NOTE.to_owned(), note)]));
    Ok(RecordBatch::try_new(schema, arrays)?)
}

/// Key of the note from which `datasets` takes its features.
const NOTE: &str = "huggingface";

/// Settings that decide the bytes. A change makes every shard another shard.
fn properties(note: String) -> Result<WriterProperties, EncodeError> {
    let image_bytes = ColumnPath::from("images.list.element.bytes");
    Ok(WriterProperties::builder()
        .set_created_by(concat!("diptych dataset ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new(NOTE.to_owned(), note)]))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        // Images are compressed already, never equal, and no one asks for the least of them.
        .set_column_compression(image_bytes.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(image_bytes.clone(), false)
        .set_column_statistics_enabled(image_bytes, EnabledStatistics::None)
        .build())
}

/// A sample with what only its whole can say of its images.
struct Row<'a> {
    sample: &'a Sample,
    files: Vec<ImageFile<'a>>,
}

/// The two fields of the Hugging Face `Image` feature.
struct ImageFile<'a> {
    bytes: &'a [u8],
    path: String,
}

impl<'a> Row<'a> {
    fn new(sample: &'a Sample) -> Self {
        let file = |(index, image): (usize, &'a Image)| ImageFile {
            bytes: encoded_file(image),
            path: image_file_name(sample, index),
        };
        Self {
            sample,
            files: sample.images.iter().enumerate().map(file).collect(),
        }
    }
}

/// Name of an image's file: its sample's id, numbered where there are several.
pub(crate) fn image_file_name(sample: &Sample, index: usize) -> String {
    let extension = sample.images.get(index).map_or("png", image_extension);
    match sample.images.len() {
        0 | 1 => format!("{}.{extension}", sample.id),
        _ => format!("{}-{index}.{extension}", sample.id),
    }
}

/// Extension of an image's file, without the dot.
pub(crate) fn image_extension(image: &Image) -> &'static str {
    match image.media_type.as_str() {
        "image/jpeg" => "jpg",
        _ => "png",
    }
}

/// An image's bytes; the store gives every image with them.
pub(crate) fn encoded_file(image: &Image) -> &[u8] {
    match &image.content {
        Some(Content::Data(data)) => data,
        Some(Content::Artefact(_)) | None => &[],
    }
}

fn sample_columns(rows: &[&Row<'_>]) -> Vec<Column> {
    let samples: &[&Sample] = &rows.iter().map(|row| row.sample).collect::<Vec<_>>();
    vec![
        text("id", samples, |sample| &sample.id),
        text("ability", samples, |sample| &sample.ability),
        number64("slot", samples, |sample| sample.slot),
        number32("attempt", samples, |sample| sample.attempt),
        images_column(rows),
        list("conversation", samples, turns, turn_columns),
        list("prompts", samples, |sample| &sample.prompts, prompt_columns),
        list("gates", samples, |sample| &sample.gates, gate_columns),
        list(
            "image_details",
            samples,
            |sample| &sample.images,
            image_columns,
        ),
        optional(
            "conversation_provenance",
            samples,
            conversation_provenance,
            provenance_columns,
        ),
    ]
}

fn images_column(rows: &[&Row<'_>]) -> Column {
    let rows: Vec<&[ImageFile<'_>]> = rows.iter().map(|row| row.files.as_slice()).collect();
    let rows: Vec<&&[ImageFile<'_>]> = rows.iter().collect();
    list(
        "images",
        &rows,
        |files| files,
        |files| {
            vec![
                bytes("bytes", files, |file| file.bytes),
                text("path", files, |file| &file.path),
            ]
        },
    )
}

fn turns(sample: &Sample) -> &[Turn] {
    sample
        .conversation
        .as_ref()
        .map_or(&[], |conversation| &conversation.turns)
}

fn conversation_provenance(sample: &Sample) -> Option<&Provenance> {
    sample
        .conversation
        .as_ref()
        .and_then(|Conversation { provenance, .. }| provenance.as_ref())
}

fn turn_columns(turns: &[&Turn]) -> Vec<Column> {
    vec![
        word("role", turns, |turn| {
            written(turn.role().as_str_name(), "ROLE_")
        }),
        text("text", turns, |turn| &turn.text),
        numbers32("image_index", turns, |turn| &turn.image_index),
        word("kind", turns, |turn| {
            written(turn.kind().as_str_name(), "QUESTION_KIND_")
        }),
        texts("answer_keywords", turns, |turn| &turn.answer_keywords),
    ]
}

fn prompt_columns(prompts: &[&Prompt]) -> Vec<Column> {
    vec![
        text("ability", prompts, |prompt| &prompt.ability),
        text("keyword", prompts, |prompt| &prompt.keyword),
        text("text", prompts, |prompt| &prompt.text),
        text("negative_text", prompts, |prompt| &prompt.negative_text),
        word("syntax", prompts, |prompt| {
            written(prompt.syntax().as_str_name(), "PROMPT_SYNTAX_")
        }),
        list("parts", prompts, |prompt| &prompt.parts, part_columns),
        optional(
            "facts",
            prompts,
            |prompt| prompt.facts.as_ref(),
            facts_columns,
        ),
        optional(
            "provenance",
            prompts,
            |prompt| prompt.provenance.as_ref(),
            provenance_columns,
        ),
    ]
}

fn part_columns(parts: &[&WeightedText]) -> Vec<Column> {
    vec![
        text("text", parts, |part| &part.text),
        real32("weight", parts, |part| part.weight),
    ]
}

fn facts_columns(facts: &[&Facts]) -> Vec<Column> {
    vec![
        list("subjects", facts, |facts| &facts.subjects, subject_columns),
        text("scene", facts, |facts| &facts.scene),
        text("style", facts, |facts| &facts.style),
        text("abnormality", facts, |facts| &facts.abnormality),
        list(
            "relations",
            facts,
            |facts| &facts.relations,
            relation_columns,
        ),
    ]
}

fn subject_columns(subjects: &[&Subject]) -> Vec<Column> {
    vec![
        text("name", subjects, |subject| &subject.name),
        text("category", subjects, |subject| &subject.category),
        number32("count", subjects, |subject| subject.count),
        list(
            "attributes",
            subjects,
            |subject| &subject.attributes,
            attribute_columns,
        ),
    ]
}

fn attribute_columns(attributes: &[&Attribute]) -> Vec<Column> {
    vec![
        text("name", attributes, |attribute| &attribute.name),
        text("value", attributes, |attribute| &attribute.value),
    ]
}

fn relation_columns(relations: &[&Relation]) -> Vec<Column> {
    vec![
        number32("subject_index", relations, |relation| {
            relation.subject_index
        }),
        text("predicate", relations, |relation| &relation.predicate),
        number32("object_index", relations, |relation| relation.object_index),
    ]
}

fn gate_columns(gates: &[&GateResult]) -> Vec<Column> {
    vec![
        text("gate", gates, |gate| &gate.gate),
        word("verdict", gates, |gate| {
            written(gate.verdict().as_str_name(), "GATE_VERDICT_")
        }),
        real64("value", gates, |gate| gate.value),
        real64("threshold", gates, |gate| gate.threshold),
        text("reason", gates, |gate| &gate.reason),
    ]
}

fn image_columns(images: &[&Image]) -> Vec<Column> {
    vec![
        text("media_type", images, |image| &image.media_type),
        number32("width_px", images, |image| image.width_px),
        number32("height_px", images, |image| image.height_px),
        text("sha256", images, |image| &image.sha256),
        flag("ai_generated", images, |image| image.ai_generated),
        optional(
            "provenance",
            images,
            |image| image.provenance.as_ref(),
            provenance_columns,
        ),
    ]
}

fn provenance_columns(origins: &[&Provenance]) -> Vec<Column> {
    // The map has no order of its own.
    let sorted: Vec<Vec<(&String, &String)>> = origins
        .iter()
        .map(|origin| {
            let mut parameters: Vec<_> = origin.parameters.iter().collect();
            parameters.sort();
            parameters
        })
        .collect();
    let sorted: Vec<&Vec<(&String, &String)>> = sorted.iter().collect();
    vec![
        text("producer", origins, |origin| &origin.producer),
        text("code_version", origins, |origin| &origin.code_version),
        text("model", origins, |origin| &origin.model),
        text("model_sha256", origins, |origin| &origin.model_sha256),
        number64("seed", origins, |origin| origin.seed),
        flag("seeded", origins, |origin| origin.seeded),
        list(
            "parameters",
            &sorted,
            |parameters| parameters,
            |parameters| {
                vec![
                    text("name", parameters, |(name, _)| name),
                    text("value", parameters, |(_, value)| value),
                ]
            },
        ),
        texts("parent_sha256", origins, |origin| &origin.parent_sha256),
    ]
}

/// `QUESTION_KIND_YES_NO` is written `yes_no`.
pub(crate) fn written(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}
