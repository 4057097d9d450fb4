//! TOML files that people write: read whole, or refused in one sentence with the line.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;

/// Reads a TOML file as `T`; `what` names the kind of file, such as `recipe`.
///
/// # Errors
/// The file cannot be read, or is not what is expected: file, line and key are named.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the {what} {}", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        let before = |span: std::ops::Range<usize>| text.get(..span.start).unwrap_or_default();
        let line = 1 + error
            .span()
            .map_or(0, |span| before(span).matches('\n').count());
        let message = error.message().replace('\n', ", ");
        anyhow!(
            "{what} {} is not valid: line {line}: {message}",
            path.display()
        )
    })
}
