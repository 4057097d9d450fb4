//! Image features, computed once per picture and kept: the tower is frozen, so they never change.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use models::clip_image::decode_rgb;
use models::llava::{Aspect, ImageFeatures, Llava};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::data::{Picture, Prepared, picture_bytes};
use crate::error::Error;

/// Features by the hash of picture, tower and aspect; shared by all jobs of a process. The oldest
/// go first when the bound is reached.
#[derive(Debug)]
pub(crate) struct FeatureCache {
    max_bytes: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Key, ImageFeatures>,
    oldest: VecDeque<Key>,
    bytes: usize,
}

type Key = [u8; 32];

impl FeatureCache {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            entries: Mutex::default(),
        }
    }

    fn get(&self, key: &Key) -> Option<ImageFeatures> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.get(key).cloned()
    }

    fn put(&self, key: Key, features: ImageFeatures) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let size = size_bytes(&features);
        if entries.by_key.insert(key, features).is_some() {
            return; // two threads looked at the same picture
        }
        entries.bytes += size;
        entries.oldest.push_back(key);
        while entries.bytes > self.max_bytes {
            let Some(oldest) = entries.oldest.pop_front() else {
                return;
            };
            let freed = entries
                .by_key
                .remove(&oldest)
                .map_or(0, |features| size_bytes(&features));
            entries.bytes -= freed;
        }
    }
}

/// Looks pictures up, and shows the tower those that are new.
#[derive(Debug)]
pub(crate) struct Looker<'a> {
    cache: &'a FeatureCache,
    model: &'a Llava,
    aspect: Aspect,
    tower: String,
}

impl<'a> Looker<'a> {
    pub(crate) fn new(
        cache: &'a FeatureCache,
        model: &'a Llava,
        tower: &str,
        aspect: Aspect,
    ) -> Self {
        Self {
            cache,
            model,
            aspect,
            tower: format!("{tower} {aspect:?}"),
        }
    }

    /// Features of each sample's pictures. New pictures are decoded and looked at on all threads.
    ///
    /// # Errors
    /// Names the picture that cannot be read or decoded.
    pub(crate) fn look(&self, samples: &[&Prepared]) -> Result<Vec<Vec<ImageFeatures>>, Error> {
        let features = |sample: &&Prepared| {
            sample
                .pictures
                .iter()
                .map(|p| self.look_at(sample, p))
                .collect()
        };
        samples.par_iter().map(features).collect()
    }

    fn look_at(&self, sample: &Prepared, picture: &Picture) -> Result<ImageFeatures, Error> {
        let bytes = picture_bytes(picture)?;
        let key: Key = Sha256::new()
            .chain_update(&self.tower)
            .chain_update(&bytes)
            .finalize()
            .into();
        if let Some(found) = self.cache.get(&key) {
            return Ok(found);
        }
        let path = match picture {
            Picture::File(path) => path.clone(),
            Picture::Bytes(_) => sample.id.clone().into(),
        };
        let damaged = |error| Error::Data {
            path,
            reason: format!("not a picture that can be read: {error}"),
        };
        let rgb = decode_rgb(&bytes).map_err(damaged)?;
        let mut found = self
            .model
            .image_features(std::slice::from_ref(&rgb), self.aspect);
        let features = found.pop().ok_or(Error::DeviceLost)?;
        self.cache.put(key, features.clone());
        Ok(features)
    }
}

fn size_bytes(features: &ImageFeatures) -> usize {
    size_of_val::<[f32]>(features)
}
