//! The host's own floating-point unit under each rounding direction: an oracle that shares nothing with the
//! emulator.

#![allow(dead_code, reason = "each test crate uses a part")]

use std::arch::asm;

/// The four directions as PTX names them, with the rounding-control field of MXCSR.
pub const DIRECTIONS: [(&str, u32); 4] = [("rn", 0), ("rm", 1), ("rp", 2), ("rz", 3)];

/// MXCSR with all exceptions masked and the given rounding control.
const fn control(direction: u32) -> u32 {
    0x1f80 | direction << 13
}

macro_rules! binary {
    ($name:ident, $t:ty, $instruction:literal) => {
        pub fn $name(mut a: $t, b: $t, direction: u32) -> $t {
            let (control, mut saved) = (control(direction), 0u32);
            // SAFETY: MXCSR is restored before the block ends, the operation itself traps on nothing.
            unsafe {
                asm!(
                    "stmxcsr [{saved}]", "ldmxcsr [{control}]",
                    concat!($instruction, " {a}, {b}"),
                    "ldmxcsr [{saved}]",
                    saved = in(reg) &raw mut saved, control = in(reg) &raw const control,
                    a = inout(xmm_reg) a, b = in(xmm_reg) b,
                );
            }
            a
        }
    };
}

binary!(add_f32, f32, "addss");
binary!(sub_f32, f32, "subss");
binary!(mul_f32, f32, "mulss");
binary!(div_f32, f32, "divss");
binary!(add_f64, f64, "addsd");
binary!(sub_f64, f64, "subsd");
binary!(mul_f64, f64, "mulsd");
binary!(div_f64, f64, "divsd");
binary!(sqrt_second_f32, f32, "sqrtss");
binary!(sqrt_second_f64, f64, "sqrtsd");
binary!(narrow_second, f64, "cvtsd2ss");

pub fn sqrt_f32(a: f32, direction: u32) -> f32 {
    sqrt_second_f32(0.0, a, direction)
}

pub fn sqrt_f64(a: f64, direction: u32) -> f64 {
    sqrt_second_f64(0.0, a, direction)
}

/// A double rounded to single precision.
pub fn narrow(a: f64, direction: u32) -> f32 {
    f32::from_bits(narrow_second(0.0, a, direction).to_bits() as u32)
}

macro_rules! fused {
    ($name:ident, $t:ty, $instruction:literal) => {
        /// `a · b + c`; the host must have FMA.
        pub fn $name(mut a: $t, b: $t, c: $t, direction: u32) -> $t {
            assert!(is_x86_feature_detected!("fma"), "the oracle needs a host with FMA");
            let (control, mut saved) = (control(direction), 0u32);
            // SAFETY: as above; FMA was found.
            unsafe {
                asm!(
                    "stmxcsr [{saved}]", "ldmxcsr [{control}]",
                    concat!($instruction, " {a}, {b}, {c}"),
                    "ldmxcsr [{saved}]",
                    saved = in(reg) &raw mut saved, control = in(reg) &raw const control,
                    a = inout(xmm_reg) a, b = in(xmm_reg) b, c = in(xmm_reg) c,
                );
            }
            a
        }
    };
}

fused!(fma_f32, f32, "vfmadd213ss");
fused!(fma_f64, f64, "vfmadd213sd");
