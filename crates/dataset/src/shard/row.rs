//! Rows from columns: one row of one level, asked for its values by name.

use super::DecodeError;
use arrow::array::{
    Array, BinaryArray, BooleanArray, Float32Array, Float64Array, ListArray, StringArray,
    StructArray, UInt32Array, UInt64Array,
};

/// One row of a structure. Nothing in it is taken on trust: a missing column,
/// another type or an absent value is an error that names the column.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a StructArray,
    index: usize,
}

impl<'a> Row<'a> {
    pub(super) fn all(columns: &'a StructArray) -> impl Iterator<Item = Self> {
        (0..columns.len()).map(move |index| Self { columns, index })
    }

    pub(super) fn text(self, name: &str) -> Result<String, DecodeError> {
        Ok(self
            .value::<StringArray>(name)?
            .value(self.index)
            .to_owned())
    }

    /// A word of a closed set, in the spelling of the schema: `yes_no` is
    /// `QUESTION_KIND_YES_NO`.
    pub(super) fn word<E>(
        self,
        name: &str,
        prefix: &str,
        parse: impl Fn(&str) -> Option<E>,
    ) -> Result<E, DecodeError> {
        let word = self.text(name)?;
        parse(&format!("{prefix}{}", word.to_uppercase())).ok_or_else(|| DecodeError::UnknownWord {
            column: name.to_owned(),
            word,
        })
    }

    pub(super) fn bytes(self, name: &str) -> Result<Vec<u8>, DecodeError> {
        Ok(self
            .value::<BinaryArray>(name)?
            .value(self.index)
            .to_owned())
    }

    pub(super) fn flag(self, name: &str) -> Result<bool, DecodeError> {
        Ok(self.value::<BooleanArray>(name)?.value(self.index))
    }

    pub(super) fn number32(self, name: &str) -> Result<u32, DecodeError> {
        Ok(self.value::<UInt32Array>(name)?.value(self.index))
    }

    pub(super) fn number64(self, name: &str) -> Result<u64, DecodeError> {
        Ok(self.value::<UInt64Array>(name)?.value(self.index))
    }

    pub(super) fn real32(self, name: &str) -> Result<f32, DecodeError> {
        Ok(self.value::<Float32Array>(name)?.value(self.index))
    }

    pub(super) fn real64(self, name: &str) -> Result<Option<f64>, DecodeError> {
        let column = self.column::<Float64Array>(name)?;
        Ok(column
            .is_valid(self.index)
            .then(|| column.value(self.index)))
    }

    pub(super) fn texts(self, name: &str) -> Result<Vec<String>, DecodeError> {
        let items = self.value::<ListArray>(name)?.value(self.index);
        let items = downcast::<StringArray>(&items, name)?;
        Ok(items
            .iter()
            .map(|item| item.unwrap_or_default().to_owned())
            .collect())
    }

    pub(super) fn numbers32(self, name: &str) -> Result<Vec<u32>, DecodeError> {
        let items = self.value::<ListArray>(name)?.value(self.index);
        Ok(downcast::<UInt32Array>(&items, name)?.values().to_vec())
    }

    pub(super) fn list<T>(
        self,
        name: &str,
        read: impl Fn(Row<'_>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let items = self.value::<ListArray>(name)?.value(self.index);
        Row::all(downcast::<StructArray>(&items, name)?)
            .map(read)
            .collect()
    }

    pub(super) fn optional<T>(
        self,
        name: &str,
        read: impl Fn(Row<'_>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        let columns = self.column::<StructArray>(name)?;
        let row = Row {
            columns,
            index: self.index,
        };
        columns.is_valid(self.index).then(|| read(row)).transpose()
    }

    fn value<A: Array + 'static>(self, name: &str) -> Result<&'a A, DecodeError> {
        let column = self.column::<A>(name)?;
        if column.is_null(self.index) {
            return Err(DecodeError::MissingValue {
                column: name.to_owned(),
                row: self.index,
            });
        }
        Ok(column)
    }

    fn column<A: Array + 'static>(self, name: &str) -> Result<&'a A, DecodeError> {
        let column = self.columns.column_by_name(name);
        downcast(
            column.ok_or_else(|| DecodeError::MissingColumn(name.to_owned()))?,
            name,
        )
    }
}

fn downcast<'a, A: Array + 'static>(
    array: &'a dyn Array,
    name: &str,
) -> Result<&'a A, DecodeError> {
    array
        .as_any()
        .downcast_ref()
        .ok_or_else(|| DecodeError::ColumnType {
            column: name.to_owned(),
            found: array.data_type().to_string(),
        })
}
