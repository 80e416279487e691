//! Attention maps from features, forward and backward. The floor: Z read once (and dZ written once).

mod common;

use common::{SHAPES, Work, report, values};
use multimix::{AttentionInput, AttentionOptions, View, cpu};

fn main() {
    for shape in &SHAPES {
        let [b, r, d] = [shape.b, shape.r, shape.d];
        let features = values(b * r * d);
        let gradient = values(b * r);
        let input = AttentionInput {
            features: View::new(&features, [b, r, d]).expect("sizes fit"),
            classifier: None,
        };
        let options = AttentionOptions::default();
        let bytes = (b * r * d * 4) as f64;
        let work = Work { flops: 0.0, bytes, draws: 0.0 };
        report("attention forward", shape, work, || cpu::attention(&input, &options).expect("valid"));
        let gradient = View::new(&gradient, [b, r]).expect("sizes fit");
        let work = Work { bytes: 2.0 * bytes, ..work };
        report("attention backward", shape, work, || {
            cpu::attention_backward(&input, &options, &gradient).expect("valid")
        });
    }
}
