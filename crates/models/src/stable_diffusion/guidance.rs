//! Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) and what is done against its
//! over-exposure.

/// How two predictions become one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guidance {
    /// The prediction with the prompt counts so many times; over 1.
    pub(super) scale: f32,
    /// How much of the deviation that the prompt alone gives is restored, 0 to 1 (Lin et al. 2024,
    /// arXiv 2305.08891, section 3.4).
    pub(super) rescale: f32,
}

impl Guidance {
    /// Moves `output`, the prediction for the negative prompt, beyond that for the prompt.
    pub(super) fn apply(self, output: &mut [f32], text: &[f32]) {
        for (out, text) in output.iter_mut().zip(text) {
            *out += self.scale * (text - *out);
        }
        if self.rescale > 0. {
            let ratio = (deviation(text) / deviation(output)) as f32;
            let (much, rest) = (self.rescale, 1. - self.rescale);
            for out in output {
                *out = much * (*out * ratio) + rest * *out;
            }
        }
    }
}

/// `torch.std`: of a sample, with n − 1.
fn deviation(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let squares = values.iter().map(|v| (f64::from(*v) - mean).powi(2));
    (squares.sum::<f64>() / (count - 1.)).sqrt()
}
