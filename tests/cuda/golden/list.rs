//! The calls. Small, so that all of them run on the virtual GPU in seconds; every generator, type, output and
//! way through the planning code has one. Names are for ever: what has one keeps its bits.

use super::problem::*;

const TYPES: [(&str, Element); 4] =
    [("f32", Element::F32), ("tf32", Element::Tf32), ("f16", Element::F16), ("bf16", Element::Bf16)];
/// More examples than the largest panel of any kernel.
const MANY: usize = 1600;

pub fn problems() -> Vec<Problem> {
    let all = [weights(), attention(), mix_forward(), mix_backward(), loss()].concat();
    for (at, problem) in all.iter().enumerate() {
        assert!(all[..at].iter().all(|other| other.name != problem.name), "two calls named {}", problem.name);
    }
    all
}

/// Like `base`, with a name and changes.
fn with(base: &Problem, name: &str, change: impl FnOnce(&mut Problem)) -> Problem {
    let prefix = match base.op {
        Op::Weights => "weights",
        Op::Attention => "attention",
        Op::AttentionBackward => "attention-backward",
        Op::MixForward => "mix",
        Op::MixBackward => "mix-backward",
        Op::Loss => "loss",
    };
    let mut problem = Problem { name: format!("{prefix}/{name}"), ..base.clone() };
    change(&mut problem);
    problem
}

fn base(op: Op, outputs: &'static [&'static str]) -> Problem {
    Problem {
        name: String::new(),
        op,
        element: Element::F32,
        b: 65,
        r: 2,
        d: 20,
        c: 7,
        n: 40,
        draw: PAPER,
        maps: Maps::Some,
        targets: Targets::Labels,
        order: Order::Dense,
        outputs,
        classifier: false,
        softmax: false,
        detach: false,
        mean: false,
        upstream: 1.0,
        scalar: None,
        masked: false,
        device_seed: false,
    }
}

fn weights() -> Vec<Problem> {
    let base = base(Op::Weights, &["columns", "mass"]);
    let mut all = vec![];
    for (name, draw) in DRAWS {
        all.push(with(&base, &format!("{name}-b65"), |p| (p.draw, p.n) = (draw, 17)));
        if !matches!(name, "above" | "below" | "pair-column" | "explicit-shared") {
            let small = |p: &mut Problem| (p.draw, p.b, p.r, p.n, p.maps) = (draw, 3, 1, 5, Maps::None);
            all.push(with(&base, &format!("{name}-b3-no-maps"), small));
        }
        if !matches!(name, "above" | "pair-batch" | "explicit-shared") {
            let many = |p: &mut Problem| (p.draw, p.b, p.r, p.n) = (draw, MANY, 1, 20);
            all.push(with(&base, &format!("{name}-b1600"), many));
        }
    }
    let halves = [
        ("paper-b64-f16", PAPER, 64, Element::F16),
        ("paper-b130-bf16", PAPER, 130, Element::Bf16),
        ("pair-column-b130-f16", Draw::PairPerColumn, 130, Element::F16),
        ("explicit-each-b130-bf16", Draw::ExplicitEach, 130, Element::Bf16),
    ];
    for (name, draw, b, element) in halves {
        all.push(with(&base, name, |p| (p.draw, p.b, p.element, p.n) = (draw, b, element, 24)));
    }
    all.push(with(&base, "settled", |p| (p.draw, p.n) = (TINY, 33)));
    all.push(with(&base, "empty-uniform", |p| p.maps = Maps::EmptyUniform));
    all.push(with(&base, "empty-left-out", |p| p.maps = Maps::EmptyLeftOut));
    all.push(with(&base, "massless", |p| p.maps = Maps::Massless));
    all.push(with(&base, "faint", |p| p.maps = Maps::Faint));
    all.push(with(&base, "mass-only", |p| p.outputs = &["mass"]));
    all.push(with(&base, "columns-only", |p| p.outputs = &["columns"]));
    all.push(with(&base, "device-seed", |p| p.device_seed = true));
    all
}

fn attention() -> Vec<Problem> {
    let mut all = vec![];
    for (op, outputs) in
        [(Op::Attention, &["maps"] as &[_]), (Op::AttentionBackward, &["d_features", "d_classifier"] as &[_])]
    {
        let base = Problem { b: 9, r: 5, d: 16, ..base(op, outputs) };
        for (name, classifier, softmax) in [
            ("gap-relu", false, false),
            ("gap-softmax", false, true),
            ("cam-relu", true, false),
            ("cam-softmax", true, true),
        ] {
            all.push(with(&base, name, |p| (p.classifier, p.softmax) = (classifier, softmax)));
        }
        all.push(with(&base, "cam-relu-f16", |p| (p.classifier, p.element) = (true, Element::F16)));
        all.push(with(&base, "gap-relu-bf16-channels-first", |p| {
            (p.order, p.element) = (Order::ChannelsFirst, Element::Bf16);
        }));
        all.push(with(&base, "gap-relu-d13", |p| p.d = 13));
        all.push(with(&base, "cam-softmax-gapped", |p| {
            (p.classifier, p.softmax, p.order) = (true, true, Order::Gapped);
        }));
    }
    all
}

fn mix_forward() -> Vec<Problem> {
    let base = base(Op::MixForward, &["features", "targets"]);
    let mut all = vec![];
    for (name, element) in TYPES {
        all.push(with(&base, name, |p| p.element = element));
    }
    for (name, draw) in DRAWS {
        if !matches!(name, "above" | "paper" | "pair-batch") {
            all.push(with(&base, &format!("{name}-b64"), |p| (p.draw, p.b) = (draw, 64)));
        }
    }
    for (name, element) in [("f32", Element::F32), ("f16", Element::F16)] {
        all.push(with(&base, &format!("channels-first-{name}"), |p| {
            (p.order, p.element) = (Order::ChannelsFirst, element);
        }));
        all.push(with(&base, &format!("b1600-{name}"), |p| {
            (p.b, p.r, p.n, p.element) = (MANY, 1, 20, element);
        }));
    }
    all.push(with(&base, "gapped", |p| p.order = Order::Gapped));
    all.push(with(&base, "soft", |p| p.targets = Targets::Soft));
    all.push(with(&base, "no-targets-no-maps", |p| {
        (p.targets, p.maps, p.outputs) = (Targets::None, Maps::None, &["features"]);
    }));
    all.push(with(&base, "b3", |p| p.b = 3));
    all.push(with(&base, "b130-f16-d72", |p| (p.b, p.d, p.element) = (130, 72, Element::F16)));
    all.push(with(&base, "empty-left-out", |p| p.maps = Maps::EmptyLeftOut));
    all.push(with(&base, "device-seed", |p| p.device_seed = true));
    all
}

fn mix_backward() -> Vec<Problem> {
    let base = base(Op::MixBackward, &["d_features", "d_attention"]);
    const ALL: &[&str] = &["d_features", "d_targets", "d_attention"];
    let mut all = vec![];
    for (name, element) in TYPES {
        all.push(with(&base, name, |p| p.element = element));
    }
    for r in [1, 3] {
        all.push(with(&base, &format!("soft-r{r}"), |p| {
            (p.targets, p.r, p.outputs) = (Targets::Soft, r, ALL);
        }));
    }
    for (name, element) in [("f32", Element::F32), ("f16", Element::F16)] {
        all.push(with(&base, &format!("n1100-{name}"), |p| {
            (p.b, p.n, p.targets, p.outputs, p.element) = (3, 1100, Targets::Soft, ALL, element);
        }));
    }
    all.push(with(&base, "b1600", |p| (p.b, p.r, p.d, p.n) = (MANY, 1, 8, 20)));
    all.push(with(&base, "b130-f16-channels-first", |p| {
        (p.b, p.order, p.element) = (130, Order::ChannelsFirst, Element::F16);
    }));
    for (name, draw) in DRAWS {
        if matches!(name, "below" | "pair-batch" | "explicit-shared" | "one") {
            all.push(with(&base, &format!("{name}-b64"), |p| (p.draw, p.b) = (draw, 64)));
        }
    }
    all.push(with(&base, "attention-only", |p| p.outputs = &["d_attention"]));
    all.push(with(&base, "features-only-no-maps", |p| {
        (p.outputs, p.maps) = (&["d_features"], Maps::None);
    }));
    all.push(with(&base, "faint", |p| p.maps = Maps::Faint));
    all.push(with(&base, "massless", |p| p.maps = Maps::Massless));
    all.push(with(&base, "empty-left-out", |p| p.maps = Maps::EmptyLeftOut));
    all
}

fn loss() -> Vec<Problem> {
    const ALL: &[&str] = &["loss", "kl", "d_logits", "d_attention", "per_mixture", "log_sum_exp"];
    /// What training asks for.
    const STEP: &[&str] = &["loss", "d_logits"];
    let base = Problem { c: 11, ..base(Op::Loss, ALL) };
    let step = Problem { detach: true, outputs: STEP, ..base.clone() };
    let mut all = vec![];
    for (name, element) in TYPES {
        all.push(with(&base, &format!("all-{name}"), |p| p.element = element));
        all.push(with(&step, &format!("step-b130-{name}"), |p| {
            (p.b, p.c, p.n, p.element) = (130, 70, 70, element);
        }));
    }
    for (name, draw) in DRAWS {
        if name != "paper" {
            all.push(with(&base, &format!("{name}-b64"), |p| (p.draw, p.b) = (draw, 64)));
        }
    }
    for (name, element) in [("f32", Element::F32), ("f16", Element::F16)] {
        all.push(with(&base, &format!("soft-{name}"), |p| {
            (p.targets, p.element) = (Targets::Soft, element);
        }));
        all.push(with(&base, &format!("n1100-{name}"), |p| {
            (p.b, p.r, p.n, p.element) = (3, 2, 1100, element);
        }));
        all.push(with(&step, &format!("b1600-{name}"), |p| {
            (p.b, p.r, p.n, p.element) = (MANY, 1, 20, element);
        }));
        all.push(with(&step, &format!("channels-first-{name}"), |p| {
            (p.order, p.element) = (Order::ChannelsFirst, element);
        }));
    }
    all.push(with(&base, "b3", |p| p.b = 3));
    all.push(with(&base, "positions-first", |p| p.order = Order::PositionsFirst));
    all.push(with(&base, "gapped-f16", |p| (p.order, p.element) = (Order::Gapped, Element::F16)));
    all.push(with(&base, "mean", |p| p.mean = true));
    all.push(with(&base, "mean-faint", |p| (p.mean, p.maps) = (true, Maps::Faint)));
    all.push(with(&base, "detached", |p| {
        (p.detach, p.outputs) = (true, &["loss", "kl", "d_logits", "per_mixture", "log_sum_exp"]);
    }));
    all.push(with(&base, "attention-only", |p| p.outputs = &["d_attention"]));
    all.push(with(&base, "no-maps", |p| {
        (p.maps, p.detach, p.outputs) = (Maps::None, true, &["loss", "kl", "d_logits"]);
    }));
    all.push(with(&base, "forward", |p| p.outputs = &["loss"]));
    all.push(with(&base, "forward-kl-soft", |p| (p.outputs, p.targets) = (&["loss", "kl"], Targets::Soft)));
    all.push(with(&base, "forward-b1600", |p| {
        (p.b, p.r, p.n, p.outputs) = (MANY, 1, 20, &["loss", "per_mixture"]);
    }));
    // Columns that are not kept come in chunks of 8192.
    all.push(with(&base, "forward-n8200", |p| {
        (p.b, p.r, p.c, p.n, p.outputs) = (3, 1, 3, 8200, &["loss", "log_sum_exp"]);
    }));
    all.push(with(&base, "upstream-f16", |p| (p.upstream, p.element) = (1024.0, Element::F16)));
    all.push(with(&base, "upstream-scalar", |p| (p.upstream, p.scalar) = (64.0, Some(-0.3))));
    all.push(with(&base, "masked", |p| p.masked = true));
    all.push(with(&base, "massless", |p| p.maps = Maps::Massless));
    all.push(with(&base, "empty-uniform", |p| p.maps = Maps::EmptyUniform));
    all.push(with(&base, "empty-left-out", |p| p.maps = Maps::EmptyLeftOut));
    all.push(with(&step, "device-seed", |p| p.device_seed = true));
    all
}
