//! The gates of pictures.

use dataset::image_hash::ImageHash;
use diptych::synth::gates::{self, Held, picture};
use image::RgbImage;
use proto::diffusion::v1::SafetyVerdict;

use super::{Bench, Row, held_with};
use crate::{COUNT, checker::checker_against, defects, made::held_out_pictures};

impl Bench {
    pub(crate) fn blank(&self) -> Row {
        let planted = (0..COUNT as u32)
            .map(|index| picture::blank(&self.rules, &defects::nearly_plain(index)));
        let clean = self.pictures.iter();
        let clean = clean.map(|picture| picture::blank(&self.rules, picture));
        Row::of(gates::BLANK, planted, clean)
    }

    /// A picture of another ability's sample under this prompt.
    pub(crate) fn alignment(&self) -> Row {
        let texts: Vec<Vec<f32>> = self
            .texts()
            .map(|text| self.clip.embed_text(&text).unwrap())
            .collect();
        let vectors = self.clip.embed_images(&self.pictures).unwrap();
        let verdict = |text: usize, picture: usize| {
            let cosine = |other: usize| -> f32 {
                let products = texts[other]
                    .iter()
                    .zip(&vectors[picture])
                    .map(|(a, b)| a * b);
                products.sum()
            };
            let partition = text - text % 8;
            let others = (partition..(partition + 8).min(COUNT)).filter(|&other| other != text);
            let others: Vec<f32> = others.map(cosine).collect();
            picture::alignment(&self.rules, Some(cosine(text)), &others)
                .into_iter()
                .next()
        };
        let planted = (0..COUNT).map(|index| verdict(index, (index + 41) % COUNT));
        let clean = (0..COUNT).map(|index| verdict(index, index));
        Row::of(gates::ALIGNMENT_LEAD, planted, clean)
    }

    pub(crate) fn duplicate(&self) -> Row {
        let hashes: Vec<ImageHash> = self.pictures.iter().map(ImageHash::of).collect();
        let planted = self.pictures.iter().enumerate().map(|(index, picture)| {
            let copy = ImageHash::of(&defects::nearly(picture, index));
            picture::duplicate(&self.rules, copy, &hashes)
        });
        let clean = hashes.iter().enumerate();
        let clean =
            clean.map(|(index, &hash)| picture::duplicate(&self.rules, hash, &hashes[..index]));
        Row::of(gates::DUPLICATE, planted, clean)
    }

    pub(crate) fn content(&self) -> Row {
        let vectors = self.clip.embed_images(&self.pictures).unwrap();
        let held = |vectors: &[Vec<f32>]| {
            held_with(vectors, |traits, vector: &Vec<f32>| {
                traits.picture_vector = Some(vector.clone());
            })
        };
        let verdict = |known: &Held, vector: &[f32]| {
            let nearest = known.cosine(vector, |traits| traits.picture_vector.as_ref());
            picture::content(&self.rules, Some(nearest))
        };
        let all = held(&vectors);
        let copies: Vec<RgbImage> = self.pictures.iter().map(defects::jpeg).collect();
        let copies = self.clip.embed_images(&copies).unwrap();
        let planted = copies.iter().map(|copy| verdict(&all, copy));
        let clean = vectors.iter().enumerate();
        let clean = clean.map(|(index, own)| verdict(&held(&vectors[..index]), own));
        Row::of(gates::NEAR_CONTENT, planted, clean)
    }

    /// Copies of a hundred pictures that a safety checker objects to.
    pub(crate) fn safety(&self) -> Row {
        let objectionable: Vec<RgbImage> = held_out_pictures().into_iter().take(COUNT).collect();
        let place = tempfile::tempdir().unwrap();
        let model = checker_against(&objectionable, place.path());
        let verdict = |shown: &RgbImage| {
            let told = match model.judge(shown).unwrap().is_unsafe {
                true => SafetyVerdict::Unsafe,
                false => SafetyVerdict::Safe,
            };
            Some(picture::asked_safety(SafetyVerdict::NotChecked, told))
        };
        let planted = objectionable
            .iter()
            .map(|shown| verdict(&defects::jpeg(shown)));
        let clean = self.pictures.iter().map(verdict);
        Row::of(gates::SAFETY, planted, clean)
    }

    pub(crate) fn picture_leak(&self) -> Row {
        let held_out: Vec<RgbImage> = held_out_pictures();
        let hashes: Vec<ImageHash> = held_out.iter().map(ImageHash::of).collect();
        let planted = held_out.iter().take(COUNT).enumerate();
        let planted = planted.map(|(index, picture)| {
            let copy = ImageHash::of(&defects::nearly(picture, index));
            picture::leak(&self.rules, copy, Some(&hashes))
        });
        let clean = self.pictures.iter();
        let clean =
            clean.map(|picture| picture::leak(&self.rules, ImageHash::of(picture), Some(&hashes)));
        Row::of(gates::LEAK, planted, clean)
    }
}
