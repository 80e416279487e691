//! A small convolutional encoder with dense features, and a linear classifier that works on each of them.

use candle_core::{
    CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Storage, Tensor, Var, bail,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::SIDE;

/// Channels of an embedding (d).
pub const CHANNELS: usize = 64;
/// Spatial positions of an embedding (r): a 4x4 map.
pub const POSITIONS: usize = (SIDE / 2) * (SIDE / 2);

/// Three 3x3 convolutions (16, 32, 64 channels, the second with stride 2), each followed by ReLU, and a
/// linear classifier.
///
/// Images and features are position-major, (b, r, d): the channels of one position lie together.
pub struct Model {
    convolutions: [Convolution; 3],
    /// Weight (d, c) of the classifier.
    weight: Var,
    bias: Var,
}

impl Model {
    /// Kaiming-uniform weights from a seed, zero biases.
    pub fn new(classes: usize, seed: u64) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let convolutions = [
            Convolution::new(1, 16, SIDE, 1, &mut rng)?,
            Convolution::new(16, 32, SIDE, 2, &mut rng)?,
            Convolution::new(32, CHANNELS, SIDE / 2, 1, &mut rng)?,
        ];
        let (weight, bias) = (kaiming(CHANNELS, classes, &mut rng)?, zeros(classes)?);
        Ok(Self { convolutions, weight, bias })
    }

    /// Embeddings (b, r, d) of images (b, 64, 1).
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        self.convolutions.iter().try_fold(images.clone(), |x, convolution| convolution.forward(&x)?.relu())
    }

    /// Class scores (..., c) of embeddings (..., d): of pooled ones or at each position alike.
    pub fn classify(&self, embeddings: &Tensor) -> Result<Tensor> {
        let rows = embeddings.flatten_to(D::Minus2)?.matmul(&self.weight)?.broadcast_add(&self.bias)?;
        let leading = &embeddings.dims()[..embeddings.rank() - 1];
        rows.reshape([leading, &[self.bias.elem_count()]].concat())
    }

    /// All that is trained.
    pub fn variables(&self) -> Vec<Var> {
        let convolutions = self.convolutions.iter().flat_map(|c| [c.weight.clone(), c.bias.clone()]);
        convolutions.chain([self.weight.clone(), self.bias.clone()]).collect()
    }
}

/// Global average pooling: (b, r, d) to (b, d).
pub fn pool(features: &Tensor) -> Result<Tensor> {
    features.mean(1)
}

/// A 3x3 convolution with zero padding as a gather of patches and one matrix product.
struct Convolution {
    /// (9·channels in, channels out).
    weight: Var,
    bias: Var,
    side: usize,
    stride: usize,
}

impl Convolution {
    fn new(inputs: usize, outputs: usize, side: usize, stride: usize, rng: &mut ChaCha8Rng) -> Result<Self> {
        Ok(Self { weight: kaiming(9 * inputs, outputs, rng)?, bias: zeros(outputs)?, side, stride })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, _, channels) = x.dims3()?;
        let patches = x.apply_op1(Patches { b, side: self.side, channels, stride: self.stride })?;
        let out = patches.matmul(&self.weight)?.broadcast_add(&self.bias)?;
        out.reshape((b, (self.side / self.stride).pow(2), ()))
    }
}

fn zeros(size: usize) -> Result<Var> {
    Var::zeros(size, DType::F32, &Device::Cpu)
}

fn kaiming(inputs: usize, outputs: usize, rng: &mut ChaCha8Rng) -> Result<Var> {
    let bound = (6.0 / inputs as f32).sqrt();
    let values: Vec<f32> = (0..inputs * outputs).map(|_| rng.random_range(-bound..bound)).collect();
    Var::from_vec(values, (inputs, outputs), &Device::Cpu)
}

/// Gathers the 3x3 patches of (b, side², channels) into rows (b·outputs, 9·channels); its gradient scatters
/// them back.
///
/// candle's own `conv2d` does the same job, but takes four times as long for forward and backward of such
/// small maps.
struct Patches {
    b: usize,
    side: usize,
    channels: usize,
    stride: usize,
}

impl Patches {
    /// Calls `visit(place in the patches, place in the map)` for every run of channels that lies inside of
    /// the map.
    fn for_each(&self, mut visit: impl FnMut(usize, usize)) {
        let outputs = self.side / self.stride;
        let mut place = 0;
        for (i, y, x) in product(self.b, outputs, outputs) {
            for (_, dy, dx) in product(1, 3, 3) {
                let (row, column) = (y * self.stride + dy, x * self.stride + dx);
                if (1..=self.side).contains(&row) && (1..=self.side).contains(&column) {
                    let position = (i * self.side + row - 1) * self.side + column - 1;
                    visit(place, position * self.channels);
                }
                place += self.channels;
            }
        }
    }
}

fn product(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

impl CustomOp1 for Patches {
    fn name(&self) -> &'static str {
        "patches"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("patches: the input is strided") };
        let map = &storage.as_slice::<f32>()?[start..end];
        let rows = self.b * (self.side / self.stride).pow(2);
        let mut patches = vec![0f32; rows * 9 * self.channels];
        self.for_each(|to, from| {
            patches[to..to + self.channels].copy_from_slice(&map[from..from + self.channels]);
        });
        Ok((CpuStorage::F32(patches), Shape::from((rows, 9 * self.channels))))
    }

    fn bwd(&self, map: &Tensor, _patches: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (storage, layout) = gradient.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("patches: the gradient is not on the CPU") };
        let patches = &storage.as_slice::<f32>()?[layout.start_offset()..];
        let mut sum = vec![0f32; map.elem_count()];
        self.for_each(|from, to| {
            let target = &mut sum[to..to + self.channels];
            for (sum, &patch) in target.iter_mut().zip(&patches[from..from + self.channels]) {
                *sum += patch;
            }
        });
        Ok(Some(Tensor::from_vec(sum, map.shape(), map.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same convolution by candle: NCHW in and out.
    fn by_candle(map: &Tensor, weight: &Tensor, side: usize, stride: usize) -> Result<Tensor> {
        let (b, _, channels) = map.dims3()?;
        let map = map.reshape((b, side, side, channels))?.permute((0, 3, 1, 2))?.contiguous()?;
        let kernel = weight.reshape((3, 3, channels, ()))?.permute((3, 2, 0, 1))?.contiguous()?;
        let out = map.conv2d(&kernel, 1, stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?;
        out.reshape((b, (side / stride).pow(2), ()))
    }

    fn largest(x: &Tensor) -> f32 {
        x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn a_convolution_equals_candles_in_value_and_gradients() {
        for (stride, seed) in [(1, 3), (2, 4)] {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let convolution = Convolution::new(5, 7, 6, stride, &mut rng).unwrap();
            let map = kaiming(2 * 36, 5, &mut rng).unwrap();
            let images = map.reshape((2, 36, 5)).unwrap();
            let ours = convolution.forward(&images).unwrap();
            let theirs = by_candle(&images, &convolution.weight, 6, stride).unwrap();
            assert!(largest(&(&ours - &theirs).unwrap()) < 1e-5);

            let gradients = |out: &Tensor| out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let (ours, theirs) = (gradients(&ours), gradients(&theirs));
            for variable in [&map, &convolution.weight] {
                let (a, b) = (ours.get(variable).unwrap(), theirs.get(variable).unwrap());
                assert!(largest(&(a - b).unwrap()) < 1e-4 * largest(b));
            }
        }
    }

    #[test]
    fn classifying_commutes_with_pooling() {
        let model = Model::new(7, 1).unwrap();
        let images = Tensor::ones((3, SIDE * SIDE, 1), DType::F32, &Device::Cpu).unwrap();
        let features = model.features(&images).unwrap();
        assert_eq!(features.dims(), [3, POSITIONS, CHANNELS]);
        let dense = pool(&model.classify(&features).unwrap()).unwrap();
        let pooled = model.classify(&pool(&features).unwrap()).unwrap();
        assert!(largest(&(dense - pooled).unwrap()) < 1e-5);
    }
}
