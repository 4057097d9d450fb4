//! The accepted samples of earlier rounds, to hold those of a later one against. All of them lie on the
//! disk with their keys, and a new one is compared with those that share one.

use super::{
    Bounds, Error, blocking,
    index::Index,
    rule::{NearPicture, NearText, Rule, SameText},
    table::{Place, Table},
    traits::{TextKey, Traits, prompt_words},
    walk::Walk,
};
use crate::{
    image_hash::ImageHash,
    minhash::{PERMUTATION_COUNT, Signature},
    store::Reader,
};
use std::{collections::BTreeMap, io, sync::Arc};

/// Prompts kept of each ability.
const TEXTS_PER_ABILITY: usize = 8;

/// Samples of earlier rounds.
pub struct Frozen {
    same_prompts: Arc<Index<SameText>>,
    prompts: Option<Arc<Index<NearText>>>,
    dialogues: Option<Arc<Index<NearText>>>,
    pictures: Option<Arc<Index<NearPicture>>>,
    texts: BTreeMap<String, Vec<String>>,
}

impl Frozen {
    /// The accepted samples of a dataset's rounds before `round`, as far as the bounds ask for them.
    ///
    /// # Errors
    /// A shard is missing or damaged, or the disk is full.
    pub async fn read(reader: &Reader, round: u32, bounds: Bounds) -> Result<Self, Error> {
        let mut tables = Tables::new(bounds)?;
        let mut walk = Walk::of(reader, round, bounds);
        while let Some(samples) = walk.next().await? {
            let added = blocking(move || tables.add(&samples).map(|()| tables));
            tables = added.await??;
        }
        let texts = texts(reader, round).await?;
        blocking(move || Ok(tables.frozen(texts)?)).await?
    }

    /// The first prompts of an ability, one of each picture, [`TEXTS_PER_ABILITY`] at most.
    pub fn texts(&self, ability: &str) -> &[String] {
        self.texts.get(ability).map_or(&[], Vec::as_slice)
    }

    /// The picture that looks most like the given one. Where it is near by none of the bounds, and
    /// there are thousands, perhaps none.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn nearest_picture(&self, own: ImageHash) -> Result<Option<ImageHash>, Error> {
        let found = nearest(self.pictures.as_ref(), vec![Some(own)]).await?;
        Ok(found.into_iter().flatten().next().map(|(_, known)| known))
    }

    /// Whether each sample has the very prompts of an earlier one, by their keys.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn have_prompts(&self, keys: Vec<Option<TextKey>>) -> Result<Vec<bool>, Error> {
        let found = nearest(Some(&self.same_prompts), keys).await?;
        let is_same = |nearest: Option<(u32, TextKey)>| nearest.is_some_and(|(same, _)| same > 0);
        Ok(found.into_iter().map(is_same).collect())
    }

    /// Highest similarity of each text with the prompts; 0 where there are none, and for a text
    /// without a word. Where it is over no bound, and there are thousands, perhaps less than that.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn prompt_similarities(&self, texts: Texts) -> Result<Vec<f64>, Error> {
        similarities(self.prompts.as_ref(), texts).await
    }

    /// As [`prompt_similarities`](Self::prompt_similarities), with the dialogues.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn dialogue_similarities(&self, texts: Texts) -> Result<Vec<f64>, Error> {
        similarities(self.dialogues.as_ref(), texts).await
    }
}

/// Signatures of texts; none for one without a word.
type Texts = Vec<Option<Signature>>;

async fn similarities(
    known: Option<&Arc<Index<NearText>>>,
    texts: Texts,
) -> Result<Vec<f64>, Error> {
    let found = nearest(known, texts).await?;
    let share = |(agreeing, _): (u32, Signature)| f64::from(agreeing) / PERMUTATION_COUNT as f64;
    Ok(found
        .into_iter()
        .map(|found| found.map_or(0.0, share))
        .collect())
}

/// What is nearest to each of `own`, and in how much it agrees.
async fn nearest<R>(
    known: Option<&Arc<Index<R>>>,
    own: Vec<Option<R::Mark>>,
) -> Result<Vec<Option<(u32, R::Mark)>>, Error>
where
    R: Rule + Send + Sync + 'static,
    R::Mark: Send + 'static,
{
    let Some(known) = known.cloned() else {
        return Ok(own.into_iter().map(|_| None).collect());
    };
    let found = blocking(move || {
        let nearest = |own: Option<R::Mark>| own.map_or(Ok(None), |own| known.nearest(&own));
        own.into_iter().map(nearest).collect::<io::Result<Vec<_>>>()
    });
    Ok(found.await??)
}

/// The first prompts of each ability.
async fn texts(reader: &Reader, round: u32) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let partitions = reader.partitions().iter();
    for (partition, manifest) in partitions.filter(|(partition, _)| partition.round < round) {
        let texts = texts.entry(partition.ability.clone()).or_default();
        if texts.len() >= TEXTS_PER_ABILITY {
            continue;
        }
        let samples = reader.samples_of(manifest).await?;
        let words = samples
            .iter()
            .flat_map(|sample| &sample.prompts)
            .map(prompt_words);
        let words = words.filter(|words| !words.is_empty());
        texts.extend(words.take(TEXTS_PER_ABILITY - texts.len()));
    }
    Ok(texts)
}

/// What is to be frozen.
struct Tables {
    same_prompts: Table<SameText>,
    prompts: Option<Table<NearText>>,
    dialogues: Option<Table<NearText>>,
    pictures: Option<Table<NearPicture>>,
}

impl Tables {
    fn new(bounds: Bounds) -> io::Result<Self> {
        // A bound that nothing is over is measured against all the same.
        let text = |bound: Option<f64>| {
            let rule = bound.map(|bound| NearText::over(bound).unwrap_or_else(NearText::equal));
            rule.map(Table::new).transpose()
        };
        let picture = bounds.max_picture_distance.map(NearPicture::within);
        Ok(Self {
            same_prompts: Table::new(SameText)?,
            prompts: text(bounds.max_prompt_similarity)?,
            dialogues: text(bounds.max_dialogue_similarity)?,
            pictures: picture.map(Table::new).transpose()?,
        })
    }

    fn add(&mut self, samples: &[Traits]) -> io::Result<()> {
        // Whose they are is of no interest here.
        const PLACE: Place = (0, 0);
        for traits in samples {
            if let Some(key) = &traits.prompt_key {
                self.same_prompts.add(PLACE, key)?;
            }
            if let (Some(table), Some(mark)) = (&mut self.prompts, &traits.prompt) {
                table.add(PLACE, mark)?;
            }
            if let (Some(table), Some(mark)) = (&mut self.dialogues, &traits.dialogue) {
                table.add(PLACE, mark)?;
            }
            for mark in &traits.pictures {
                if let Some(table) = &mut self.pictures {
                    table.add(PLACE, mark)?;
                }
            }
        }
        Ok(())
    }

    fn frozen(self, texts: BTreeMap<String, Vec<String>>) -> io::Result<Frozen> {
        let text = |table: Option<Table<NearText>>| {
            let index = table.map(Table::index).transpose()?;
            io::Result::Ok(index.map(Arc::new))
        };
        let pictures = self.pictures.map(Table::index).transpose()?;
        Ok(Frozen {
            same_prompts: Arc::new(self.same_prompts.index()?),
            prompts: text(self.prompts)?,
            dialogues: text(self.dialogues)?,
            pictures: pictures.map(Arc::new),
            texts,
        })
    }
}
