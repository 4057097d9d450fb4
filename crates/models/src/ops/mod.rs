//! Operations with a backward, where candle's are slow or drop gradients silently.

pub(crate) mod attention;
pub(crate) mod decoder_layer;
pub(crate) mod gelu;
pub(crate) mod gemm;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod splice;
pub(crate) mod storage;

pub use gelu::gelu;
pub use linear::linear;
pub use norm::{layer_norm, rms_norm};
pub use rope::rope;

pub mod conv;
pub mod geglu;
pub mod group_norm;
pub mod packed_attention;
pub(crate) mod pointwise;
pub mod precision;
pub mod product;
pub mod simd;
pub(crate) mod values;
