//! Video instructions: scalar (`vadd` ... `vset`, `vmad`) and SIMD (`vadd2` ... `vset4`).
//!
//! NVRTC emits the SIMD forms for the `__vadd2`-style intrinsics of old targets; the scalar ones reach PTX by
//! inline assembly only. Both follow the pseudo-code of the PTX ISA in 64-bit integers.

use super::compare::Cmp;

/// Which part of a register a scalar video operand or destination is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The whole register.
    Word,
    /// `.b0` to `.b3`.
    Byte(u8),
    /// `.h0`, `.h1`.
    Half(u8),
}

impl Part {
    fn shift_and_bits(self) -> (u32, u32) {
        match self {
            Part::Word => (0, 32),
            Part::Byte(i) => (8 * u32::from(i & 3), 8),
            Part::Half(i) => (16 * u32::from(i & 1), 16),
        }
    }

    fn read(self, a: u32, signed: bool) -> i64 {
        let (shift, bits) = self.shift_and_bits();
        let unused = 32 - bits;
        let top = (a >> shift) << unused;
        if signed { i64::from(top as i32 >> unused) } else { i64::from(top >> unused) }
    }
}

/// The operation of a video instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// `vadd`
    Add,
    /// `vsub`
    Sub,
    /// `vabsdiff`
    AbsDiff,
    /// `vmin`
    Min,
    /// `vmax`
    Max,
    /// `vavrg` (SIMD only): the average, rounded up for non-negative sums.
    Average,
    /// `vset`
    Set(Cmp),
    /// `vshl` (scalar only); `wrap`: the amount modulo 32, else clamped.
    ShiftLeft {
        /// `.wrap`
        wrap: bool,
    },
    /// `vshr` (scalar only).
    ShiftRight {
        /// `.wrap`
        wrap: bool,
    },
}

impl Op {
    fn apply(self, a: i64, b: i64) -> i64 {
        let amount = |wrap: bool| if wrap { b & 31 } else { b.clamp(0, 32) };
        match self {
            Op::Add => a + b,
            Op::Sub => a - b,
            Op::AbsDiff => (a - b).abs(),
            Op::Min => a.min(b),
            Op::Max => a.max(b),
            Op::Average if a + b >= 0 => (a + b + 1) >> 1,
            Op::Average => (a + b) >> 1,
            Op::Set(cmp) => i64::from(cmp.holds(a, b)),
            Op::ShiftLeft { wrap } => a << amount(wrap),
            Op::ShiftRight { wrap } => a >> amount(wrap),
        }
    }
}

/// What a scalar video instruction does with its third operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secondary {
    /// No third operand.
    None,
    /// `.add`
    Add,
    /// `.min`
    Min,
    /// `.max`
    Max,
}

/// A scalar video instruction `vop.dtype.atype.btype{.sat}{.op2} d{.dsel}, a{.asel}, b{.bsel}{, c}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scalar {
    /// Operation.
    pub op: Op,
    /// `.dtype` is `.s32`.
    pub d_signed: bool,
    /// `.atype` is `.s32`.
    pub a_signed: bool,
    /// `.btype` is `.s32`.
    pub b_signed: bool,
    /// `.sat`
    pub sat: bool,
    /// `.asel`
    pub a_part: Part,
    /// `.bsel`
    pub b_part: Part,
    /// `.dsel`: merged into `c` unless it is the whole word.
    pub d_part: Part,
    /// `.op2`
    pub secondary: Secondary,
}

impl Scalar {
    /// Executes it; `c` counts only with a `.dsel` or `.op2`.
    pub fn apply(self, a: u32, b: u32, c: u32) -> u32 {
        let mut value = self.op.apply(self.a_part.read(a, self.a_signed), self.b_part.read(b, self.b_signed));
        let (shift, bits) = self.d_part.shift_and_bits();
        if self.sat {
            value = clamp(value, bits, self.d_signed);
        }
        if self.d_part != Part::Word {
            let mask = (u32::MAX >> (32 - bits)) << shift;
            return c & !mask | (value as u32) << shift & mask;
        }
        let d = value as u32;
        match (self.secondary, self.d_signed) {
            (Secondary::None, _) => d,
            (Secondary::Add, _) => d.wrapping_add(c),
            (Secondary::Min, false) => d.min(c),
            (Secondary::Max, false) => d.max(c),
            (Secondary::Min, true) => (d as i32).min(c as i32) as u32,
            (Secondary::Max, true) => (d as i32).max(c as i32) as u32,
        }
    }
}

fn clamp(value: i64, bits: u32, signed: bool) -> i64 {
    let (low, high) =
        if signed { (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1) } else { (0, (1i64 << bits) - 1) };
    value.clamp(low, high)
}

/// `vmad.dtype.atype.btype{.po}{.sat}{.scale} d, {-}a{.asel}, {-}b{.bsel}, {-}c`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mad {
    /// `.atype` is `.s32`.
    pub a_signed: bool,
    /// `.btype` is `.s32`.
    pub b_signed: bool,
    /// `.asel`
    pub a_part: Part,
    /// `.bsel`
    pub b_part: Part,
    /// Exactly one of `a` and `b` is negated.
    pub negate_product: bool,
    /// `c` is negated.
    pub negate_c: bool,
    /// `.po`: one is added.
    pub plus_one: bool,
    /// `.sat`
    pub sat: bool,
    /// Right shift of the result: 0, 7 or 15.
    pub scale: u32,
}

impl Mad {
    /// Executes it.
    pub fn apply(self, a: u32, b: u32, c: u32) -> u32 {
        let signed = self.a_signed || self.b_signed || self.negate_product || self.negate_c;
        let product =
            i128::from(self.a_part.read(a, self.a_signed)) * i128::from(self.b_part.read(b, self.b_signed));
        let product = if self.negate_product { -product } else { product };
        // The third operand has the sign of the intermediate result; its own negation makes only the end
        // signed.
        let c = if self.a_signed || self.b_signed || self.negate_product {
            i128::from(c as i32)
        } else {
            c.into()
        };
        let sum = product + if self.negate_c { -c } else { c } + i128::from(self.plus_one);
        let result = sum >> self.scale;
        if !self.sat {
            return result as u32;
        }
        let (low, high) = if signed { (i32::MIN.into(), i32::MAX.into()) } else { (0, u32::MAX.into()) };
        result.clamp(low, high) as u32
    }
}

/// A SIMD video instruction `vop2` / `vop4` on two halves or four bytes, with lane selectors, write mask and
/// merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Simd {
    /// Operation.
    pub op: Op,
    /// Lanes of a register: 2 or 4.
    pub lanes: u8,
    /// `.dtype` is `.s32` (decides saturation).
    pub d_signed: bool,
    /// `.atype` is `.s32`.
    pub a_signed: bool,
    /// `.btype` is `.s32`.
    pub b_signed: bool,
    /// `.sat`
    pub sat: bool,
    /// Which of the lanes of `b:a` (0 up, `a` first) each lane of the first operand takes; the default is 0,
    /// 1, ...
    pub a_select: [u8; 4],
    /// The same for the second operand; the default is the lanes of `b`.
    pub b_select: [u8; 4],
    /// Bit i: lane i is written (merge) or accumulated (`.add`).
    pub mask: u8,
    /// `.add`: the masked lanes are added to `c`; otherwise unmasked lanes come from `c`.
    pub accumulate: bool,
}

impl Simd {
    /// The instruction without selectors, mask, saturation and accumulation.
    pub fn new(op: Op, lanes: u8, d_signed: bool, a_signed: bool, b_signed: bool) -> Simd {
        let b_select = if lanes == 2 { [2, 3, 0, 0] } else { [4, 5, 6, 7] };
        Simd {
            op,
            lanes,
            d_signed,
            a_signed,
            b_signed,
            sat: false,
            a_select: [0, 1, 2, 3],
            b_select,
            mask: (1 << lanes) - 1,
            accumulate: false,
        }
    }

    /// Executes it.
    pub fn apply(self, a: u32, b: u32, c: u32) -> u32 {
        let bits = 32 / u32::from(self.lanes);
        let sources = u64::from(b) << 32 | u64::from(a);
        let lane = |select: u8, signed: bool| {
            let top = sources >> (bits * u32::from(select)) << (64 - bits);
            if signed { top as i64 >> (64 - bits) } else { (top >> (64 - bits)) as i64 }
        };
        let lane_mask = u32::MAX >> (32 - bits);
        let mut d = c;
        for i in 0..usize::from(self.lanes) {
            if self.mask >> i & 1 == 0 {
                continue;
            }
            let mut value =
                self.op.apply(lane(self.a_select[i], self.a_signed), lane(self.b_select[i], self.b_signed));
            if self.sat {
                value = clamp(value, bits, self.d_signed);
            }
            let shift = bits * i as u32;
            d = if self.accumulate {
                d.wrapping_add(value as u32)
            } else {
                d & !(lane_mask << shift) | (value as u32 & lane_mask) << shift
            };
        }
        d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Scalar = Scalar {
        op: Op::Add,
        d_signed: true,
        a_signed: true,
        b_signed: true,
        sat: false,
        a_part: Part::Word,
        b_part: Part::Word,
        d_part: Part::Word,
        secondary: Secondary::None,
    };

    #[test]
    fn scalar_parts_widen_and_saturate() {
        let bytes = Scalar { a_part: Part::Byte(0), b_part: Part::Half(1), ..PLAIN };
        assert_eq!(bytes.apply(0x0000_00ff, 0x8000_0000, 0) as i32, -1 - 32768);
        assert_eq!(Scalar { a_signed: false, ..bytes }.apply(0xff, 0, 0), 255);
        let sat = Scalar { sat: true, ..PLAIN };
        assert_eq!(sat.apply(i32::MAX as u32, 1, 0), i32::MAX as u32);
        assert_eq!(Scalar { d_signed: false, ..sat }.apply(-5i32 as u32, 1, 0), 0);
        assert_eq!(Scalar { op: Op::AbsDiff, ..PLAIN }.apply(-5i32 as u32, 7, 0), 12);
        assert_eq!(Scalar { op: Op::Max, secondary: Secondary::Add, ..PLAIN }.apply(3, 9, 100), 109);
        assert_eq!(
            Scalar { op: Op::Min, secondary: Secondary::Min, ..PLAIN }.apply(3, 9, -1i32 as u32) as i32,
            -1
        );
        assert_eq!(Scalar { d_part: Part::Byte(2), ..sat }.apply(100, 100, 0x1122_3344), 0x117f_3344);
        assert_eq!(Scalar { d_part: Part::Half(1), ..PLAIN }.apply(0x1_0001, 1, 0x1122_3344), 0x0002_3344);
        assert_eq!(Scalar { op: Op::Set(Cmp::LT), secondary: Secondary::Add, ..PLAIN }.apply(1, 2, 5), 6);
    }

    #[test]
    fn scalar_shifts_clamp_or_wrap() {
        let shl = |wrap| Scalar {
            op: Op::ShiftLeft { wrap },
            d_signed: false,
            a_signed: false,
            b_signed: false,
            ..PLAIN
        };
        assert_eq!((shl(false).apply(1, 40, 0), shl(true).apply(1, 40, 0)), (0, 256));
        let shr = Scalar { op: Op::ShiftRight { wrap: false }, b_signed: false, ..PLAIN };
        assert_eq!(shr.apply(-8i32 as u32, 1, 0) as i32, -4);
        assert_eq!(shr.apply(-8i32 as u32, 99, 0) as i32, -1);
    }

    #[test]
    fn multiply_add_follows_its_sign_table() {
        let plain = Mad {
            a_signed: false,
            b_signed: false,
            a_part: Part::Word,
            b_part: Part::Word,
            negate_product: false,
            negate_c: false,
            plus_one: false,
            sat: false,
            scale: 0,
        };
        assert_eq!(plain.apply(3, 5, 7), 22);
        assert_eq!(Mad { plus_one: true, scale: 7, ..plain }.apply(128, 2, 127), 3);
        assert_eq!(Mad { negate_product: true, ..plain }.apply(3, 5, 7) as i32, -8);
        assert_eq!(Mad { negate_c: true, sat: true, ..plain }.apply(u32::MAX, u32::MAX, 1), i32::MAX as u32);
        assert_eq!(Mad { sat: true, ..plain }.apply(u32::MAX, u32::MAX, 1), u32::MAX);
        assert_eq!(Mad { a_signed: true, scale: 15, ..plain }.apply(-1i32 as u32, 1 << 15, 0) as i32, -1);
        assert_eq!(
            Mad { negate_c: true, ..plain }.apply(0, 0, u32::MAX),
            1,
            "c is unsigned before its negation"
        );
    }

    #[test]
    fn simd_lanes_are_separate() {
        let add2 = Simd::new(Op::Add, 2, false, false, false);
        assert_eq!(add2.apply(0x0001_ffff, 0x0001_0001, 0), 0x0002_0000);
        assert_eq!(Simd { sat: true, ..add2 }.apply(0x0001_ffff, 0x0001_0001, 0), 0x0002_ffff);
        let add4 = Simd::new(Op::Add, 4, true, true, true);
        assert_eq!(Simd { sat: true, ..add4 }.apply(0x7f80_ff01, 0x01ff_0101, 0), 0x7f80_0002);
        let sad = Simd { accumulate: true, ..Simd::new(Op::AbsDiff, 4, false, false, false) };
        assert_eq!(sad.apply(0x0001_02ff, 0x0302_0100, 1000), 1000 + 3 + 1 + 1 + 255);
        let average = Simd::new(Op::Average, 4, true, true, true);
        assert_eq!(
            average.apply(0x0201_fffd, 0x0100_fffe, 0),
            0x0201_fffd,
            "halves round up, negative sums down"
        );
        let set = Simd::new(Op::Set(Cmp::GT), 4, false, false, false);
        assert_eq!(set.apply(0x0302_0100, 0x0202_0202, 0), 0x0100_0000);
        assert_eq!(Simd { mask: 0b0101, ..add4 }.apply(0x0101_0101, 0x0101_0101, 0xaabb_ccdd), 0xaa02_cc02);
        let swap = Simd {
            a_select: [3, 0, 0, 0],
            b_select: [2, 1, 0, 0],
            ..Simd::new(Op::Sub, 2, true, true, true)
        };
        assert_eq!(swap.apply(0x0005_0001, 0x0009_0002, 0), 0xfffc_0007);
    }
}
