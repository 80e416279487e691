//! Gamma draws, one at a time: the definition that the SIMD and CUDA versions repeat. The steps are told in
//! [`crate::sampler`].

use super::math::{exp2, log2, normal_pair, unit};
use super::{ATTEMPTS, Domain, Stream};
use crate::problem::Alpha;

/// The coefficient of Marsaglia and Tsang's squeeze.
pub const SQUEEZE: f32 = -0.0331;
/// α − ⅓.
pub const THIRD: f32 = 1.0 / 3.0;

/// Which of the three ways a column's gammas are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// α fixed to 1: −ln u.
    Exponential,
    /// α ≥ 1: Marsaglia and Tsang.
    Plain,
    /// α < 1: Marsaglia and Tsang for α + 1, times a uniform to the power 1/α.
    Boosted,
}

impl Method {
    /// How a column with this α, a value of the distribution `of`, is drawn.
    #[inline(always)]
    pub fn new(alpha: f32, of: Alpha) -> Self {
        match of {
            Alpha::Fixed(1.0) => Method::Exponential,
            _ if alpha < 1.0 => Method::Boosted,
            _ => Method::Plain,
        }
    }
}

/// Gamma(α, 1) draws: α with the constants that the rejection test needs.
///
/// ```
/// use multimix::sampler::{Domain, Gamma, Stream};
/// use multimix::Alpha;
/// let gamma = Gamma::new(1.7, Alpha::PAPER);
/// let g = gamma.draw(Stream::new(1, 0), Domain::Weight, 0, 5, 9);
/// assert!(g > 0.0 && g < 30.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gamma {
    /// How it is drawn.
    pub method: Method,
    /// d = α − ⅓ (α + 1 in place of α when boosted).
    pub d: f32,
    /// 1 / √(9 d).
    pub c: f32,
    /// 1 / α, for the boost.
    pub inverse_alpha: f32,
    /// log₂ d, for the boost.
    pub log2_d: f32,
}

impl Gamma {
    /// The constants for α, a value of the distribution `of` (only α *fixed* to 1 is drawn as an
    /// exponential).
    #[inline(always)]
    pub fn new(alpha: f32, of: Alpha) -> Self {
        let method = Method::new(alpha, of);
        let shape = if method == Method::Boosted { alpha + 1.0 } else { alpha };
        let d = shape - THIRD;
        Self { method, d, c: 1.0 / (9.0 * d).sqrt(), inverse_alpha: 1.0 / alpha, log2_d: log2(d) }
    }

    /// The draw of position j, example i, column k: g ≥ 0. Zero means less than 2⁻¹²⁵; see
    /// [`Gamma::draw_log2`].
    pub fn draw(&self, stream: Stream, domain: Domain, j: u32, i: u32, k: u32) -> f32 {
        self.search(stream, domain, j, i, k, |draw| draw.value(self))
    }

    /// log₂ of the same draw; finite also where the draw itself underflows.
    pub fn draw_log2(&self, stream: Stream, domain: Domain, j: u32, i: u32, k: u32) -> f32 {
        self.search(stream, domain, j, i, k, |draw| draw.log2(self))
    }

    fn search(
        &self,
        stream: Stream,
        domain: Domain,
        j: u32,
        i: u32,
        k: u32,
        finish: impl Fn(Accepted) -> f32,
    ) -> f32 {
        for attempt in 0..ATTEMPTS - 1 {
            let words = stream.block(domain, k, i / 2, j, attempt);
            if let Some(draw) = self.attempt(words, i % 2 == 1) {
                return finish(draw);
            }
        }
        finish(Accepted { v: 1.0, log2_v: 0.0, log2_u: -1.0 })
    }

    /// One attempt with the words of its block.
    #[inline(always)]
    fn attempt(&self, words: [u32; 4], odd: bool) -> Option<Accepted> {
        let u = unit(words[2 + odd as usize]);
        if self.method == Method::Exponential {
            return Some(Accepted { v: 1.0, log2_v: 0.0, log2_u: log2(u) });
        }
        let (even_x, odd_x) = normal_pair(words[0], words[1]);
        let x = if odd { odd_x } else { even_x };
        let t = self.c.mul_add(x, 1.0);
        if t <= 0.0 {
            return None;
        }
        let (x2, v) = (x * x, (t * t) * t);
        if self.method == Method::Plain && u < SQUEEZE.mul_add(x2 * x2, 1.0) {
            return Some(Accepted { v, log2_v: 0.0, log2_u: 0.0 });
        }
        let (log2_u, log2_v) = (log2(u), 3.0 * log2(t));
        let w = self.d.mul_add(1.0 - v, 0.5 * x2);
        let h = w.mul_add(std::f32::consts::LOG2_E, self.d * log2_v);
        // Given u < 2^h, u / 2^h is uniform: it serves the boost.
        (log2_u < h).then(|| Accepted { v, log2_v, log2_u: log2_u - h.min(0.0) })
    }
}

/// An accepted attempt: v, and for the boost log₂ v and the recycled log₂ u.
struct Accepted {
    v: f32,
    log2_v: f32,
    log2_u: f32,
}

impl Accepted {
    #[inline(always)]
    fn value(&self, gamma: &Gamma) -> f32 {
        match gamma.method {
            Method::Exponential => self.log2_u * -std::f32::consts::LN_2,
            Method::Plain => gamma.d * self.v,
            Method::Boosted => exp2(self.log2(gamma)),
        }
    }

    #[inline(always)]
    fn log2(&self, gamma: &Gamma) -> f32 {
        match gamma.method {
            Method::Exponential | Method::Plain => log2(self.value(gamma)),
            Method::Boosted => self.log2_u.mul_add(gamma.inverse_alpha, self.log2_v + gamma.log2_d),
        }
    }
}

/// α of column k at position j: the fixed value, or lo + (hi − lo) u.
#[inline(always)]
pub fn column_alpha(stream: Stream, alpha: Alpha, j: u32, k: u32) -> f32 {
    match alpha {
        Alpha::Fixed(alpha) => alpha,
        Alpha::Uniform { lo, hi } => {
            let u = unit(stream.block(Domain::Alpha, k, 0, j, 0)[0]);
            u.mul_add(hi - lo, lo).min(hi)
        }
    }
}
