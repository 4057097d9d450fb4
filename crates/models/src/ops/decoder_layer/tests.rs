use std::sync::Arc;

use candle_core::{Device, Tensor, Var};

use super::super::attention::Heads;
use super::super::rope::RopeTable;
use super::{LayerShape, decoder_layer, portable};

#[test]
fn the_fused_layer_and_the_portable_one_agree_forward_and_backward() {
    let heads = Heads {
        queries: 4,
        keys: 2,
        dim: 6,
    };
    let shape = LayerShape {
        hidden: 20,
        heads,
        intermediate: 28,
        eps: 1e-5,
    };
    let rope = Arc::new(RopeTable::new(heads.dim, 32, 10_000.0));
    let lengths: Arc<[usize]> = vec![7, 1, 19].into();
    let count: usize = shape.regions().iter().sum();
    let weights = Var::randn(0f32, 0.3, count, &Device::Cpu).unwrap();
    let x = Var::randn(0f32, 1.0, (27, 20), &Device::Cpu).unwrap();
    let seed = Tensor::randn(0f32, 1.0, (27, 20), &Device::Cpu).unwrap();
    let run = |out: Tensor| {
        let grads = (out.clone() * &seed)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        [
            out,
            grads.get(&x).unwrap().clone(),
            grads.get(&weights).unwrap().clone(),
        ]
    };
    let fused = run(decoder_layer(shape, &rope, &lengths, &x, &weights).unwrap());
    let plain = run(portable(shape, &rope, &lengths, &x, &weights).unwrap());
    for (fused, plain) in fused.iter().zip(&plain) {
        let norm = |t: &Tensor| {
            t.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .sqrt()
        };
        let error = norm(&(fused - plain).unwrap()) / norm(plain);
        assert!(error < 1e-5, "{error}");
    }
}
