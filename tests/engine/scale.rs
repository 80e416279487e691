//! A gradient times a factor: rounded once, from any type to any, at any strides.

use half::{bf16, f16};
use multimix::{Element, Result, ScaleCall, Upstream, View, ViewMut, cpu};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::strided::Strided;
use crate::support::usual::normal;

fn scale<T: Element, G: Element>(
    gradient: View<'_, T, 3>,
    upstream: Upstream<'_>,
    out: ViewMut<'_, G, 3>,
) -> Result<()> {
    // A call has one lifetime for all.
    fn run<'a, T: Element, G: Element>(
        gradient: View<'a, T, 3>,
        upstream: Upstream<'a>,
        out: ViewMut<'a, G, 3>,
    ) -> Result<()> {
        cpu::scale_into(&mut ScaleCall { gradient, upstream, out })
    }
    let mut out = out;
    run(gradient.reborrow(), upstream.reborrow(), out.reborrow())
}

fn check<T: Element, G: Element>(seed: u64) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    for shape in [[1, 1, 1], [3, 2, 5], [7, 3, 65], [130, 4, 9], [2, 0, 3], [2, 3, 0]] {
        let size = 10f32.powi(rng.random_range(-6..4));
        let values: Vec<T> = (0..shape.iter().product()).map(|_| T::from_f32(size * normal(rng))).collect();
        let gradient = Strided::of(rng, shape, &values, T::from_f32(f32::NAN));
        let scalar = [0.3f32];
        for (factor, scalar) in [(1.0, None), (-2.5, None), (1024.0, Some(&scalar)), (0.0, Some(&scalar))] {
            let mut out = Strided::<G, 3>::empty(rng, shape, G::from_f32(f32::NAN));
            let product = factor * scalar.map_or(1.0, |scalar| scalar[0]);
            let scalar = scalar.map(|scalar| View::new(scalar, [1]).unwrap());
            scale(gradient.view(), Upstream { factor, scalar }, out.view_mut()).unwrap();
            let bits = |values: Vec<G>| values.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>();
            let wanted = values.iter().map(|x| G::from_f32(x.to_f32() * product)).collect();
            let name = format!("{:?} to {:?}, {shape:?}, {factor}", T::DTYPE, G::DTYPE);
            assert_eq!(bits(out.written(&name)), bits(wanted), "{name}");
        }
    }
}

#[test]
fn a_product_is_rounded_once() {
    check::<f32, f32>(1);
    check::<f32, f16>(2);
    check::<f32, bf16>(3);
    check::<f16, f16>(4);
    check::<f16, f32>(5);
    check::<bf16, bf16>(6);
    check::<bf16, f16>(7);
}

#[test]
fn what_does_not_fit_is_named() {
    let (gradient, two, mut out) = ([0f32; 12], [1f32; 2], [0f32; 12]);
    let gradient = View::new(&gradient, [2, 3, 2]).unwrap();
    let says = |result: Result<()>, message: &str| {
        assert_eq!(result.unwrap_err().to_string(), message);
    };
    let result = scale(gradient, 1.0.into(), ViewMut::new(&mut out, [3, 2, 2]).unwrap());
    says(result, "scale: the product has shape [3, 2, 2], but the other arguments ask for [2, 3, 2]");
    let upstream = Upstream { factor: 1.0, scalar: Some(View::new(&two, [2]).unwrap()) };
    let result = scale(gradient, upstream, ViewMut::new(&mut out, [2, 3, 2]).unwrap());
    says(result, "scale: upstream has shape [2], but the other arguments ask for [1]");
}
