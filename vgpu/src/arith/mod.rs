//! Arithmetic of PTX instructions over register bit patterns: pure functions, one lane at a time.
//!
//! A 32-bit register is a `u32`, a 64-bit register a `u64`, a 16-bit one a `u16`; packed types (`.f16x2`,
//! `.u16x2`) are `u32`. Functions of an instruction with modifiers take them as small `Copy` values
//! ([`Round`], [`F32Mode`], [`HalfMode`], [`Cmp`], ...) which the decoder fills in once; every function is
//! `#[inline]`, so a loop over lanes with a constant mode folds to the bare operation. The fused operations
//! are `mul_add`: inlined into a function compiled for a CPU with fused multiply-add they are one
//! instruction, elsewhere a call into the C library.
//!
//! | instructions | module | entry points |
//! |---|---|---|
//! | `add sub mul fma mad div rcp sqrt abs neg copysign min max testp` `.f32` | [`single`] | `add(a, b, mode)`, ... |
//! | the same, `.f64` | [`double`] | `add(a, b, round)`, ... |
//! | `add sub mul fma neg abs min max` `.f16 .bf16` and `x2` | [`half`] | `Half::F16.add(a, b, mode)`; `half::map2(a, b, op)` lifts to both halves |
//! | `ex2 lg2 rcp rsqrt sqrt sin cos tanh div` `.approx`, `div.full` | [`approx`] | `ex2(a, ftz, noise)`, ... |
//! | `setp set slct` and the comparison of `vset` | [`compare`] | [`Cmp`], `Cmp::f32(a, b, ftz)`, `Cmp::holds(a as i32, b as i32)`, ... |
//! | `cvt` between scalars | [`cvt`] | [`cvt::Cvt`] (`Cvt::apply(bits)`), hot pairs as functions |
//! | `cvt` to and from packed and narrow formats | [`narrow`] | `pack_half`, `to_tf32`, `pack_bytes`, `f16x2_from_bytes`, ... |
//! | integer arithmetic of every width | [`int`] | trait [`int::Int`]: `i32::mul_hi(a, b)`, ...; carries and wide products |
//! | `bfe bfi bfind fns szext bmsk shf prmt lop3 brev popc clz` | [`bits`] | free functions |
//! | `dp4a dp2a`, packed `.u16x2 .s16x2` | [`packed`] | free functions |
//! | `vadd .. vset`, `vmad`, `vadd2 .. vset4` | [`video`] | [`video::Scalar`], [`video::Simd`] |
//! | `mma.sync` | [`mma`] | [`mma::Mma`]: `Mma::new(..)` (`None`: not in the ISA), `execute(a, b, c, d)` over `[[u32; 32]]` registers |
//! | layouts of fragments | [`fragment`] | [`fragment::Shape`], [`fragment::Element`], [`fragment::Accumulator`] |
//! | `ldmatrix stmatrix movmatrix` | [`matrix`] | [`matrix::row_element`], [`matrix::transpose`] |
//! | `wmma.load wmma.store wmma.mma` | [`wmma`] | [`wmma::Fragment`] for addresses, [`wmma::product`] |
//!
//! Where the PTX ISA leaves a result open (NaN payloads of narrow types, integer division by zero) the
//! functions return what hardware is known to return: canonical NaN `0x7fffffff` (`0x7fff` for 16 bits), all
//! ones.

pub mod approx;
pub mod bits;
pub mod compare;
pub mod cvt;
pub mod double;
pub mod format;
pub mod fragment;
pub mod half;
pub mod int;
pub mod matrix;
pub mod mma;
pub mod narrow;
pub mod packed;
mod quad_pair;
pub mod single;
pub mod video;
pub mod wmma;

pub use approx::Noise;
pub use compare::Cmp;
pub use format::{Format, Round};
pub use half::{Half, HalfMode};
pub use single::F32Mode;
