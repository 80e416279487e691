//! The loss, and the loss with its gradient: the whole step that MultiMix adds to training. The floor: its
//! products at the sgemm rate (one forward, one more for the gradient), S and dS once through memory.

mod common;

use common::{SHAPES, Shape, Work, attention, labels, peak_of, report, values};
use multimix::{Alpha, LossInput, LossOptions, Mixing, Targets, View, Want, cpu};

fn main() {
    for shape in &SHAPES {
        let data = Data::new(shape);
        let input = data.input(shape);
        let options = LossOptions::default();
        let mixing = Mixing::dirichlet(shape.n, Alpha::PAPER).seed(1);
        let product = 2.0 * (shape.b * shape.c * shape.n * shape.r) as f64;
        let bytes = 4.0 * (shape.b * shape.r * shape.c) as f64;
        let work = Work { flops: product, bytes, draws: (shape.b * shape.n * shape.r) as f64 };
        report("loss", shape, work, || cpu::loss(mixing, &input, &options, Want::Loss).expect("valid"));
        let work = Work { flops: 2.0 * product, bytes: 2.0 * bytes, ..work };
        report("loss and gradient", shape, work, || {
            cpu::loss(mixing, &input, &options, Want::Gradients(1.0)).expect("valid")
        });
    }
    if std::env::args().any(|argument| argument == "--memory") {
        memory(&SHAPES[0]);
    }
}

/// The memory of the loss at A does not grow with n: `cargo bench --bench loss -- --memory`.
fn memory(shape: &Shape) {
    let data = Data::new(shape);
    for n in [1_000, 1_000_000] {
        let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(1);
        let extra = peak_of(|| {
            let (input, options) = (data.input(shape), LossOptions::default());
            drop(cpu::loss(mixing, &input, &options, Want::Gradients(1.0)).expect("valid"));
        });
        println!("loss and gradient at A with n = {n}: {:.2} MB extra at most", extra as f64 / 1e6);
    }
}

struct Data {
    logits: Vec<f32>,
    attention: Vec<f32>,
    labels: Vec<u32>,
}

impl Data {
    fn new(shape: &Shape) -> Self {
        let logits = values(shape.b * shape.r * shape.c);
        Self { logits, attention: attention(shape), labels: labels(shape) }
    }

    fn input(&self, shape: &Shape) -> LossInput<'_, f32> {
        LossInput {
            logits: View::new(&self.logits, [shape.b, shape.r, shape.c]).expect("sizes fit"),
            targets: Targets::labels(&self.labels),
            attention: Some(View::new(&self.attention, [shape.b, shape.r]).expect("sizes fit")),
        }
    }
}
