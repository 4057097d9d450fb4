//! Our side of `make bench`: computes what it is told to, one line of JSON for each line of stdin.
//!
//! ```text
//! echo 'unet 32 2' | cargo run --release -p models --example bench_worker -- DIR [PRECISION]
//! ```
//! DIR has `unet/` and `vae/` in diffusers' layout; PRECISION (f32, bf16) is the UNet's. Tasks: `unet SIDE BATCH` (latents of SIDE × SIDE,
//! 77 tokens of text), `vae SIDE BATCH`, `op NAME`, `peak` (the most memory that was resident). Times are
//! in seconds. `scripts/bench/diffusion.py` gives the same tasks to diffusers, in turns.

#![allow(clippy::print_stdout, reason = "its answers are what it is for")]

#[path = "bench/ops.rs"]
mod ops;

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use candle_core::{Device, Tensor};
use models::ops::precision::Precision;
use models::torch_rng::TorchRng;
use models::unet::Unet;
use models::vae::Vae;

fn main() -> anyhow::Result<()> {
    models::threads::init();
    let folder = std::env::args()
        .nth(1)
        .context("name a folder with unet/ and vae/")?;
    let folder = Path::new(&folder);
    let precision = std::env::args().nth(2).unwrap_or_else(|| "f32".into());
    let precision: Precision = precision.parse().map_err(anyhow::Error::msg)?;
    precision.check().map_err(anyhow::Error::msg)?;
    let worker = Worker {
        unet: Unet::load_adapted(&folder.join("unet"), Vec::new(), precision)?,
        vae: Vae::load(&folder.join("vae"))?,
    };
    println!(
        "{{\"ready\": \"{}\"}}",
        models::ops::simd::Isa::current().name()
    );
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        println!("{}", worker.answer(&words)?);
    }
    Ok(())
}

struct Worker {
    unet: Unet,
    vae: Vae,
}

impl Worker {
    fn answer(&self, words: &[&str]) -> anyhow::Result<String> {
        let seconds = match *words {
            ["unet", side, batch] => self.unet(side.parse()?, batch.parse()?)?,
            ["vae", side, batch] => self.vae(side.parse()?, batch.parse()?)?,
            ["op", name] => ops::seconds(name)?,
            ["peak"] => return Ok(format!("{{\"bytes\": {}}}", peak_bytes()?)),
            _ => bail!("no such task: {words:?}"),
        };
        Ok(format!("{{\"seconds\": {seconds}}}"))
    }

    fn unet(&self, side: usize, batch: usize) -> anyhow::Result<f64> {
        let config = self.unet.config();
        let latents = noise(&[batch, config.in_channels, side, side])?;
        let states = noise(&[77, config.cross_attention_dim])?;
        let context = self.unet.context(&states)?;
        let contexts = vec![&context; batch];
        let begun = Instant::now();
        self.unet.forward(&latents, &vec![500.; batch], &contexts)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn vae(&self, side: usize, batch: usize) -> anyhow::Result<f64> {
        let latents = noise(&[batch, self.vae.config().latent_channels, side, side])?;
        let begun = Instant::now();
        self.vae.decode(&latents)?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

fn noise(shape: &[usize]) -> anyhow::Result<Tensor> {
    let count = shape.iter().product();
    Ok(Tensor::from_vec(
        TorchRng::new(0).randn(count),
        shape,
        &Device::Cpu,
    )?)
}

/// The most memory that was resident since the start, `VmHWM` of Linux.
fn peak_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmHWM")?;
    Ok(kib.parse::<u64>()? * 1024)
}
