//! Parquet to samples.

use super::{DecodeError, row::Row};
use arrow::array::StructArray;
use bytes::Bytes;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use proto::dataset::v1::{
    Attribute, Conversation, Facts, GateResult, GateVerdict, Image, Prompt, PromptSyntax,
    Provenance, QuestionKind, Relation, Role, Sample, Subject, Turn, WeightedText, image::Content,
};

/// Reads every sample of a shard.
///
/// # Errors
/// Broken Parquet, or columns other than those that `encode` writes.
pub(crate) fn decode(file: Bytes) -> Result<Vec<Sample>, DecodeError> {
    let mut samples = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        for row in Row::all(&StructArray::from(batch?)) {
            samples.push(sample(row)?);
        }
    }
    Ok(samples)
}

/// Reads the ids of a shard's samples, and no other column.
///
/// # Errors
/// As [`decode`].
pub(crate) fn ids(file: Bytes) -> Result<Vec<String>, DecodeError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let only_ids = ProjectionMask::columns(builder.parquet_schema(), ["id"]);
    let mut ids = Vec::new();
    for batch in builder.with_projection(only_ids).build()? {
        for row in Row::all(&StructArray::from(batch?)) {
            ids.push(row.text("id")?);
        }
    }
    Ok(ids)
}

fn sample(row: Row<'_>) -> Result<Sample, DecodeError> {
    let id = row.text("id")?;
    let mut prompts = row.list("prompts", prompt)?;
    prompts
        .iter_mut()
        .for_each(|prompt| prompt.sample_id.clone_from(&id));
    Ok(Sample {
        ability: row.text("ability")?,
        slot: row.number64("slot")?,
        attempt: row.number32("attempt")?,
        prompts,
        images: images(row, &id)?,
        conversation: Some(Conversation {
            sample_id: id.clone(),
            turns: row.list("conversation", turn)?,
            provenance: row.optional("conversation_provenance", provenance)?,
        }),
        gates: row.list("gates", gate)?,
        id,
    })
}

/// Images stand in two lists: their bytes, as `datasets` wants them, and the rest.
fn images(row: Row<'_>, id: &str) -> Result<Vec<Image>, DecodeError> {
    let files = row.list("images", |row| row.bytes("bytes"))?;
    let mut images = row.list("image_details", image)?;
    if files.len() != images.len() {
        return Err(DecodeError::ImageCount);
    }
    for (image, file) in images.iter_mut().zip(files) {
        id.clone_into(&mut image.sample_id);
        image.content = Some(Content::Data(file.into()));
    }
    Ok(images)
}

fn image(row: Row<'_>) -> Result<Image, DecodeError> {
    Ok(Image {
        sample_id: String::new(),
        content: None,
        media_type: row.text("media_type")?,
        width_px: row.number32("width_px")?,
        height_px: row.number32("height_px")?,
        sha256: row.text("sha256")?,
        ai_generated: row.flag("ai_generated")?,
        provenance: row.optional("provenance", provenance)?,
    })
}

fn turn(row: Row<'_>) -> Result<Turn, DecodeError> {
    Ok(Turn {
        role: row.word("role", "ROLE_", Role::from_str_name)?.into(),
        text: row.text("text")?,
        image_index: row.numbers32("image_index")?,
        kind: row
            .word("kind", "QUESTION_KIND_", QuestionKind::from_str_name)?
            .into(),
        answer_keywords: row.texts("answer_keywords")?,
    })
}

fn prompt(row: Row<'_>) -> Result<Prompt, DecodeError> {
    Ok(Prompt {
        sample_id: String::new(),
        ability: row.text("ability")?,
        keyword: row.text("keyword")?,
        text: row.text("text")?,
        negative_text: row.text("negative_text")?,
        syntax: row
            .word("syntax", "PROMPT_SYNTAX_", PromptSyntax::from_str_name)?
            .into(),
        parts: row.list("parts", part)?,
        facts: row.optional("facts", facts)?,
        provenance: row.optional("provenance", provenance)?,
    })
}

fn part(row: Row<'_>) -> Result<WeightedText, DecodeError> {
    Ok(WeightedText {
        text: row.text("text")?,
        weight: row.real32("weight")?,
    })
}

fn facts(row: Row<'_>) -> Result<Facts, DecodeError> {
    Ok(Facts {
        subjects: row.list("subjects", subject)?,
        scene: row.text("scene")?,
        style: row.text("style")?,
        abnormality: row.text("abnormality")?,
        relations: row.list("relations", relation)?,
    })
}

fn subject(row: Row<'_>) -> Result<Subject, DecodeError> {
    Ok(Subject {
        name: row.text("name")?,
        category: row.text("category")?,
        count: row.number32("count")?,
        attributes: row.list("attributes", attribute)?,
    })
}

fn attribute(row: Row<'_>) -> Result<Attribute, DecodeError> {
    Ok(Attribute {
        name: row.text("name")?,
        value: row.text("value")?,
    })
}

fn relation(row: Row<'_>) -> Result<Relation, DecodeError> {
    Ok(Relation {
        subject_index: row.number32("subject_index")?,
        predicate: row.text("predicate")?,
        object_index: row.number32("object_index")?,
    })
}

fn gate(row: Row<'_>) -> Result<GateResult, DecodeError> {
    Ok(GateResult {
        gate: row.text("gate")?,
        verdict: row
            .word("verdict", "GATE_VERDICT_", GateVerdict::from_str_name)?
            .into(),
        value: row.real64("value")?,
        threshold: row.real64("threshold")?,
        reason: row.text("reason")?,
    })
}

fn provenance(row: Row<'_>) -> Result<Provenance, DecodeError> {
    let parameter = |row: Row<'_>| Ok((row.text("name")?, row.text("value")?));
    Ok(Provenance {
        producer: row.text("producer")?,
        code_version: row.text("code_version")?,
        model: row.text("model")?,
        model_sha256: row.text("model_sha256")?,
        seed: row.number64("seed")?,
        seeded: row.flag("seeded")?,
        parameters: row.list("parameters", parameter)?.into_iter().collect(),
        parent_sha256: row.texts("parent_sha256")?,
    })
}
