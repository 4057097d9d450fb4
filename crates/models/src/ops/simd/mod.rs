//! Instruction sets: which one runs, and the register tile of the matrix product for each.
//!
//! All `unsafe` of the fast ops is in this folder and in the macro below. The choice is made once, at
//! run time; results are the same for any batch size and thread count on one instruction set, and may
//! differ in the last bit between two.

mod kernels;
mod tile;

use std::sync::OnceLock;

pub use self::tile::Pair;
pub(crate) use self::tile::{Element, LANES, TILE_ROWS, Tile};

/// An instruction set that the ops have code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX-512 (F, VL, BW, DQ).
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Anything: plain Rust, vectorised as far as the compiler does.
    Portable,
}

static CHOSEN: OnceLock<Isa> = OnceLock::new();

impl std::str::FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Avx512, Self::Avx2, Self::Portable];
        let found = all.into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| format!("`{name}` is not one of avx512, avx2, portable"))
    }
}

impl Isa {
    /// The instruction set in use: the pinned one, or the best of this processor.
    pub fn current() -> Self {
        *CHOSEN.get_or_init(Self::best)
    }

    /// Uses `self` from now on, so that two machines give the same bits. Only before the first op.
    ///
    /// # Errors
    /// A sentence, when the processor lacks it or another set is already in use.
    pub fn pin(self) -> Result<(), String> {
        if self.rank() > Self::best().rank() {
            return Err(format!("this processor has no {}", self.name()));
        }
        match *CHOSEN.get_or_init(|| self) {
            chosen if chosen == self => Ok(()),
            chosen => Err(format!("{} is already in use", chosen.name())),
        }
    }

    /// The name written into run records: `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether this set, on this processor, multiplies bf16 numbers (AVX512_BF16).
    pub fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let has = is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let has = false;
        has && self == Self::Avx512
    }

    fn rank(self) -> u8 {
        match self {
            Self::Avx512 => 2,
            Self::Avx2 => 1,
            Self::Portable => 0,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        match (fma, wide) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            (false, _) => Self::Portable,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Self {
        Self::Portable
    }
}

/// Compiles a function for each instruction set and calls the one in use. The body is written with
/// plain slices; products and sums stay as written (no fused multiply-add), so all sets agree.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "the processor was asked for the features before the call")]
        $vis fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn plain($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            fn avx512($($arg: $ty),*) { plain($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) { plain($($arg),*) }
            match $crate::ops::simd::Isa::current() {
                // SAFETY: `Isa::current` only names sets that this processor has.
                #[cfg(target_arch = "x86_64")]
                $crate::ops::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::ops::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => plain($($arg),*),
            }
        }
    };
}
pub(crate) use vectorized;
