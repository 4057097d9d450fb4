//! From a request to a picture: begin, step, finish.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::denoiser::Context;
use super::error::invalid;
use super::guidance::Guidance;
use super::original::Beginning;
use super::{Denoising, Error, Picture, Pipeline, Request};
use crate::ops::values::values;
use crate::scheduler::{self, Kind, Trajectory, Way};
use crate::torch_rng::TorchRng;

impl Pipeline {
    /// Starts a picture: encodes its prompts and what it goes on from, and draws its noise.
    ///
    /// # Errors
    /// [`Error::Invalid`], and what the encoder gives.
    pub fn begin(&self, request: &Request) -> Result<Denoising, Error> {
        self.check(request)?;
        let trajectory = self.start(request)?;
        let mut warnings = Vec::new();
        self.warn(request, &mut warnings);
        let text = self.context(request, &mut warnings)?;
        let guided = request.guidance > 1. && self.denoiser.takes_negative();
        let negative = guided.then(|| self.negative_context(request, &mut warnings));
        let negative = negative.transpose()?;
        let mut rng = TorchRng::new(request.seed);
        let Beginning {
            latents,
            surroundings,
        } = self.beginning(request, &trajectory, &mut rng)?;
        Ok(Denoising {
            latents,
            shape: self.latent_shape(request),
            trajectory,
            rng,
            guidance: Guidance {
                scale: request.guidance,
                rescale: request.guidance_rescale,
            },
            text,
            negative,
            surroundings,
            done: 0,
            warnings,
        })
    }

    /// Moves each picture that is not done on by one model evaluation.
    ///
    /// # Errors
    /// [`Error::Candle`]; a picture that went wrong numerically is found by [`Pipeline::finish`].
    pub fn step(&self, pictures: &mut [&mut Denoising]) -> Result<(), Error> {
        let mut by_shape: BTreeMap<[usize; 3], Vec<&mut Denoising>> = BTreeMap::new();
        for picture in pictures.iter_mut().filter(|p| !p.is_done()) {
            by_shape.entry(picture.shape).or_default().push(picture);
        }
        for (shape, mut group) in by_shape {
            let predictions = self.predict(shape, &group)?;
            let mut rows = values(&predictions)?
                .chunks(shape.iter().product())
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
                .into_iter();
            for picture in &mut group {
                picture.advance(&mut rows);
            }
        }
        Ok(())
    }

    /// Decodes pictures that are done; one result each.
    pub fn finish(&self, pictures: &[&Denoising]) -> Vec<Result<Picture, Error>> {
        pictures
            .par_iter()
            .map(|picture| self.decode(picture))
            .collect()
    }

    /// Makes one picture from start to end.
    ///
    /// # Errors
    /// As [`Pipeline::begin`], [`Pipeline::step`] and [`Pipeline::finish`].
    pub fn generate(&self, request: &Request) -> Result<Picture, Error> {
        let mut picture = self.begin(request)?;
        while !picture.is_done() {
            self.step(&mut [&mut picture])?;
        }
        self.decode(&picture)
    }

    pub(super) fn scheduler(
        &self,
        kind: Option<Kind>,
    ) -> Result<Box<dyn scheduler::Scheduler>, Error> {
        build(self.scheduler.clone(), kind)
    }

    pub(super) fn start(&self, request: &Request) -> Result<Trajectory, Error> {
        let way = Way {
            strength: request.original.as_ref().map_or(1., |o| o.strength),
            ..self.way(request)
        };
        let repaints = request.original.as_ref().is_some_and(|o| o.mask.is_some());
        let scheduler = match repaints && self.denoiser.addition().is_none() {
            true => build(
                self.scheduler.clone().without_runge_kutta(),
                request.scheduler,
            )?,
            false => self.scheduler(request.scheduler)?,
        };
        scheduler.start(&way).map_err(|e| match e {
            scheduler::Error::Strength { .. } => invalid("strength", e.to_string()),
            _ => invalid("steps", e.without_file()),
        })
    }

    /// Channels, height and width of a picture's latents.
    pub(super) fn latent_shape(&self, request: &Request) -> [usize; 3] {
        let scale = self.scale_px();
        let channels = self.vae.config().latent_channels;
        [
            channels,
            request.height_px / scale,
            request.width_px / scale,
        ]
    }

    /// The model's output for a group of one shape: for each picture one sample, two with guidance
    /// (negative prompt first).
    fn predict(&self, shape: [usize; 3], group: &[&mut Denoising]) -> Result<Tensor, Error> {
        let mut inputs = Vec::new();
        let mut timesteps = Vec::new();
        let mut contexts: Vec<&Context> = Vec::new();
        for picture in group {
            let divisor = picture.trajectory.input_divisor();
            for context in picture.negative.iter().chain([&picture.text]) {
                inputs.extend(picture.latents.iter().map(|v| v / divisor));
                inputs.extend(picture.surroundings.planes());
                timesteps.push(picture.trajectory.timestep().unwrap_or_default());
                contexts.push(context);
            }
        }
        let [_, height, width] = shape;
        let channels = self.denoiser.channels();
        let inputs = Tensor::from_vec(
            inputs,
            (contexts.len(), channels, height, width),
            &Device::Cpu,
        )?;
        Ok(self.denoiser.forward(&inputs, &timesteps, &contexts)?)
    }

    fn decode(&self, picture: &Denoising) -> Result<Picture, Error> {
        if !picture.latents.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite);
        }
        let [channels, height, width] = picture.shape;
        let latents =
            Tensor::from_slice(&picture.latents, (1, channels, height, width), &Device::Cpu)?;
        let decoded = self.vae.decode(&latents)?;
        let decoded = values(&decoded)?;
        if !decoded.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite);
        }
        let byte = |v: &f32| ((v / 2. + 0.5).clamp(0., 1.) * 255.).round_ties_even() as u8;
        let rgb: Vec<u8> = decoded.iter().map(byte).collect();
        let pixels = rgb.as_chunks::<3>().0;
        if pixels.iter().all(|pixel| *pixel == pixels[0]) {
            return Err(Error::Blank);
        }
        let scale = self.scale_px();
        Ok(Picture {
            width_px: width * scale,
            height_px: height * scale,
            rgb,
        })
    }
}

fn build(
    config: scheduler::Config,
    kind: Option<Kind>,
) -> Result<Box<dyn scheduler::Scheduler>, Error> {
    let built = config.build(kind);
    built.map_err(|e| invalid("scheduler", e.without_file()))
}
