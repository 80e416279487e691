//! How far an engine's results lie from the reference, and how far they may: at most twice as far as those of
//! a plain implementation of the same precision.
//!
//! A [`Ledger`] does so element by element. Errors are measured in units of what is to be expected: the
//! standard deviation that [`Tracked`] gives each element of the plain implementation's result, with one
//! rounding of the result itself added. On that scale elements of all sizes count alike. [`check`] does so
//! for an array as a whole, where products take rounded operands, which [`Tracked`] does not know.

use std::collections::BTreeMap;

use half::{bf16, f16};
use multimix::{Dtype, Element};

use super::real::Tracked;

/// The engine may err by at most so many times the error of the plain implementation ...
const TIMES_PLAIN: f64 = 2.0;
/// ... which counts as so many units at least, as much as the largest of some hundred errors may be expected
/// to be. The plain implementation may be lucky, and errs by nothing where a column has a single weight:
/// dividing that by itself is exact, multiplying it by a rounded reciprocal, as the engines do, is not. Over
/// all problems together ([`Ledger::conclude`]) nothing is granted for luck.
const LUCK: f64 = 3.0;

/// What is so small counts as nothing: exponentials below 2^-125 are zero in the engines, and are multiplied
/// by up to 2^10 here.
const TINY: f64 = 1e-34;

/// What an engine computed for one op, and what it is judged by.
#[derive(Clone, Copy)]
pub struct Sample<'a> {
    pub engine: &'a [f32],
    pub reference: &'a [f64],
    pub plain: &'a [f32],
    pub tracked: &'a [Tracked],
}

/// The largest error in an array, in units, of engine and plain implementation.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    engine: f64,
    plain: f64,
    at: usize,
}

impl Sample<'_> {
    fn errors(&self) -> Errors {
        let lengths = [self.engine.len(), self.plain.len(), self.tracked.len()];
        assert_eq!(lengths, [self.reference.len(); 3]);
        let mut errors = Errors::default();
        for (at, &reference) in self.reference.iter().enumerate() {
            let tracked = self.tracked[at];
            let scale = tracked.value.abs().max(reference.abs());
            assert!(
                (tracked.value - reference).abs() <= 1e-9 * scale + 1e-3 * tracked.deviation(),
                "the plain implementation in f64 gives {} at {at}, the reference {reference}",
                tracked.value
            );
            let own = reference.abs() * 2f64.powi(-24) + TINY;
            let unit = (tracked.variance + own * own).sqrt();
            let relative = |value: f32| {
                let error = (f64::from(value) - reference).abs();
                if error == 0.0 { 0.0 } else { error / unit }
            };
            let engine = relative(self.engine[at]);
            if engine.is_nan() || engine > errors.engine {
                (errors.engine, errors.at) = (engine, at);
            }
            errors.plain = errors.plain.max(relative(self.plain[at]));
        }
        errors
    }
}

/// Errors of one op over all problems.
#[derive(Clone, Debug, Default)]
struct Record {
    samples: usize,
    worst: Errors,
    worst_ratio: f64,
    engine_squares: f64,
    plain_squares: f64,
}

/// Errors of all ops over all problems, and a line for each that was too large.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    records: BTreeMap<String, Record>,
    violations: Vec<String>,
}

impl Ledger {
    /// Enters a sample.
    pub fn enter(&mut self, op: &str, problem: &str, sample: &Sample<'_>) {
        let errors = sample.errors();
        let allowed = TIMES_PLAIN * errors.plain.max(LUCK);
        if errors.engine.is_nan() || errors.engine > allowed {
            let Errors { engine, plain, at } = errors;
            let [x, y] = [sample.engine[at], sample.plain[at]];
            self.violations.push(format!(
                "{op}: the engine errs by {engine:.2} units, the plain implementation by {plain:.2}; element {at} is {x:e}, \
                 plain {y:e}, reference {:e}; {problem}",
                sample.reference[at]
            ));
        }
        let record = self.records.entry(op.to_owned()).or_default();
        record.samples += 1;
        record.worst.engine = record.worst.engine.max(errors.engine);
        record.worst.plain = record.worst.plain.max(errors.plain);
        record.worst_ratio = record.worst_ratio.max(errors.engine / errors.plain.max(LUCK));
        record.engine_squares += errors.engine * errors.engine;
        record.plain_squares += errors.plain * errors.plain;
    }

    /// As [`Ledger::enter`], for results that engine and plain implementation round to the storage type.
    pub fn enter_stored<T: Element>(&mut self, op: &str, problem: &str, sample: &Sample<'_>) {
        let (precision, smallest) = match T::DTYPE {
            Dtype::F16 => (11, -24),
            Dtype::Bf16 => (8, -133),
            _ => (24, -149),
        };
        let plain: Vec<f32> = sample.plain.iter().map(|&x| T::from_f32(x).to_f32()).collect();
        let tracked: Vec<Tracked> = sample.tracked.iter().map(|x| x.stored(precision, smallest)).collect();
        let stored = Sample { plain: &plain, tracked: &tracked, ..*sample };
        self.enter(&format!("{op} {:?}", T::DTYPE), problem, &stored);
    }

    /// Prints the table, and holds the engine to the rule over all problems together, where luck has no part.
    pub fn conclude(&self) {
        println!("largest errors in units of the expected deviation; ratio: engine to plain");
        println!(
            "{:<34} {:>7} {:>8} {:>8} {:>12} {:>10}",
            "op", "samples", "engine", "plain", "worst ratio", "rms ratio"
        );
        let mut within = true;
        for (op, record) in &self.records {
            let Record { samples, worst, worst_ratio, .. } = record;
            let ratio = (record.engine_squares / record.plain_squares).sqrt();
            println!(
                "{op:<34} {samples:>7} {:>8.2} {:>8.2} {worst_ratio:>12.2} {ratio:>10.2}",
                worst.engine, worst.plain
            );
            within &= ratio <= TIMES_PLAIN;
        }
        let violations = self.violations.join("\n");
        assert!(violations.is_empty(), "errors larger than allowed:\n{violations}");
        assert!(
            within,
            "an op errs more than {TIMES_PLAIN} times as much as the plain implementation over all problems"
        );
    }
}

/// The unit roundoff of a storage type, and what a value becomes as an operand of its products.
pub trait Rounding: Element {
    const UNIT: f64;
}

impl Rounding for f32 {
    const UNIT: f64 = 5.97e-8;
}
impl Rounding for f16 {
    const UNIT: f64 = 4.89e-4;
}
impl Rounding for bf16 {
    const UNIT: f64 = 3.91e-3;
}

/// Rounds an operand as tensor cores take it.
pub fn round<T: Element>(value: f32, tf32: bool) -> f32 {
    if tf32 { to_tf32(value) } else { T::from_f32(value).to_f32() }
}

/// To 10 bits of mantissa, to nearest, ties away.
fn to_tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1fff) } else { value }
}

/// Checks that `given` is as near to `exact` as `plain` is, within a factor of two; `unit` is one rounding at
/// the end.
///
/// The measure is the largest error of the array, against the largest value: arrays are checked whole.
pub fn check(what: &str, given: &[f32], plain: &[f32], exact: &[f64], unit: f64) {
    check_at(what, given, plain, exact, unit, 0.0);
}

/// The same for results that are differences of values as large as `terms`: where these cancel, four
/// roundings to f32 of those stay.
pub fn check_at(what: &str, given: &[f32], plain: &[f32], exact: &[f64], unit: f64, terms: f64) {
    assert_eq!((given.len(), plain.len()), (exact.len(), exact.len()), "{what}: lengths");
    let scale = exact.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    let error = |values: &[f32]| {
        let distance = |(value, exact): (&f32, &f64)| (f64::from(*value) - exact).abs();
        values
            .iter()
            .zip(exact)
            .map(distance)
            .fold(0f64, |worst, x| if x.is_nan() { f64::INFINITY } else { worst.max(x) })
    };
    let allowed =
        TIMES_PLAIN * error(plain) + unit * scale + 4.0 * f32::UNIT * terms + f64::from(f32::MIN_POSITIVE);
    let found = error(given);
    if found <= allowed {
        return;
    }
    let worst =
        |index: &usize| (f64::from(given[*index]) - exact[*index]).abs() > allowed || given[*index].is_nan();
    let list: Vec<String> = (0..exact.len())
        .filter(worst)
        .take(5)
        .map(|index| format!("[{index}] {} and not {}", given[index], exact[index]))
        .collect();
    panic!("{what}: error {found:e}, allowed {allowed:e}, largest value {scale:e}\n{}", list.join("\n"));
}

/// Widened to f32.
pub fn floats<T: Element>(values: &[T]) -> Vec<f32> {
    values.iter().map(|x| x.to_f32()).collect()
}

/// Widened to f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Every value as wanted, infinities too, or within `tolerance` of the largest.
pub fn assert_close(name: &str, given: &[f32], wanted: &[f64], tolerance: f64) {
    assert_eq!(given.len(), wanted.len(), "{name}");
    // Terms near 1 cancel.
    let largest = wanted.iter().filter(|x| x.is_finite()).fold(0.3f64, |largest, x| largest.max(x.abs()));
    for (at, (&given, &wanted)) in given.iter().zip(wanted).enumerate() {
        let same = f64::from(given) == wanted || (f64::from(given) - wanted).abs() <= tolerance * largest;
        assert!(same, "{name}[{at}] is {given}, but must be {wanted}");
    }
}

/// Within `tolerance` of the largest that f32 holds, to the unit of subnormal results; infinite where f32
/// does not hold the value.
pub fn assert_held<T: Element>(name: &str, given: &[T], wanted: &[f64], tolerance: f64) {
    let (most, unit) = (f64::from(f32::MAX), if T::DTYPE == Dtype::Bf16 { 1e-40 } else { 1e-43 });
    let largest = wanted.iter().fold(0f64, |largest, x| largest.max(x.abs())).min(most);
    for (given, wanted) in given.iter().map(|x| f64::from(x.to_f32())).zip(wanted) {
        let near = (given - wanted).abs() <= tolerance * largest + unit;
        let right = if wanted.abs() <= most { near } else { given * wanted > 0.0 };
        assert!(right, "{name}: {given} in place of {wanted}, largest {largest}");
    }
}
