//! The materialised mix, forward and backward. The floor: its products at the sgemm rate, Z̃ (and its
//! gradient) once through memory.

mod common;

use common::{SHAPES, Work, attention, report, values};
use multimix::{Alpha, MixCall, MixInput, MixOutputs, MixedGradients, Mixing, View, ViewMut, cpu};

fn main() {
    for shape in &SHAPES {
        let [b, r, d, n] = [shape.b, shape.r, shape.d, shape.n];
        let (features, attention) = (values(b * r * d), attention(shape));
        let input = MixInput {
            features: View::new(&features, [b, r, d]).expect("sizes fit"),
            targets: None,
            attention: Some(View::new(&attention, [b, r]).expect("sizes fit")),
        };
        let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(1);
        let product = 2.0 * (b * d * n * r) as f64;
        let bytes = 4.0 * ((n + b) * r * d) as f64;
        let work = Work { flops: product, bytes, draws: (b * n * r) as f64 };
        let mut mixed = vec![0f32; n * r * d];
        let features = ViewMut::new(&mut mixed, [n, r, d]).expect("sizes fit");
        let outputs = MixOutputs { features, targets: None };
        let mut call = MixCall { columns: mixing.into(), input, outputs };
        let mut workspace = vec![0u8; cpu::mix_workspace(&call).expect("valid")];
        report("mix forward", shape, work, || cpu::mix_into(&mut call, &mut workspace).expect("valid"));
        let gradient = values(n * r * d);
        let gradients =
            MixedGradients { features: View::new(&gradient, [n, r, d]).expect("sizes fit"), targets: None };
        // dZ and dM̂ are a product each.
        let work = Work { flops: 2.0 * product, bytes: bytes + 4.0 * (b * r * d) as f64, ..work };
        report("mix backward", shape, work, || cpu::mix_backward(mixing, &input, &gradients).expect("valid"));
    }
}
