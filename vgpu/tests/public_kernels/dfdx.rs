//! dfdx: element-wise operations with their gradients, optimizers, losses.

use crate::Case;
use crate::bench::{Bench, threads};
use crate::launch;
use crate::values::{Real, agree, erf, spread};
use half::f16;

const COUNT: usize = 1000;

/// A unary operation: f and its derivative, in double precision.
#[derive(Clone, Copy)]
struct Unary {
    /// Folder and file in the crate.
    file: &'static str,
    /// Kernels are `<name>_fwd_<type>` and `<name>_bwd_<type>`.
    name: &'static str,
    /// The operation's scalars; the struct is empty (one byte) without.
    scalars: &'static [f64],
    range: (f64, f64),
    /// f(x, scalars)
    forward: fn(f64, &[f64]) -> f64,
    /// f'(x, y = f(x), scalars)
    backward: fn(f64, f64, &[f64]) -> f64,
    /// Rounding steps of the kernel, in units of the type's last place.
    ulps: f64,
}

const fn unary(
    file: &'static str,
    name: &'static str,
    range: (f64, f64),
    forward: fn(f64, &[f64]) -> f64,
    backward: fn(f64, f64, &[f64]) -> f64,
) -> Unary {
    Unary { file, name, scalars: &[], range, forward, backward, ulps: 8.0 }
}

const GELU: f64 = 0.797_884_560_802_865_4;

fn gelu_inner(x: f64) -> f64 {
    GELU * (x + 0.044715 * x.powi(3))
}

fn gelu_backward(x: f64) -> f64 {
    let tanh = gelu_inner(x).tanh();
    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * GELU * (1.0 + 3.0 * 0.044715 * x * x)
}

const UNARY: [Unary; 21] = [
    unary(
        "abs/abs.cu",
        "abs",
        (-3.0, 3.0),
        |x, _| x.abs(),
        |x, _, _| if x == 0.0 { 0.0 } else { x.signum() },
    ),
    unary("cos/cos.cu", "cos", (-9.0, 9.0), |x, _| x.cos(), |x, _, _| -x.sin()),
    unary("sin/sin.cu", "sin", (-9.0, 9.0), |x, _| x.sin(), |x, _, _| x.cos()),
    unary("exp/exp.cu", "exp", (-5.0, 5.0), |x, _| x.exp(), |_, y, _| y),
    unary("ln/ln.cu", "ln", (0.1, 9.0), |x, _| x.ln(), |x, _, _| 1.0 / x),
    unary("negate/negate.cu", "negate", (-3.0, 3.0), |x, _| -x, |_, _, _| -1.0),
    unary("recip/recip.cu", "recip", (0.2, 5.0), |x, _| 1.0 / x, |_, y, _| -y * y),
    unary("relu/relu.cu", "relu", (-2.0, 2.0), |x, _| x.max(0.0), |x, _, _| if x > 0.0 { 1.0 } else { 0.0 }),
    unary(
        "sigmoid/sigmoid.cu",
        "sigmoid",
        (-6.0, 6.0),
        |x, _| 1.0 / (1.0 + (-x).exp()),
        |_, y, _| y * (1.0 - y),
    ),
    unary("sqrt/sqrt.cu", "sqrt", (0.1, 9.0), |x, _| x.sqrt(), |_, y, _| 0.5 / y),
    unary("square/square.cu", "square", (-3.0, 3.0), |x, _| x * x, |x, _, _| 2.0 * x),
    unary("tanh/tanh.cu", "tanh", (-4.0, 4.0), |x, _| x.tanh(), |_, y, _| 1.0 - y * y),
    Unary {
        ulps: 24.0,
        ..unary(
            "fast_gelu/fast_gelu.cu",
            "fast_gelu",
            (-3.0, 3.0),
            |x, _| 0.5 * x * (1.0 + gelu_inner(x).tanh()),
            |x, _, _| gelu_backward(x),
        )
    },
    Unary {
        ulps: 16.0,
        ..unary(
            "accurate_gelu/accurate_gelu.cu",
            "accurate_gelu",
            (-3.0, 3.0),
            |x, _| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            // As the kernel has it: twice the density that the derivative of the error function gives.
            |x, _, _| {
                0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
                    + 0.5 * x * std::f64::consts::FRAC_2_SQRT_PI * (-0.5 * x * x).exp()
            },
        )
    },
    Unary {
        scalars: &[-0.5, 1.25],
        ..unary(
            "clamp/clamp.cu",
            "clamp",
            (-2.0, 2.0),
            |x, s| x.clamp(s[0], s[1]),
            |x, _, s| f64::from(u8::from(x >= s[0] && x <= s[1])),
        )
    },
    Unary {
        scalars: &[0.75],
        ..unary(
            "nans_to/nans_to.cu",
            "nans_to",
            (-2.0, 2.0),
            |x, s| if x.is_nan() { s[0] } else { x },
            |x, _, _| if x.is_nan() { 0.0 } else { 1.0 },
        )
    },
    Unary {
        scalars: &[2.5],
        ulps: 24.0,
        ..unary("pow/pow.cu", "pow", (0.2, 3.0), |x, s| x.powf(s[0]), |x, _, s| s[0] * x.powf(s[0] - 1.0))
    },
    Unary {
        scalars: &[0.375],
        ..unary("add/scalar_add.cu", "sadd", (-3.0, 3.0), |x, s| x + s[0], |_, _, _| 1.0)
    },
    Unary {
        scalars: &[0.375],
        ..unary("sub/scalar_sub.cu", "ssub", (-3.0, 3.0), |x, s| x - s[0], |_, _, _| 1.0)
    },
    Unary {
        scalars: &[1.75],
        ..unary("mul/scalar_mul.cu", "smul", (-3.0, 3.0), |x, s| x * s[0], |_, _, s| s[0])
    },
    Unary {
        scalars: &[1.75],
        ..unary("div/scalar_div.cu", "sdiv", (-3.0, 3.0), |x, s| x / s[0], |_, _, s| 1.0 / s[0])
    },
];

/// Runs `launch!` with the operation's struct: nothing (an empty struct is a byte), one scalar, or two.
macro_rules! with_scalars {
    ($scalars:expr, $op:ident => $launch:expr) => {
        match $scalars.as_slice() {
            [] => {
                let $op = &0u8;
                $launch
            }
            [one] => {
                let $op = one;
                $launch
            }
            [low, high] => {
                let pair = Pair(*low, *high);
                let $op = &pair;
                $launch
            }
            _ => unreachable!("operations have at most two scalars"),
        }
    };
}

#[repr(C)]
struct Pair<T>(T, T);
// SAFETY: two plain numbers, laid out as C++ lays out a struct of them.
unsafe impl<T: Real> cudarc::driver::DeviceRepr for Pair<T> {}

fn unary_inputs<T: Real>(op: Unary) -> Vec<T> {
    let mut inputs = spread::<T>(COUNT, op.range.0, op.range.1, 1);
    if op.name == "nans_to" {
        inputs.iter_mut().step_by(7).for_each(|x| *x = T::from_f64(f64::NAN));
    }
    inputs
}

fn forward<T: Real>(bench: &Bench, op: Unary) -> Result<(), String> {
    let kernel =
        bench.kernel("dfdx", &format!("tensor_ops/{}", op.file), &format!("{}_fwd_{}", op.name, T::NAME))?;
    let scalars: Vec<T> = op.scalars.iter().map(|&s| T::from_f64(s)).collect();
    let inputs = unary_inputs::<T>(op);
    let device = bench.upload(&inputs)?;
    let mut out = bench.zeros::<T>(COUNT)?;
    with_scalars!(scalars, op => launch!(bench, kernel, threads(COUNT), op, &COUNT, &device, &mut out));
    let scalars: Vec<f64> = scalars.into_iter().map(Real::to_f64).collect();
    let expected: Vec<f64> = inputs.iter().map(|x| (op.forward)(x.to_f64(), &scalars)).collect();
    agree(&bench.download(&out)?, &expected, op.ulps)
}

fn backward<T: Real>(bench: &Bench, op: Unary) -> Result<(), String> {
    let kernel =
        bench.kernel("dfdx", &format!("tensor_ops/{}", op.file), &format!("{}_bwd_{}", op.name, T::NAME))?;
    let scalars: Vec<T> = op.scalars.iter().map(|&s| T::from_f64(s)).collect();
    let inputs = unary_inputs::<T>(op);
    let exact: Vec<f64> = scalars.iter().map(|s| s.to_f64()).collect();
    let outputs: Vec<T> = inputs.iter().map(|x| T::from_f64((op.forward)(x.to_f64(), &exact))).collect();
    let gradients = spread::<T>(COUNT, -1.0, 1.0, 2);
    let start = spread::<T>(COUNT, -1.0, 1.0, 3);
    let [x, y, dy] = [bench.upload(&inputs)?, bench.upload(&outputs)?, bench.upload(&gradients)?];
    let mut dx = bench.upload(&start)?;
    with_scalars!(scalars, op => launch!(bench, kernel, threads(COUNT), op, &COUNT, &x, &mut dx, &y, &dy));
    let expected: Vec<f64> = (0..COUNT)
        .map(|i| {
            let slope = (op.backward)(inputs[i].to_f64(), outputs[i].to_f64(), &exact);
            start[i].to_f64() + slope * gradients[i].to_f64()
        })
        .collect();
    // The slope is rounded too, and may be up to 25 (1/x² of 0.2).
    agree(&bench.download(&dx)?, &expected, 8.0 * op.ulps)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Adam {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    decay_type: u32,
    decay: f64,
}
// SAFETY: plain numbers, laid out as C++ lays out the kernel's struct.
unsafe impl cudarc::driver::DeviceRepr for Adam {}

fn adam<T: Real>(bench: &Bench, decay_type: u32) -> Result<(), String> {
    let kernel = bench.kernel("dfdx", "tensor_ops/adam/adam.cu", &format!("adam_update_{}", T::NAME))?;
    let cfg = Adam { lr: 0.01, beta1: 0.875, beta2: 0.96875, eps: 1e-3, decay_type, decay: 0.125 };
    let param = spread::<T>(COUNT, -1.0, 1.0, 1);
    let m = spread::<T>(COUNT, -0.5, 0.5, 2);
    let v = spread::<T>(COUNT, 0.1, 0.5, 3);
    let grad = spread::<T>(COUNT, -1.0, 1.0, 4);
    let step = 5i32;
    let [mut p_dev, mut m_dev, mut v_dev] = [bench.upload(&param)?, bench.upload(&m)?, bench.upload(&v)?];
    let g_dev = bench.upload(&grad)?;
    launch!(bench, kernel, threads(COUNT), &cfg, &COUNT, &step, &mut p_dev, &mut m_dev, &mut v_dev, &g_dev);
    let mut expected = [vec![], vec![], vec![]];
    for i in 0..COUNT {
        let [p, m, v, g] = [&param, &m, &v, &grad].map(|list| list[i].to_f64());
        let g = if decay_type == 1 { g + cfg.decay * p } else { g };
        let m = m * cfg.beta1 + g * (1.0 - cfg.beta1);
        let v = v * cfg.beta2 + g * g * (1.0 - cfg.beta2);
        let (m_hat, v_hat) = (m / (1.0 - cfg.beta1.powi(step)), v / (1.0 - cfg.beta2.powi(step)));
        let update = cfg.lr * m_hat / (v_hat.sqrt() + cfg.eps);
        let update = if decay_type == 2 { update + cfg.decay * cfg.lr * p } else { update };
        for (list, value) in expected.iter_mut().zip([p - update, m, v]) {
            list.push(value);
        }
    }
    for (device, expected) in [p_dev, m_dev, v_dev].iter().zip(&expected) {
        agree(&bench.download(device)?, expected, 16.0)?;
    }
    Ok(())
}

fn axpy<T: Real>(bench: &Bench) -> Result<(), String> {
    let kernel = bench.kernel("dfdx", "tensor_ops/axpy/axpy.cu", &format!("axpy_{}", T::NAME))?;
    let (a, b) = (spread::<T>(COUNT, -2.0, 2.0, 1), spread::<T>(COUNT, -2.0, 2.0, 2));
    let (alpha, beta) = (T::from_f64(0.75), T::from_f64(-1.5));
    let mut a_dev = bench.upload(&a)?;
    let b_dev = bench.upload(&b)?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &mut a_dev, &alpha, &b_dev, &beta);
    let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 0.75 * a.to_f64() - 1.5 * b.to_f64()).collect();
    agree(&bench.download(&a_dev)?, &expected, 4.0)
}

fn dropout<T: Real>(bench: &Bench) -> Result<(), String> {
    let file = "tensor_ops/dropout/dropout.cu";
    let prob = T::from_f64(0.25);
    let inputs = spread::<T>(COUNT, -2.0, 2.0, 1);
    let mask: Vec<u8> = (0..COUNT).map(|i| u8::from(i * 7 % 5 < 2)).collect();
    let (x, dropped) = (bench.upload(&inputs)?, bench.upload(&mask)?);
    let mut out = bench.zeros::<T>(COUNT)?;
    let kernel = bench.kernel("dfdx", file, &format!("dropout_fwd_{}", T::NAME))?;
    launch!(bench, kernel, threads(COUNT), &prob, &COUNT, &x, &dropped, &mut out);
    let keep = |i: usize| if mask[i] == 1 { 0.0 } else { inputs[i].to_f64() / 0.75 };
    let expected: Vec<f64> = (0..COUNT).map(keep).collect();
    agree(&bench.download(&out)?, &expected, 4.0)?;
    let mut gradient = bench.upload(&inputs)?;
    let kernel = bench.kernel("dfdx", file, &format!("dropout_bwd_{}", T::NAME))?;
    launch!(bench, kernel, threads(COUNT), &prob, &COUNT, &dropped, &mut gradient, &x);
    let expected: Vec<f64> = (0..COUNT).map(|i| inputs[i].to_f64() + keep(i)).collect();
    agree(&bench.download(&gradient)?, &expected, 4.0)
}

/// Cases of all three types of an operation.
fn typed(
    name: &str,
    f16: impl Fn(&Bench) -> Result<(), String> + Send + 'static,
    f32: impl Fn(&Bench) -> Result<(), String> + Send + 'static,
    f64: impl Fn(&Bench) -> Result<(), String> + Send + 'static,
) -> [Case; 3] {
    [
        Case::new(format!("dfdx::{name}_f16"), f16),
        Case::new(format!("dfdx::{name}_f32"), f32),
        Case::new(format!("dfdx::{name}_f64"), f64),
    ]
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for op in UNARY {
        let name = op.name;
        cases.extend(typed(
            &format!("{name}_fwd"),
            move |b| forward::<f16>(b, op),
            move |b| forward::<f32>(b, op),
            move |b| forward::<f64>(b, op),
        ));
        cases.extend(typed(
            &format!("{name}_bwd"),
            move |b| backward::<f16>(b, op),
            move |b| backward::<f32>(b, op),
            move |b| backward::<f64>(b, op),
        ));
    }
    cases.extend(typed("axpy", axpy::<f16>, axpy::<f32>, axpy::<f64>));
    cases.extend(typed("dropout", dropout::<f16>, dropout::<f32>, dropout::<f64>));
    for decay in 0..3 {
        cases.push(Case::new(format!("dfdx::adam_update_f32 decay {decay}"), move |b| adam::<f32>(b, decay)));
        cases.push(Case::new(format!("dfdx::adam_update_f64 decay {decay}"), move |b| adam::<f64>(b, decay)));
    }
    cases
}
