//! Bounds of the predicted clean latents.

use crate::config::{self, Fields};

/// What is done to clean latents that are too large.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// Nothing.
    Free,
    /// They are cut at ± this.
    Clip(f32),
    /// Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3): cut at this quantile
    /// of their magnitude, at least 1 and at most `most`, and divided by it.
    Dynamic {
        /// Part of the numbers that stay uncut.
        quantile: f32,
        /// The largest bound.
        most: f32,
    },
}

impl Bound {
    /// Takes `thresholding` and its parameters.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read_thresholding(fields: &mut Fields) -> Result<Self, config::Error> {
        let quantile: f32 = fields.take_or("dynamic_thresholding_ratio", 0.995)?;
        let most = fields.take_or("sample_max_value", 1.)?;
        if !fields.take_or("thresholding", false)? {
            return Ok(Self::Free);
        }
        match (0. ..=1.).contains(&quantile) {
            true => Ok(Self::Dynamic { quantile, most }),
            false => Err(fields.invalid("dynamic_thresholding_ratio", "must be 0 to 1")),
        }
    }

    /// Takes `clip_sample` and its range, with the class's default.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read_clip(fields: &mut Fields, default: bool) -> Result<Self, config::Error> {
        let range: f32 = fields.take_or("clip_sample_range", 1.)?;
        if range.is_nan() || range < 0. {
            return Err(fields.invalid("clip_sample_range", "must be 0 or more"));
        }
        Ok(match fields.take_or("clip_sample", default)? {
            true => Self::Clip(range),
            false => Self::Free,
        })
    }

    /// Takes both; thresholding comes first.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields, clips: bool) -> Result<Self, config::Error> {
        let clip = Self::read_clip(fields, clips)?;
        Ok(match Self::read_thresholding(fields)? {
            Self::Free => clip,
            dynamic => dynamic,
        })
    }

    /// Bounds `clean`, the latents of one picture.
    pub(super) fn apply(self, clean: &mut [f32]) {
        match self {
            Self::Free => {}
            Self::Clip(range) => clean.iter_mut().for_each(|x| *x = x.clamp(-range, range)),
            Self::Dynamic { quantile, most } => {
                let bound = quantile_of_magnitude(clean, quantile).max(1.).min(most);
                clean
                    .iter_mut()
                    .for_each(|x| *x = x.max(-bound).min(bound) / bound);
            }
        }
    }
}

/// `torch.quantile(x.abs(), q)`: linear between neighbours, its place computed in f32.
fn quantile_of_magnitude(values: &[f32], quantile: f32) -> f32 {
    let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let place = quantile * sorted.len().saturating_sub(1) as f32;
    let (low, high) = (place.floor(), place.ceil());
    let at = |place: f32| sorted.get(place as usize).copied().unwrap_or_default();
    at(low) + (place - low) * (at(high) - at(low))
}
