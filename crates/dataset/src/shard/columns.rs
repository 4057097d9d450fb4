//! Columns from rows, level by level.
//!
//! Each function takes all rows of one level as references and gives a named
//! column. A list is flattened, its items are turned into columns the same way,
//! and the lengths become offsets.

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, ListArray, StringArray,
        StructArray, UInt32Array, UInt64Array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{Field, FieldRef, Fields},
};
use std::sync::Arc;

/// A named array.
pub(super) type Column = (FieldRef, ArrayRef);

/// Every column may say that it has no value, though only few ever do: `datasets`
/// takes a feature from our note only where the column is as nullable as its own,
/// which all are.
fn column(name: &str, array: ArrayRef) -> Column {
    let field = Field::new(name, array.data_type().clone(), true);
    (Arc::new(field), array)
}

pub(super) fn text<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> &str) -> Column {
    let values = StringArray::from_iter_values(rows.iter().map(|row| value(row)));
    column(name, Arc::new(values))
}

/// A word of a closed set, such as `yes_no`.
pub(super) fn word<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> String) -> Column {
    let values = StringArray::from_iter_values(rows.iter().map(|row| value(row)));
    column(name, Arc::new(values))
}

pub(super) fn bytes<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> &[u8]) -> Column {
    let values = BinaryArray::from_iter_values(rows.iter().map(|row| value(row)));
    column(name, Arc::new(values))
}

pub(super) fn flag<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> bool) -> Column {
    let values: Vec<bool> = rows.iter().map(|row| value(row)).collect();
    column(name, Arc::new(BooleanArray::from(values)))
}

pub(super) fn number32<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> u32) -> Column {
    let values = UInt32Array::from_iter_values(rows.iter().map(|row| value(row)));
    column(name, Arc::new(values))
}

pub(super) fn number64<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> u64) -> Column {
    let values = UInt64Array::from_iter_values(rows.iter().map(|row| value(row)));
    column(name, Arc::new(values))
}

pub(super) fn real32<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> f32) -> Column {
    let values = Float32Array::from_iter_values(rows.iter().map(|row| value(row)));
    column(name, Arc::new(values))
}

pub(super) fn real64<T>(name: &str, rows: &[&T], value: impl Fn(&T) -> Option<f64>) -> Column {
    let values: Float64Array = rows.iter().map(|row| value(row)).collect();
    column(name, Arc::new(values))
}

pub(super) fn texts<T>(name: &str, rows: &[&T], values: impl Fn(&T) -> &[String]) -> Column {
    let flat = StringArray::from_iter_values(rows.iter().flat_map(|row| values(row)));
    let lengths = rows.iter().map(|row| values(row).len());
    list_of(name, lengths, Arc::new(flat))
}

pub(super) fn numbers32<T>(name: &str, rows: &[&T], values: impl Fn(&T) -> &[u32]) -> Column {
    let flat = UInt32Array::from_iter_values(rows.iter().flat_map(|row| values(row)).copied());
    let lengths = rows.iter().map(|row| values(row).len());
    list_of(name, lengths, Arc::new(flat))
}

/// A list of structures; `build` gives the columns of its items.
pub(super) fn list<T, U>(
    name: &str,
    rows: &[&T],
    items: impl Fn(&T) -> &[U],
    build: impl Fn(&[&U]) -> Vec<Column>,
) -> Column {
    let flat: Vec<&U> = rows.iter().flat_map(|row| items(row)).collect();
    let lengths = rows.iter().map(|row| items(row).len());
    list_of(name, lengths, Arc::new(structure(build(&flat), None)))
}

/// A structure that may be absent.
pub(super) fn optional<T, U: Default>(
    name: &str,
    rows: &[&T],
    value: impl Fn(&T) -> Option<&U>,
    build: impl Fn(&[&U]) -> Vec<Column>,
) -> Column {
    let absent = U::default();
    let flat: Vec<&U> = rows
        .iter()
        .map(|row| value(row).unwrap_or(&absent))
        .collect();
    let present: NullBuffer = rows.iter().map(|row| value(row).is_some()).collect();
    column(name, Arc::new(structure(build(&flat), Some(present))))
}

fn structure(columns: Vec<Column>, present: Option<NullBuffer>) -> StructArray {
    let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = columns.into_iter().unzip();
    StructArray::new(Fields::from(fields), arrays, present)
}

fn list_of(name: &str, lengths: impl Iterator<Item = usize>, values: ArrayRef) -> Column {
    // `element` is the Parquet format's own name for a list's items.
    let element = Arc::new(Field::new("element", values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    column(
        name,
        Arc::new(ListArray::new(element, offsets, values, None)),
    )
}
