//! Statistical tests with fixed significance, and the exact transform that the sampler's f32 arithmetic
//! approximates.

use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::gamma::{gamma_lr, ln_gamma};

/// P(G <= 2^`log2`) for G ~ Gamma(`alpha`, 1). Near zero by the first terms of its series: there the library
/// gives 0.
pub fn gamma_cdf(alpha: f64, log2: f64) -> f64 {
    let ln = log2 * std::f64::consts::LN_2;
    if ln < -14.0 {
        return (alpha * ln - ln_gamma(alpha + 1.0)).exp() * (1.0 - alpha / (alpha + 1.0) * ln.exp());
    }
    gamma_lr(alpha, ln.exp())
}

/// Kolmogorov-Smirnov: the values are uniform on [0, 1], at a significance of 1e-4.
pub fn assert_ks(name: &str, mut values: Vec<f64>) {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len() as f64;
    let distance = values.iter().enumerate().fold(0f64, |largest, (at, &value)| {
        largest.max(value - at as f64 / n).max((at as f64 + 1.0) / n - value)
    });
    // 2 exp(-2 x²) = 1e-4.
    let critical = (2e4f64.ln() / 2.0).sqrt() / n.sqrt();
    println!("{name}: KS distance {distance:.2e}, critical {critical:.2e}");
    assert!(distance < critical, "{name}: the distance {distance} is larger than {critical}");
}

/// The mean of the values lies within four and a half standard errors of `expected`.
pub fn assert_near(name: &str, values: impl Iterator<Item = f64>, expected: f64) {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        let off = value - expected;
        (count, sum, squares) = (count + 1.0, sum + off, squares + off * off);
    }
    let (mean, variance) = (sum / count, squares / count);
    let error = (variance / count).sqrt();
    assert!(
        mean.abs() < 4.5 * error,
        "{name}: off by {mean:e}, with a standard error of {error:e}, from {expected:e}"
    );
}

/// Pairs of uniforms are independent: no correlation (four and a half standard errors), and the counts of 16
/// x 16 bins as chi-square has them (significance 1e-4).
pub fn assert_independent(name: &str, pairs: Vec<(f64, f64)>) {
    const BINS: usize = 16;
    let n = pairs.len() as f64;
    let correlation = pairs.iter().map(|(x, y)| 12.0 * (x - 0.5) * (y - 0.5)).sum::<f64>() / n;
    assert!(correlation.abs() < 4.5 / n.sqrt(), "{name}: a correlation of {correlation:e} over {n} pairs");
    let mut counts = [[0f64; BINS]; BINS];
    let bin = |x: f64| ((x * BINS as f64) as usize).min(BINS - 1);
    pairs.iter().for_each(|&(x, y)| counts[bin(x)][bin(y)] += 1.0);
    let expected = n / (BINS * BINS) as f64;
    let statistic: f64 = counts.iter().flatten().map(|count| (count - expected).powi(2) / expected).sum();
    let critical = ChiSquared::new((BINS * BINS - 1) as f64).unwrap().inverse_cdf(1.0 - 1e-4);
    println!("{name}: correlation {correlation:.1e}, chi-square {statistic:.0}, critical {critical:.0}");
    assert!(statistic < critical, "{name}: chi-square {statistic} is larger than {critical}");
}

/// An accepted attempt.
pub struct Exact {
    /// log₂ of the draw.
    pub log2_draw: f64,
    /// 1 + c x, which loses relative precision where it is near zero.
    pub t: f64,
}

/// ((w >> 9) + ½) 2⁻²³.
fn unit(word: u32) -> f64 {
    (f64::from(word >> 9) + 0.5) * 2f64.powi(-23)
}

/// One attempt of the sampler's documented transform, in f64 with the standard library's functions; none
/// where it rejects.
pub fn exact_attempt(alpha: f64, words: [u32; 4], odd: bool) -> Option<Exact> {
    let u = unit(words[2 + usize::from(odd)]);
    if alpha == 1.0 {
        return Some(Exact { log2_draw: (-u.ln()).log2(), t: 1.0 });
    }
    let radius = (-2.0 * unit(words[0]).ln()).sqrt();
    let place = f64::from((words[1] << 2) >> 9) * 2f64.powi(-23) - 0.5;
    let (sin, cos) = (place * std::f64::consts::FRAC_PI_2).sin_cos();
    let cos = if words[1] >> 31 == 1 { -cos } else { cos };
    let (even_x, odd_x) = if words[1] >> 30 & 1 == 1 { (sin, cos) } else { (cos, sin) };
    let x = radius * if odd { odd_x } else { even_x };
    let boosted = alpha < 1.0;
    let d = if boosted { alpha + 1.0 } else { alpha } - 1.0 / 3.0;
    let t = 1.0 + x / (9.0 * d).sqrt();
    if t <= 0.0 {
        return None;
    }
    let v = t * t * t;
    let h = 0.5 * x * x + d * (1.0 - v + v.ln());
    let squeezed = !boosted && u < 1.0 - 0.0331 * x.powi(4);
    if !squeezed && u.ln() >= h {
        return None;
    }
    let boost = if boosted { (u.ln() - h.min(0.0)) / alpha } else { 0.0 };
    Some(Exact { log2_draw: ((d * v).ln() + boost) / std::f64::consts::LN_2, t })
}
