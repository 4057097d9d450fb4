//! The `huggingface` note in a shard's schema, from which `datasets` takes its
//! features, so that images show as images.

use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Value, json};

/// Columns that hold images.
const IMAGE_COLUMN: &str = "images";

/// The note for a schema.
pub(super) fn huggingface(schema: &Schema) -> String {
    let features: serde_json::Map<String, Value> = schema
        .fields()
        .iter()
        .map(|field| {
            let is_image = field.name() == IMAGE_COLUMN;
            let value = if is_image {
                json!([{ "_type": "Image" }])
            } else {
                feature(field)
            };
            (field.name().clone(), value)
        })
        .collect();
    json!({ "info": { "features": features } }).to_string()
}

fn feature(field: &Field) -> Value {
    match field.data_type() {
        DataType::Struct(fields) => fields
            .iter()
            .map(|field| (field.name().clone(), feature(field)))
            .collect(),
        DataType::List(element) => json!([feature(element)]),
        plain => json!({ "dtype": dtype(plain), "_type": "Value" }),
    }
}

/// Names as `datasets.Value` spells them.
fn dtype(plain: &DataType) -> &'static str {
    match plain {
        DataType::Boolean => "bool",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::Binary => "binary",
        _ => "string",
    }
}
