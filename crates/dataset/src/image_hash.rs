//! Perceptual hash of a picture: pictures that look alike have hashes that differ in few bits.

use image::{RgbImage, imageops, imageops::FilterType};

/// Bits of a hash.
pub const BIT_COUNT: u32 = 256;
/// Bits in which two pictures may differ and still be nearly the same. On the 650 pictures of
/// `bench-real`, a copy stored as JPEG (quality 85) differs in 1 bit (median; at most 5), and of the
/// 211,000 pairs 30 lie within 4, two thirds of them the same scene twice.
pub const NEAR_BITS: u32 = 4;
/// Grey levels by which a pixel must outshine its neighbour: flat areas are not to flicker.
const MARGIN: u8 = 4;

/// Difference hash: on a 17 × 16 picture in grey, whether each pixel is clearly brighter than its
/// right neighbour (Krawetz, "Kind of like that", with 16 × 16 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageHash([u64; 4]);

impl ImageHash {
    /// Hashes a picture of any size.
    pub fn of(pixels: &RgbImage) -> Self {
        let small = imageops::resize(&imageops::grayscale(pixels), 17, 16, FilterType::Triangle);
        let mut hash = [0; 4];
        for bit in 0..BIT_COUNT {
            let (x, y) = (bit % 16, bit / 16);
            if small.get_pixel(x, y).0[0] > small.get_pixel(x + 1, y).0[0].saturating_add(MARGIN) {
                hash[(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
        Self(hash)
    }

    /// The bits, the first one lowest.
    pub(crate) fn words(&self) -> [u64; 4] {
        self.0
    }

    /// The hash of such bits.
    pub(crate) fn of_words(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// Number of bits in which two hashes differ, 0 to [`BIT_COUNT`].
    pub fn distance(&self, other: &Self) -> u32 {
        let pairs = self.0.iter().zip(&other.0);
        pairs.map(|(a, b)| (a ^ b).count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bands(offset: u8) -> RgbImage {
        RgbImage::from_fn(64, 64, |x, y| {
            let band = (x / 7 + 3 * (y / 9)).wrapping_mul(2_654_435_761) >> 24;
            image::Rgb([(band as u8 / 2) + offset; 3])
        })
    }

    #[test]
    fn a_slightly_brighter_copy_is_near_and_a_mirrored_one_is_far() {
        let original = ImageHash::of(&bands(0));
        assert!(original.distance(&ImageHash::of(&bands(20))) <= NEAR_BITS);
        let mirrored = ImageHash::of(&imageops::flip_horizontal(&bands(0)));
        assert!(original.distance(&mirrored) > 10 * NEAR_BITS);
    }
}
