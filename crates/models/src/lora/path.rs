//! How a model and its adapters are written: `DIR[+FILE[:SCALE]]…`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::MAX_SCALE;

/// An adapter's file and how strongly it is merged.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFile {
    /// The safetensors file.
    pub file: PathBuf,
    /// 1 is as trained; within ±[`MAX_SCALE`].
    pub scale: f32,
}

impl FromStr for LoraFile {
    type Err = String;

    /// Reads `FILE[:SCALE]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.rsplit_once(':').filter(|_| !Path::new(text).is_file());
        let (file, scale) = match split {
            Some((file, scale)) => (file, scale.parse().ok()),
            None => (text, Some(1.)),
        };
        let scale = scale.filter(|scale: &f32| scale.abs() <= MAX_SCALE);
        match scale {
            Some(scale) if !file.is_empty() => Ok(Self {
                file: file.into(),
                scale,
            }),
            _ => Err(format!(
                "{text:?} should look like FILE or FILE:SCALE, with a scale within ±{MAX_SCALE}"
            )),
        }
    }
}

/// A checkpoint's folder and the adapters that are merged into it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPath {
    /// The folder.
    pub folder: PathBuf,
    /// In the order of merging.
    pub loras: Vec<LoraFile>,
}

impl FromStr for ModelPath {
    type Err = String;

    /// Reads `DIR[+FILE[:SCALE]]…`; a folder whose name has a `+` in it is read as a folder.
    fn from_str(text: &str) -> Result<Self, String> {
        if Path::new(text).is_dir() {
            return Ok(Self {
                folder: text.into(),
                loras: Vec::new(),
            });
        }
        let mut parts = text.split('+');
        let folder = PathBuf::from(parts.next().unwrap_or_default());
        let loras = parts.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { folder, loras })
    }
}

impl fmt::Display for ModelPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.folder.display())?;
        let mut loras = self.loras.iter();
        loras.try_for_each(|lora| write!(out, "+{}:{}", lora.file.display(), lora.scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_written_with_its_adapters_behind_it() {
        let path: ModelPath = "models/sd15+a.safetensors+b.safetensors:-0.5"
            .parse()
            .unwrap();
        assert_eq!(path.folder, Path::new("models/sd15"));
        let scales: Vec<_> = path.loras.iter().map(|l| l.scale).collect();
        assert_eq!(scales, [1., -0.5]);
        assert_eq!(path.loras[1].file, Path::new("b.safetensors"));
        let written = "models/sd15+a.safetensors:1+b.safetensors:-0.5";
        assert_eq!(path.to_string(), written);
        for bad in ["dir+", "dir+f:strong", "dir+f:NaN", "dir+f:1000", "dir+:1"] {
            assert!(bad.parse::<ModelPath>().is_err(), "{bad}");
        }
    }
}
