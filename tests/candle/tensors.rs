//! What tensors the candle ops take: strides, types, and what they refuse.

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use multimix::candle;
use multimix::{Alpha, AttentionOptions, LossOptions, Mixing};

use crate::support::tensors::{assert_close, labels, tensor};

const B: usize = 6;
const R: usize = 4;
const D_: usize = 7;
const C: usize = 5;

fn mixing() -> Mixing {
    Mixing::dirichlet(33, Alpha::PAPER).seed(1).step(2)
}

fn loss(logits: &Tensor, attention: Option<&Tensor>) -> Result<Tensor> {
    candle::loss(logits, &labels(B, C)?, attention, &mixing(), &LossOptions::default())
}

/// The same values in other memory orders: transposed, permuted from channels-first, cut out of something
/// larger.
fn in_all_orders(x: &Tensor) -> Result<Vec<Tensor>> {
    let (b, r, c) = x.dims3()?;
    let transposed = x.transpose(1, 2)?.contiguous()?.transpose(1, 2)?;
    let position_major = x.transpose(0, 1)?.contiguous()?.transpose(0, 1)?;
    let padded = x.pad_with_zeros(0, 1, 2)?.pad_with_zeros(1, 2, 1)?.pad_with_zeros(2, 3, 1)?;
    let narrowed = padded.narrow(0, 1, b)?.narrow(1, 2, r)?.narrow(2, 3, c)?;
    Ok(vec![transposed, position_major, narrowed])
}

#[test]
fn memory_order_changes_nothing() -> Result<()> {
    let logits = (tensor((B, R, C), 1)? * 3.0)?;
    let attention = candle::attention(&logits, None, &AttentionOptions::default())?;
    let value = loss(&logits, Some(&attention))?;
    let mixed = candle::mix(&logits, Some(&attention), &mixing())?;
    for other in in_all_orders(&logits)? {
        assert!(!other.is_contiguous());
        assert_close(&candle::attention(&other, None, &AttentionOptions::default())?, &attention, 0.0)?;
        assert_close(&loss(&other, Some(&attention))?, &value, 0.0)?;
        assert_close(&candle::mix(&other, Some(&attention), &mixing())?, &mixed, 0.0)?;
    }
    let transposed = attention.t()?.contiguous()?.t()?;
    assert_close(&loss(&logits, Some(&transposed))?, &value, 0.0)
}

/// Features, attention, rows and weights in all memory orders, repeated ones among them: the gradients are
/// those of copies.
#[test]
fn memory_order_changes_no_gradient() -> Result<()> {
    let x = Var::from_tensor(&(tensor((B, R, C), 1)? * 3.0)?)?;
    let a = Var::from_tensor(&(tensor((B, R), 2)?.abs()? + 0.1)?)?;
    let y = Var::from_tensor(&tensor((B, C), 3)?.abs()?)?;
    let options = LossOptions { detach_attention: false, ..LossOptions::default() };
    let run = |x_view: &Tensor, a_view: &Tensor, y_view: &Tensor| -> Result<Vec<Tensor>> {
        let loss = candle::loss(x_view, y_view, Some(a_view), &mixing(), &options)?;
        let mixed = candle::mix(x_view, Some(a_view), &mixing())?;
        let targets = candle::mix_targets(y_view, C, R, Some(a_view), &mixing())?;
        let maps = candle::attention(x_view, None, &AttentionOptions::default())?;
        // Gradients come back to the ops transposed, too.
        let products = mixed.transpose(0, 2)?.mul(&targets.transpose(0, 2)?.exp()?)?.sum_all()?;
        let sum = ((loss + products)? + maps.t()?.sqr()?.sum_all()?)?;
        let gradients = sum.backward()?;
        [&x, &a, &y].into_iter().map(|variable| Ok(gradients.get(variable).unwrap().clone())).collect()
    };
    let wanted = run(&x, &a, &y)?;
    let transposed_a = a.t()?.contiguous()?.t()?;
    let transposed_y = y.t()?.contiguous()?.t()?;
    for x in in_all_orders(&x)? {
        for (given, wanted) in run(&x, &transposed_a, &transposed_y)?.iter().zip(&wanted) {
            assert_close(given, wanted, 1e-5)?;
        }
    }
    // One example seen B times: its gradient is the sum of theirs.
    let (x0, a0, y0) = (x.narrow(0, 0, 1)?, a.narrow(0, 0, 1)?, y.narrow(0, 0, 1)?);
    let views = [x0.broadcast_as((B, R, C))?, a0.broadcast_as((B, R))?, y0.broadcast_as((B, C))?];
    let copies = [x0.repeat((B, 1, 1))?, a0.repeat((B, 1))?, y0.repeat((B, 1))?];
    let [given, wanted] = [views, copies].map(|[x, a, y]| run(&x, &a, &y));
    for (given, wanted) in given?.iter().zip(&wanted?) {
        assert_close(given, wanted, 1e-5)?;
    }
    Ok(())
}

#[test]
fn gradients_reach_through_strides() -> Result<()> {
    let map = Var::from_tensor(&tensor((B, C, 2, 2), 1)?)?;
    let features = candle::positions(&map)?;
    assert_eq!(features.dims(), [B, R, C]);
    let copied = map.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
    assert_close(&features, &copied, 0.0)?;
    let (strided, contiguous) = (loss(&features, None)?.backward()?, loss(&copied, None)?.backward()?);
    assert_close(strided.get(&map).unwrap(), contiguous.get(&map).unwrap(), 0.0)
}

#[test]
fn positions_of_a_channels_last_map_are_no_copy() -> Result<()> {
    let nhwc = tensor((B, 2, 2, C), 1)?;
    let features = candle::positions(&nhwc.permute((0, 3, 1, 2))?)?;
    assert!(features.is_contiguous());
    assert_close(&features, &nhwc.reshape((B, R, C))?, 0.0)?;
    assert!(candle::positions(&nhwc.i(0)?).is_err());
    Ok(())
}

/// Maps (b, d, h, w) in the memory orders that encoders leave them in.
fn maps() -> Result<Vec<(&'static str, Tensor)>> {
    let map = tensor((B, D_, 2, 3), 1)?;
    let channels_last = map.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2))?;
    let turned = map.transpose(2, 3)?.contiguous()?.transpose(2, 3)?;
    let cut = map.pad_with_zeros(0, 1, 1)?.pad_with_zeros(1, 2, 1)?.pad_with_zeros(3, 0, 2)?;
    let cut = cut.narrow(0, 1, B)?.narrow(1, 2, D_)?.narrow(3, 0, 3)?;
    let repeated = map.narrow(0, 0, 1)?.broadcast_as((B, D_, 2, 3))?;
    let pooled = map.narrow(2, 0, 1)?.narrow(3, 0, 1)?;
    let (width, height) = (map.narrow(2, 0, 1)?, map.narrow(3, 0, 1)?);
    let orders = ["contiguous", "channels last", "turned", "cut", "repeated", "1x1", "1x3", "2x1"];
    Ok(orders.into_iter().zip([map, channels_last, turned, cut, repeated, pooled, width, height]).collect())
}

fn wide(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// S (b, r, c), dW (c, d) and d map (b, d, h, w) of a linear head, by plain loops, from dS.
fn plain_head(map: &Tensor, weight: &Tensor, d_logits: &Tensor) -> Result<[Vec<f64>; 3]> {
    let ((b, d, h, w), c) = (map.dims4()?, weight.dim(0)?);
    let (r, z, weight, d_logits) = (h * w, wide(map)?, wide(weight)?, wide(d_logits)?);
    let (mut s, mut dw, mut dz) = (vec![0.0; b * r * c], vec![0.0; c * d], vec![0.0; b * d * r]);
    for (i, j) in (0..b).flat_map(|i| (0..r).map(move |j| (i, j))) {
        for (y, x) in (0..c).flat_map(|y| (0..d).map(move |x| (y, x))) {
            let (at_s, at_z, at_w) = ((i * r + j) * c + y, (i * d + x) * r + j, y * d + x);
            s[at_s] += z[at_z] * weight[at_w];
            dw[at_w] += d_logits[at_s] * z[at_z];
            dz[at_z] += d_logits[at_s] * weight[at_w];
        }
    }
    Ok([s, dw, dz])
}

/// candle 0.11 multiplies transposed features by a repeated weight wrongly (its pull request 3758): those of
/// `positions` are not.
#[test]
fn linear_heads_on_positions_are_those_of_plain_loops() -> Result<()> {
    type Head = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let heads: [(&str, Head); 4] = [
        ("Linear", |z, w| z.apply(&candle_nn::Linear::new(w.clone(), None))),
        ("broadcast_matmul", |z, w| z.broadcast_matmul(&w.t()?)),
        ("matmul of a repeated weight", |z, w| z.matmul(&w.broadcast_left(z.dim(0)?)?.t()?)),
        ("matmul of rows", |z, w| {
            z.flatten_to(1)?.matmul(&w.t()?)?.reshape((z.dim(0)?, z.dim(1)?, w.dim(0)?))
        }),
    ];
    let options = AttentionOptions::default();
    for (order, map) in maps()? {
        let weight = Var::from_tensor(&tensor((C, D_), 2)?)?;
        let leaf = Var::from_tensor(&Tensor::zeros(map.shape(), DType::F32, &Device::Cpu)?)?;
        for (name, head) in heads {
            // Tracked, and in the memory order of the map.
            let tracked = map.add(&leaf)?;
            let tracked = if order == "contiguous" { tracked } else { in_order_of(&tracked, order)? };
            let features = candle::positions(&tracked)?;
            let attention = candle::attention(&features.detach(), None, &options)?;
            let logits = head(&features, &weight)?;
            let constant = Var::from_tensor(&logits)?;
            let d_logits = loss(&constant, Some(&attention))?.backward()?;
            let wanted = plain_head(&map, &weight, d_logits.get(&constant).unwrap())?;
            let gradients = loss(&logits, Some(&attention))?.backward()?;
            let given = [&logits, gradients.get(&weight).unwrap(), gradients.get(&leaf).unwrap()];
            for ((given, wanted), what) in given.into_iter().zip(&wanted).zip(["S", "dW", "dZ"]) {
                let size = wanted.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
                for (given, wanted) in wide(given)?.iter().zip(wanted) {
                    let error = (given - wanted).abs();
                    assert!(error <= 1e-5 * size, "{name}, {order}, {what}: {given}, not {wanted}");
                }
            }
        }
    }
    Ok(())
}

/// The same values in a memory order of [`maps`], on the tape.
fn in_order_of(map: &Tensor, order: &str) -> Result<Tensor> {
    match order {
        "channels last" => map.permute((0, 2, 3, 1))?.contiguous()?.permute((0, 3, 1, 2)),
        "turned" => map.transpose(2, 3)?.contiguous()?.transpose(2, 3),
        _ => map.pad_with_zeros(1, 2, 1)?.narrow(1, 2, map.dim(1)?),
    }
}

#[test]
fn half_types_go_through_with_gradients_of_their_type() -> Result<()> {
    for (dtype, rounding) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        let logits = Var::from_tensor(&(tensor((B, R, C), 1)? * 3.0)?.to_dtype(dtype)?)?;
        let widened = Var::from_tensor(&logits.to_dtype(DType::F32)?)?;
        let (half, full) = (loss(&logits, None)?, loss(&widened, None)?);
        assert_eq!(half.dtype(), DType::F32);
        assert_close(&half, &full, 1e-6)?;
        let (half, full) = (half.backward()?, full.backward()?);
        let gradient = half.get(&logits).unwrap();
        assert_eq!(gradient.dtype(), dtype);
        // Gradients are small: compare what they are scaled up to their size.
        let scale =
            1.0 / f64::from(full.get(&widened).unwrap().abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?);
        let scaled = |x: &Tensor| x.to_dtype(DType::F32)? * scale;
        assert_close(&scaled(gradient)?, &scaled(full.get(&widened).unwrap())?, rounding)?;

        let features = logits.as_tensor();
        let mixed = candle::mix(features, None, &mixing())?;
        assert_eq!(mixed.dtype(), dtype);
        assert_close(&mixed, &candle::mix(&widened, None, &mixing())?, rounding)?;
        let attention = candle::attention(features, None, &AttentionOptions::default())?;
        assert_eq!(attention.dtype(), DType::F32);
        let wanted = candle::attention(&widened, None, &AttentionOptions::default())?;
        assert_close(&attention, &wanted, 1e-5)?;
        let gradient = attention.i((.., 0))?.sum_all()?.backward()?;
        assert_eq!(gradient.get(&logits).unwrap().dtype(), dtype);
    }
    Ok(())
}

#[test]
fn loss_scaling_saves_gradients_below_the_range_of_f16() -> Result<()> {
    // One label, logits that all but decide for it: gradients near 1e-8, which f16 holds only when scaled.
    let logits = Tensor::from_vec([[18f32, 0.0], [18.0, 0.0]].concat(), (2, 2), &Device::Cpu)?;
    let logits = Var::from_tensor(&logits.to_dtype(DType::F16)?)?;
    let labels = Tensor::new(&[0u32, 0], &Device::Cpu)?;
    let loss = candle::loss(&logits, &labels, None, &mixing(), &LossOptions::default())?;
    let gradients = (loss * 65536.0)?.backward()?;
    // Of the other class: the probability e⁻¹⁸, of which each of the two examples gets about half.
    let gradient = gradients.get(&logits).unwrap().i((0, 1))?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    let wanted = 65536.0 * (-18f32).exp() / 2.0;
    assert!(gradient > 0.8 * wanted && gradient < 1.2 * wanted, "{gradient}, not about {wanted}");
    Ok(())
}
