//! The digits, their split into training, test and out-of-distribution images, and mini-batches of them.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use flate2::read::GzDecoder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Images are `SIDE` x `SIDE`.
pub const SIDE: usize = 8;
/// Pixels of one image.
pub const PIXELS: usize = SIDE * SIDE;
/// Classes trained on: the digits below this number. The rest is never seen in training: the
/// out-of-distribution set.
pub const CLASSES: usize = 7;
/// Of every class trained on, this share is for training, the rest for the test.
const TRAIN_SHARE: f64 = 0.5;
/// The split is the same for every seed of the training.
const SPLIT_SEED: u64 = 20231210;

/// Images with their labels; pixels scaled to [-1, 1].
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// `PIXELS` values per image.
    pub pixels: Vec<f32>,
    /// The digit of each image.
    pub labels: Vec<u32>,
}

impl Images {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The images chosen, of shape (b, PIXELS, 1), and their labels (b).
    pub fn batch(&self, chosen: &[usize]) -> candle_core::Result<(Tensor, Tensor)> {
        let pixels: Vec<f32> = chosen.iter().flat_map(|&i| self.image(i)).copied().collect();
        let labels: Vec<u32> = chosen.iter().map(|&i| self.labels[i]).collect();
        let images = Tensor::from_vec(pixels, (chosen.len(), PIXELS, 1), &Device::Cpu)?;
        Ok((images, Tensor::from_vec(labels, chosen.len(), &Device::Cpu)?))
    }

    fn image(&self, i: usize) -> &[f32] {
        &self.pixels[i * PIXELS..(i + 1) * PIXELS]
    }

    fn push(&mut self, image: &[f32], label: u32) {
        self.pixels.extend_from_slice(image);
        self.labels.push(label);
    }
}

/// What is trained on, what is tested on, and what belongs to no class trained on.
pub struct Split {
    /// Half of the images of the digits below [`CLASSES`].
    pub train: Images,
    /// The other half.
    pub test: Images,
    /// All images of the remaining digits.
    pub ood: Images,
}

impl Split {
    /// Reads the digits and splits them, in the same way each time: within a class, a shuffle with a fixed
    /// seed decides.
    pub fn load() -> Result<Self> {
        Self::from_images(&parse(include_bytes!("../data/digits.csv.gz"))?)
    }

    fn from_images(all: &Images) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(SPLIT_SEED);
        let mut split = Split { train: Images::default(), test: Images::default(), ood: Images::default() };
        for digit in 0..10 {
            let mut members: Vec<usize> = (0..all.len()).filter(|&i| all.labels[i] == digit).collect();
            members.shuffle(&mut rng);
            let train = (members.len() as f64 * TRAIN_SHARE).round() as usize;
            for (place, &i) in members.iter().enumerate() {
                let part = match (digit < CLASSES as u32, place < train) {
                    (false, _) => &mut split.ood,
                    (true, true) => &mut split.train,
                    (true, false) => &mut split.test,
                };
                part.push(all.image(i), digit);
            }
        }
        ensure!(split.train.len() > 1 && split.test.len() > 1 && split.ood.len() > 1, "a part is empty");
        Ok(split)
    }
}

/// Reads lines of 64 pixels from 0 to 16 and a digit, comma-separated, from a gzip file.
fn parse(gzip: &[u8]) -> Result<Images> {
    let mut text = String::new();
    GzDecoder::new(gzip).read_to_string(&mut text).context("the digits are no gzip file")?;
    let mut images = Images::default();
    for (number, line) in text.lines().enumerate() {
        let values: Vec<u32> = line
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("line {} of the digits", number + 1))?;
        let valid =
            values.len() == PIXELS + 1 && values[..PIXELS].iter().all(|&p| p <= 16) && values[PIXELS] < 10;
        ensure!(valid, "line {} of the digits is not 64 pixels from 0 to 16 and a digit", number + 1);
        let image: Vec<f32> = values[..PIXELS].iter().map(|&pixel| pixel as f32 / 8.0 - 1.0).collect();
        images.push(&image, values[PIXELS]);
    }
    Ok(images)
}

/// The mini-batches of one pass over `count` examples in random order. The last is smaller where `size` does
/// not divide `count`.
pub fn shuffled_batches(count: usize, size: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(rng);
    order.chunks(size).map(<[usize]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_file_holds_1797_digits_and_the_split_keeps_classes_apart() {
        let split = Split::load().unwrap();
        assert_eq!(split.train.len() + split.test.len() + split.ood.len(), 1797);
        assert!(split.train.labels.iter().chain(&split.test.labels).all(|&label| label < CLASSES as u32));
        assert!(split.ood.labels.iter().all(|&label| label >= CLASSES as u32));
        for digit in 0..CLASSES as u32 {
            let count = |images: &Images| images.labels.iter().filter(|&&label| label == digit).count();
            assert!(count(&split.train).abs_diff(count(&split.test)) <= 1, "digit {digit}");
        }
        assert_eq!(split.train.pixels.len(), split.train.len() * PIXELS);
        assert!(split.train.pixels.iter().all(|pixel| (-1.0..=1.0).contains(pixel)));
    }

    #[test]
    fn train_and_test_share_no_image() {
        let split = Split::load().unwrap();
        let key = |image: &[f32]| image.iter().map(|pixel| pixel.to_bits()).collect::<Vec<_>>();
        let seen: std::collections::HashSet<_> = split.train.pixels.chunks(PIXELS).map(key).collect();
        assert!(split.test.pixels.chunks(PIXELS).all(|image| !seen.contains(&key(image))));
    }

    #[test]
    fn a_malformed_line_is_named() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"1,2,3\n").unwrap();
        let error = parse(&gzip.finish().unwrap()).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }

    #[test]
    fn batches_cover_every_example_once() {
        let batches = shuffled_batches(10, 4, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut all: Vec<usize> = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }
}
