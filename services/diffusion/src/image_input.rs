//! Images that callers send: inline, or by reference from under the artefact roots.

use std::sync::Arc;

use bytes::Bytes;
use models::stable_diffusion::{Original, PictureFile};
use proto::dataset::v1 as dataset;
use proto::diffusion::v1 as pb;
use runtime::artefact::Roots;
use runtime::error::chain;

use crate::error::Error;

/// The largest picture to go on from, and the largest mask, in bytes.
const MAX_ORIGINAL_BYTES: u64 = 8 << 20;
/// How far to go where a request says nothing, as diffusers.
const DEFAULT_STRENGTH: f64 = 0.8;

/// The encoded file of `image`, of at most `max_bytes`.
///
/// # Errors
/// [`Error::Invalid`] where there is none or it is too large, and what the artefact's place gives.
pub(crate) async fn read(
    roots: &Arc<Roots>,
    image: dataset::Image,
    field: String,
    max_bytes: u64,
) -> Result<Bytes, Error> {
    let check = move |field: &str, size: u64| match size > max_bytes {
        true => Err(Error::invalid(
            field,
            format!("{size} bytes, at most {max_bytes}"),
        )),
        false => Ok(()),
    };
    let artefact = match image.content {
        Some(dataset::image::Content::Data(data)) => {
            check(&field, data.len() as u64)?;
            return Ok(data);
        }
        Some(dataset::image::Content::Artefact(artefact)) => artefact,
        None => return Err(Error::invalid(field, "has neither data nor artefact")),
    };
    let roots = roots.clone();
    let read = move || {
        let path = roots.resolve(&artefact)?;
        let unreadable = |e: std::io::Error| Error::Image {
            field: field.clone(),
            rule: e.to_string(),
        };
        check(&field, std::fs::metadata(&path).map_err(unreadable)?.len())?;
        std::fs::read(&path).map(Bytes::from).map_err(unreadable)
    };
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|panic| Err(Error::Task(chain(&panic))))
}

/// What `item` goes on from, taken out of it; `place` gives the path of one of its fields.
///
/// # Errors
/// [`Error::Invalid`] for what no item may say, and [`Error::Image`] or [`Error::Artefact`] for a file
/// that cannot be had.
pub(crate) async fn original(
    roots: &Arc<Roots>,
    item: &mut pb::ImageItem,
    place: impl Fn(&str) -> String,
) -> Result<Option<Original>, Error> {
    let strength = item.strength;
    let (init, mask) = (item.init_image.take(), item.mask_image.take());
    let Some(init) = init else {
        let rule = "needs init_image";
        return match (mask.is_some(), strength != 0.) {
            (true, _) => Err(Error::invalid(place("mask_image"), rule)),
            (_, true) => Err(Error::invalid(
                place("strength"),
                "must be 0 without init_image",
            )),
            _ => Ok(None),
        };
    };
    if !(0. ..=1.).contains(&strength) {
        let rule = format!("{strength} is not over 0 and at most 1");
        return Err(Error::invalid(place("strength"), rule));
    }
    let picture = file(roots, init, place("init_image")).await?;
    let mask = match mask {
        Some(mask) => Some(file(roots, mask, place("mask_image")).await?),
        None => None,
    };
    Ok(Some(Original {
        picture,
        strength: match strength == 0. {
            true => DEFAULT_STRENGTH,
            false => decimal(strength),
        },
        mask,
    }))
}

async fn file(
    roots: &Arc<Roots>,
    image: dataset::Image,
    field: String,
) -> Result<PictureFile, Error> {
    let bytes = read(roots, image, field.clone(), MAX_ORIGINAL_BYTES).await?;
    PictureFile::open(&bytes).map_err(|e| Error::Image {
        field,
        rule: format!("cannot be read: {e}"),
    })
}

/// The number that was written: 0.7 and not 0.699999988, of which 10 steps make 6 and not 7.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}
