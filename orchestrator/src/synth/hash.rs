//! Perceptual hash of a picture: near-equal pictures have hashes that differ in few bits.

use image::{DynamicImage, imageops::FilterType};

/// A 64-bit difference hash: the picture in 9×8 grey pixels, one bit for each pair of
/// neighbours in a row, set where the left one is brighter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DifferenceHash(u64);

impl DifferenceHash {
    /// Hashes a picture of any size.
    pub fn of(picture: &DynamicImage) -> Self {
        let small = picture.to_luma8();
        let small = image::imageops::resize(&small, 9, 8, FilterType::Triangle);
        let mut bits = 0_u64;
        for y in 0..8 {
            for x in 0..8 {
                let brighter = small.get_pixel(x, y).0[0] > small.get_pixel(x + 1, y).0[0];
                bits = (bits << 1) | u64::from(brighter);
            }
        }
        Self(bits)
    }

    /// Number of bits in which two hashes differ, 0 to 64.
    pub fn distance(self, other: Self) -> u32 {
        (self.0 ^ other.0).count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    fn gradient(offset: u8) -> DynamicImage {
        let picture = RgbImage::from_fn(64, 64, |x, y| {
            let level = u8::try_from((x * 3 + y) % 200)
                .unwrap()
                .saturating_add(offset);
            Rgb([level, 255 - level, level / 2])
        });
        DynamicImage::ImageRgb8(picture)
    }

    #[test]
    fn a_slightly_brighter_copy_is_near_and_a_mirrored_one_is_far() {
        let original = DifferenceHash::of(&gradient(0));
        assert!(original.distance(DifferenceHash::of(&gradient(2))) <= 6);
        assert!(original.distance(DifferenceHash::of(&gradient(0).fliph())) >= 20);
    }
}
