//! Gates on pictures.

use dataset::image_hash::{BIT_COUNT, ImageHash};
use image::RgbImage;
use proto::{dataset::v1::GateResult, diffusion::v1::SafetyVerdict};

use super::{
    ALIGNMENT, ALIGNMENT_LEAD, BLANK, DUPLICATE, LEAK, NEAR_CONTENT, NO_SCORER, SAFETY, judged,
    not_checked, not_too_near, verdict,
};
use crate::recipe::Gates;

/// Refuses a picture that is all but one colour (StableLLaVA released such rows unseen).
pub fn blank(gates: &Gates, picture: &RgbImage) -> Option<GateResult> {
    let bound = gates.min_pixel_deviation?;
    let deviation = pixel_deviation(picture);
    Some(verdict(BLANK, deviation >= bound, deviation, bound, || {
        format!(
            "the pixels deviate by {deviation:.1} levels, less than {bound:.1}: the picture is blank"
        )
    }))
}

/// Holds the cosine of a picture with its own prompt (`own`) and with the partition's other
/// prompts (`others`) against the recipe's bounds. Empty cosines mean that no model measured.
pub fn alignment(gates: &Gates, own: Option<f32>, others: &[f32]) -> Vec<GateResult> {
    let mut results = Vec::new();
    if let Some(bound) = gates.min_alignment {
        results.push(match own.map(f64::from) {
            None => not_checked(ALIGNMENT, NO_SCORER),
            Some(cosine) => verdict(ALIGNMENT, cosine >= bound, cosine, bound, || {
                format!("the cosine of picture and prompt is {cosine:.3}, less than {bound:.3}")
            }),
        });
    }
    if let Some(bound) = gates.min_alignment_lead {
        results.push(match own {
            None => not_checked(ALIGNMENT_LEAD, NO_SCORER),
            Some(_) if others.is_empty() => {
                not_checked(ALIGNMENT_LEAD, "there is no other prompt to compare with")
            }
            Some(own) => {
                let best = others.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let lead = f64::from(own) - f64::from(best);
                verdict(ALIGNMENT_LEAD, lead >= bound, lead, bound, || {
                    format!(
                        "its own prompt leads another prompt by {lead:.3}, less than {bound:.3}"
                    )
                })
            }
        });
    }
    results
}

/// Refuses a picture that is nearly one of those accepted before it.
pub fn duplicate(gates: &Gates, hash: ImageHash, accepted: &[ImageHash]) -> Option<GateResult> {
    let bound = gates.max_duplicate_distance?;
    Some(far_from(
        DUPLICATE,
        hash,
        accepted,
        bound,
        "accepted before",
    ))
}

/// Refuses a picture that is nearly one of the evaluation sets' pictures; `None` where there are
/// none to compare with.
pub fn leak(gates: &Gates, hash: ImageHash, held_out: Option<&[ImageHash]>) -> Option<GateResult> {
    let bound = gates.max_leak_distance?;
    Some(match held_out {
        None => not_checked(LEAK, "the recipe names no evaluation set"),
        Some(known) => far_from(LEAK, hash, known, bound, "of an evaluation set"),
    })
}

fn far_from(
    gate: &str,
    hash: ImageHash,
    known: &[ImageHash],
    bound: u32,
    whose: &str,
) -> GateResult {
    let distances = known.iter().map(|other| hash.distance(other));
    let nearest = distances.min().unwrap_or(BIT_COUNT);
    verdict(gate, nearest > bound, nearest.into(), bound.into(), || {
        format!("the picture's hash lies {nearest} bits from one {whose}, not more than {bound}")
    })
}

/// Takes the word of the checkpoint's own safety checker; silence is no pass.
pub fn safety(verdict: SafetyVerdict) -> GateResult {
    match verdict {
        SafetyVerdict::Safe => judged(SAFETY, None),
        SafetyVerdict::Unsafe => judged(
            SAFETY,
            Some("the safety checker flagged the picture".to_owned()),
        ),
        SafetyVerdict::NotChecked | SafetyVerdict::Unspecified => {
            not_checked(SAFETY, "the checkpoint has no safety checker")
        }
    }
}

/// Takes the word of the renderer's checker and that of the scoring service, which was asked; one
/// objection is enough, and where neither speaks, nothing was checked.
pub fn asked_safety(rendered: SafetyVerdict, told: SafetyVerdict) -> GateResult {
    let both = [rendered, told];
    if both.contains(&SafetyVerdict::Unsafe) {
        return safety(SafetyVerdict::Unsafe);
    }
    match both.contains(&SafetyVerdict::Safe) {
        true => safety(SafetyVerdict::Safe),
        false => not_checked(SAFETY, "no model tells whether the picture is safe"),
    }
}

/// Refuses a picture whose embedding lies near that of one accepted before; `nearest` is the
/// highest cosine, `None` where no model embeds pictures.
pub fn content(gates: &Gates, nearest: Option<f64>) -> Option<GateResult> {
    let bound = gates.max_image_cosine?;
    Some(match nearest {
        None => not_checked(NEAR_CONTENT, "no model embeds pictures"),
        Some(nearest) => not_too_near(NEAR_CONTENT, nearest, bound, "accepted before"),
    })
}

/// Standard deviation of all channel values, in levels of 0 to 255, about each channel's mean.
fn pixel_deviation(picture: &RgbImage) -> f64 {
    let count = f64::from(picture.width()) * f64::from(picture.height());
    if count == 0.0 {
        return 0.0;
    }
    let (mut sum, mut square) = ([0.0_f64; 3], [0.0_f64; 3]);
    for pixel in picture.pixels() {
        for channel in 0..3 {
            let level = f64::from(pixel.0[channel]);
            sum[channel] += level;
            square[channel] += level * level;
        }
    }
    let variance = (0..3)
        .map(|c| square[c] / count - (sum[c] / count).powi(2))
        .sum::<f64>()
        / 3.0;
    variance.max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::gates::rejection;
    use image::{Rgb, RgbImage};
    use proto::dataset::v1::GateVerdict;

    fn gates() -> Gates {
        Gates {
            min_alignment: Some(0.2),
            ..Gates::default()
        }
    }

    #[test]
    fn a_picture_of_one_colour_is_rejected_and_a_drawn_one_passes() {
        let plain = RgbImage::from_pixel(64, 64, Rgb([200, 10, 10]));
        let drawn = RgbImage::from_fn(64, 64, |x, _| Rgb([(x * 4) as u8, 0, 90]));
        assert_eq!(
            blank(&gates(), &plain).unwrap().verdict(),
            GateVerdict::Rejected
        );
        assert_eq!(
            blank(&gates(), &drawn).unwrap().verdict(),
            GateVerdict::Passed
        );
    }

    #[test]
    fn alignment_without_a_model_is_not_counted_as_passed() {
        let results = alignment(&gates(), None, &[]);
        assert_eq!(results.len(), 2);
        assert!(
            results
                .iter()
                .all(|result| result.verdict() == GateVerdict::NotChecked)
        );
    }

    #[test]
    fn a_flagged_picture_is_rejected_and_an_unchecked_one_is_not_passed() {
        let verdict = |said| safety(said).verdict();
        assert_eq!(verdict(SafetyVerdict::Unsafe), GateVerdict::Rejected);
        assert_eq!(verdict(SafetyVerdict::Safe), GateVerdict::Passed);
        assert_eq!(verdict(SafetyVerdict::NotChecked), GateVerdict::NotChecked);
        assert_eq!(verdict(SafetyVerdict::Unspecified), GateVerdict::NotChecked);
    }

    #[test]
    fn one_objection_to_safety_is_enough_and_two_silences_are_no_pass() {
        use SafetyVerdict::{NotChecked, Safe, Unsafe, Unspecified};
        for (rendered, told, expected) in [
            (NotChecked, Unsafe, GateVerdict::Rejected),
            (Unsafe, Safe, GateVerdict::Rejected),
            (NotChecked, Safe, GateVerdict::Passed),
            (Safe, NotChecked, GateVerdict::Passed),
            (NotChecked, NotChecked, GateVerdict::NotChecked),
            (Unspecified, Unspecified, GateVerdict::NotChecked),
        ] {
            assert_eq!(asked_safety(rendered, told).verdict(), expected);
        }
    }

    #[test]
    fn a_prompt_that_fits_worse_than_the_others_is_rejected() {
        let results = alignment(&gates(), Some(0.3), &[0.5, 0.1]);
        assert_eq!(rejection(&results).unwrap().gate, ALIGNMENT_LEAD);
        assert!(rejection(&alignment(&gates(), Some(0.5), &[0.1, 0.2])).is_none());
    }

    #[test]
    fn a_repeated_picture_is_rejected_and_the_first_one_is_not() {
        let drawn = RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 4) as u8, (y * 4) as u8, 90]));
        let hash = ImageHash::of(&drawn);
        assert_eq!(
            duplicate(&gates(), hash, &[]).unwrap().verdict(),
            GateVerdict::Passed
        );
        assert_eq!(
            duplicate(&gates(), hash, &[hash]).unwrap().verdict(),
            GateVerdict::Rejected
        );
    }

    #[test]
    fn a_picture_of_an_evaluation_set_is_rejected_and_without_a_set_nothing_is_said() {
        let drawn = RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 4) as u8, (y * 4) as u8, 90]));
        let hash = ImageHash::of(&drawn);
        let verdict = |known: Option<&[ImageHash]>| leak(&gates(), hash, known).unwrap().verdict();
        assert_eq!(verdict(Some(&[hash])), GateVerdict::Rejected);
        assert_eq!(verdict(Some(&[])), GateVerdict::Passed);
        assert_eq!(verdict(None), GateVerdict::NotChecked);
    }
}
