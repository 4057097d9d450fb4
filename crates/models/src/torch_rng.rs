//! PyTorch's CPU generator: the same seed gives the same normal numbers as
//! `torch.Generator("cpu").manual_seed(seed)` and `torch.randn(..., generator=...)` in f32.
//!
//! MT19937 (Matsumoto and Nishimura 1998), seeded with the low 32 bits, then PyTorch's two ways to
//! normal numbers (`ATen/native/cpu/DistributionTemplates.h`): blocks of 16 for 16 numbers or more,
//! one pair at a time below. Agrees with PyTorch to the last bit of f32 (2.4e-7).

const STATE: usize = 624;

/// One generator. A picture has its own, so that its noise depends on its seed alone.
#[derive(Clone)]
pub struct TorchRng {
    state: Box<[u32; STATE]>,
    next: usize,
    /// The second normal of a pair drawn by the scalar way.
    spare: Option<f64>,
}

impl TorchRng {
    /// As `manual_seed(seed)`: the low 32 bits count.
    pub fn new(seed: u64) -> Self {
        let mut state = Box::new([0u32; STATE]);
        state[0] = (seed & 0xffff_ffff) as u32;
        for i in 1..STATE {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(last ^ (last >> 30))
                .wrapping_add(i as u32);
        }
        Self {
            state,
            next: STATE,
            spare: None,
        }
    }

    /// `torch.randn(count)` for a contiguous f32 tensor.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.normal_pairwise() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform24()).collect();
        for block in values.as_chunks_mut::<16>().0 {
            box_muller(block);
        }
        if !count.is_multiple_of(16) {
            // PyTorch draws a last block anew and lets it overlap the one before.
            let mut block: [f32; 16] = std::array::from_fn(|_| self.uniform24());
            box_muller(&mut block);
            values[count - 16..].copy_from_slice(&block);
        }
        values
    }

    /// 24 bits of one word, in [0, 1).
    fn uniform24(&mut self) -> f32 {
        (self.word() & 0x00ff_ffff) as f32 / 16_777_216.
    }

    /// 53 bits of two words, in [0, 1).
    fn uniform53(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    fn normal_pairwise(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.uniform53(), self.uniform53());
        let (radius, angle) = ((-2. * (1. - u2).ln()).sqrt(), std::f64::consts::TAU * u1);
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn word(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let mix = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + 397) % STATE] ^ (y >> 1) ^ mix;
        }
        self.next = 0;
    }
}

fn box_muller(block: &mut [f32; 16]) {
    for j in 0..8 {
        let (u1, u2) = (1. - block[j], block[j + 8]);
        let radius = (-2. * u1.ln()).sqrt();
        let angle = 2. * std::f32::consts::PI * u2;
        block[j] = radius * angle.cos();
        block[j + 8] = radius * angle.sin();
    }
}
