//! Calls in plain words: no type of the library, so that the list outlives every change of its API.

/// What is called.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op {
    Weights,
    Attention,
    AttentionBackward,
    MixForward,
    MixBackward,
    Loss,
}

/// Type of features, logits, their gradients and the columns, with how f32 is multiplied.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Element {
    F32,
    Tf32,
    F16,
    Bf16,
}

/// Where columns come from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Draw {
    /// Dirichlet of these ends of α.
    Dirichlet(f32, f32),
    PairPerBatch,
    PairPerColumn,
    /// Explicit weights, the same at all positions.
    ExplicitShared,
    /// Explicit weights of each position.
    ExplicitEach,
}

pub const ONE: Draw = Draw::Dirichlet(1.0, 1.0);
pub const ABOVE: Draw = Draw::Dirichlet(1.7, 1.7);
pub const BELOW: Draw = Draw::Dirichlet(0.3, 0.3);
pub const PAPER: Draw = Draw::Dirichlet(0.5, 2.0);
/// So small that most columns are drawn anew in log space.
pub const TINY: Draw = Draw::Dirichlet(0.002, 0.002);

pub const DRAWS: [(&str, Draw); 8] = [
    ("one", ONE),
    ("above", ABOVE),
    ("below", BELOW),
    ("paper", PAPER),
    ("pair-batch", Draw::PairPerBatch),
    ("pair-column", Draw::PairPerColumn),
    ("explicit-shared", Draw::ExplicitShared),
    ("explicit-each", Draw::ExplicitEach),
];

/// Attention maps.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Maps {
    None,
    /// With a zero here and there.
    Some,
    /// Every fifth example's map is zero everywhere, and becomes uniform.
    EmptyUniform,
    /// Every fifth example's map is zero everywhere, and leaves its example out.
    EmptyLeftOut,
    /// Zero at position 1 in all examples: columns without mass.
    Massless,
    /// Near the smallest numbers.
    Faint,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Targets {
    None,
    Labels,
    Soft,
}

/// How the axes of features and logits, and of their gradients, lie in memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Order {
    Dense,
    /// (b, channels, r), as NCHW has it.
    ChannelsFirst,
    /// (r, b, channels).
    PositionsFirst,
    /// Three elements between rows of channels.
    Gapped,
}

/// One call. Sizes as in the README.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Names it in the files; the values of its inputs follow from it.
    pub name: String,
    pub op: Op,
    pub element: Element,
    pub b: usize,
    pub r: usize,
    pub d: usize,
    pub c: usize,
    pub n: usize,
    pub draw: Draw,
    pub maps: Maps,
    pub targets: Targets,
    pub order: Order,
    /// Outputs asked for, by the names that results have.
    pub outputs: &'static [&'static str],
    /// Of attention: by the classifier, else by the mean; and softmax in place of ReLU.
    pub classifier: bool,
    pub softmax: bool,
    /// Of the loss.
    pub detach: bool,
    pub mean: bool,
    pub upstream: f32,
    /// One more factor, on a GPU in device memory.
    pub scalar: Option<f32>,
    /// Some logits are −∞.
    pub masked: bool,
    /// On a GPU, seed and step are read from device memory.
    pub device_seed: bool,
}

/// Seed and step of all calls.
pub const SEED: u64 = 0x6d75_6c74_696d_6978;
pub const STEP: u64 = 5_000_000_011;

impl Problem {
    pub fn wants(&self, output: &str) -> bool {
        self.outputs.contains(&output)
    }

    /// Shape and strides of an array (b, r, channels) in the call's order.
    pub fn layout(&self, channels: usize) -> ([usize; 3], [usize; 3]) {
        self.arrange([self.b, self.r, channels])
    }

    /// The same of (n, r, channels).
    pub fn mixed_layout(&self, channels: usize) -> ([usize; 3], [usize; 3]) {
        self.arrange([self.n, self.r, channels])
    }

    fn arrange(&self, shape: [usize; 3]) -> ([usize; 3], [usize; 3]) {
        let [rows, r, channels] = shape;
        let strides = match self.order {
            Order::Dense => [r * channels, channels, 1],
            Order::ChannelsFirst => [r * channels, 1, r],
            Order::PositionsFirst => [channels, rows * channels, 1],
            Order::Gapped => [r * (channels + 3), channels + 3, 1],
        };
        (shape, strides)
    }

    /// Numbers in [−1, 1) that are always the same for this call and this name of an input.
    pub fn values(&self, input: &str, count: usize) -> Vec<f32> {
        let mut random = Random::new(&self.name, input);
        (0..count).map(|_| random.signed()).collect()
    }

    /// S, as [`Problem::values`] but larger, and masked where the call says so.
    pub fn logits(&self, count: usize) -> Vec<f32> {
        let mut random = Random::new(&self.name, "logits");
        let value = |_| match self.masked && random.unit() < 0.002 {
            true => f32::NEG_INFINITY,
            false => 6.0 * random.signed(),
        };
        (0..count).map(value).collect()
    }

    /// a (b, r), if there is any.
    pub fn attention(&self) -> Option<Vec<f32>> {
        let mut random = Random::new(&self.name, "attention");
        let scale = match self.maps {
            Maps::None => return None,
            Maps::Faint => 1e-30,
            _ => 1.0,
        };
        let value = |at: usize| {
            let (i, j) = (at / self.r, at % self.r);
            let (value, zero) = (random.unit() * scale, random.unit() < 0.1);
            let zero = match self.maps {
                Maps::EmptyUniform | Maps::EmptyLeftOut => i % 5 == 2 || zero,
                Maps::Massless => j == 1,
                _ => zero,
            };
            if zero { 0.0 } else { value }
        };
        Some((0..self.b * self.r).map(value).collect())
    }

    /// Explicit weights (positions, b, n), where the call has them.
    pub fn weights(&self) -> Option<([usize; 3], Vec<f32>)> {
        let positions = match self.draw {
            Draw::ExplicitShared => 1,
            Draw::ExplicitEach => self.r,
            _ => return None,
        };
        let mut random = Random::new(&self.name, "weights");
        // Every column needs a positive weight: zeros only where there are many others.
        let zeros = if self.b > 60 { 0.2 } else { 0.0 };
        let value = |_| match random.unit() < zeros {
            true => 0.0,
            false => 0.01 + 3.0 * random.unit(),
        };
        Some(([positions, self.b, self.n], (0..positions * self.b * self.n).map(value).collect()))
    }

    pub fn labels(&self) -> Vec<u32> {
        let mut random = Random::new(&self.name, "labels");
        (0..self.b).map(|_| (random.next() % self.c as u64) as u32).collect()
    }

    /// Y (b, c).
    pub fn soft(&self) -> Vec<f32> {
        let mut random = Random::new(&self.name, "soft");
        (0..self.b * self.c).map(|_| random.unit()).collect()
    }
}

/// SplitMix64. Of this file's own, so that no other crate's release changes what calls are made of.
struct Random(u64);

impl Random {
    fn new(name: &str, input: &str) -> Self {
        Self(super::hash(name.bytes().chain(*b"/").chain(input.bytes())))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// In [0, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// In [−1, 1).
    fn signed(&mut self) -> f32 {
        2.0 * self.unit() - 1.0
    }
}
