//! Lifts scalar functions to the 32 lanes of a warp.
//!
//! A register of a warp is a row: 32 cells of 32 bits (also for 16-bit registers, zero-extended), or two rows
//! holding 32 cells of 64 bits. A lifted function computes all lanes and keeps those under the mask, so that
//! it vectorises; each is compiled twice, once for the AVX2 and FMA that nearly every x86-64 host has.

use crate::arith::Noise;

/// Threads of a warp.
pub(crate) const LANES: usize = 32;

/// Index of a register's first row in its frame.
pub(crate) type Row = u32;

/// Destination and sources of a lifted function.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Args {
    pub(crate) d: Row,
    pub(crate) s: [Row; 4],
}

/// The registers of a frame, as the lifted functions see them.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    words: *mut u32,
    preds: *mut u32,
    /// Errors of the approximate units.
    pub(crate) noise: Noise,
}

impl Rows {
    /// # Safety
    /// `words` must point to as many rows, 64-byte aligned, and `preds` to as many words as the frame of
    /// every instruction that is run on the result declares.
    pub(crate) unsafe fn new(words: *mut u32, preds: *mut u32, noise: Noise) -> Rows {
        Rows { words, preds, noise }
    }

    /// # Safety
    /// `row` must be a register of the frame whose width is that of `T`.
    #[inline(always)]
    pub(crate) unsafe fn load<T: Copy>(self, row: Row) -> [T; LANES] {
        // SAFETY: the decoder hands out rows inside the frame only; rows are 128-byte aligned.
        unsafe { self.words.add(row as usize * LANES).cast::<[T; LANES]>().read() }
    }

    /// # Safety
    /// As for [`Rows::load`].
    #[inline(always)]
    pub(crate) unsafe fn store<T: Copy>(self, row: Row, value: [T; LANES]) {
        // SAFETY: as in `load`.
        unsafe { self.words.add(row as usize * LANES).cast::<[T; LANES]>().write(value) }
    }

    /// # Safety
    /// `index` must be a predicate of the frame.
    #[inline(always)]
    pub(crate) unsafe fn pred(self, index: u32) -> u32 {
        // SAFETY: the decoder hands out predicates inside the frame only.
        unsafe { *self.preds.add(index as usize) }
    }

    /// Sets a predicate for the lanes under `mask`.
    ///
    /// # Safety
    /// `index` must be a predicate of the frame.
    #[inline(always)]
    pub(crate) unsafe fn set_pred(self, index: u32, value: u32, mask: u32) {
        // SAFETY: as in `pred`.
        unsafe {
            let cell = self.preds.add(index as usize);
            *cell = *cell & !mask | value & mask;
        }
    }
}

/// An instruction lifted to a warp: writes the destination row of the lanes under the mask.
pub(crate) type LaneOp = Box<dyn Fn(Rows, &Args, u32) + Send + Sync>;

/// A comparison lifted to a warp: a bit per lane.
pub(crate) type TestOp = Box<dyn Fn(Rows, &Args) -> u32 + Send + Sync>;

/// A type that registers hold.
pub(crate) trait Lane: Copy {
    /// What it is stored as.
    type Cell: Copy + Default;
    fn get(cell: Self::Cell) -> Self;
    fn put(self) -> Self::Cell;
}

macro_rules! lanes {
    ($($t:ty, $cell:ty);*) => {$(
        impl Lane for $t {
            type Cell = $cell;
            #[inline(always)]
            fn get(cell: $cell) -> Self {
                cell as Self
            }
            #[inline(always)]
            fn put(self) -> $cell {
                self as $cell
            }
        }
    )*};
}

lanes! { u32, u32; u64, u64; i32, u32; i64, u64; u16, u32 }

impl Lane for i16 {
    type Cell = u32;
    #[inline(always)]
    fn get(cell: u32) -> i16 {
        cell as i16
    }
    #[inline(always)]
    fn put(self) -> u32 {
        u32::from(self as u16)
    }
}

#[cfg(target_arch = "x86_64")]
fn wide_host() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

macro_rules! dispatch {
    (($($generic:tt)*), ($($bound:tt)*), $f:ident, ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?, $body:ident) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            unsafe fn wide<$($bound)*>(f: &FN, $($arg: $ty),*) $(-> $ret)? {
                // SAFETY: passed on to the caller.
                unsafe { $body::<$($generic)*, FN>(f, $($arg),*) }
            }
            if wide_host() {
                // SAFETY: the host has the features; rows come from the decoder.
                return Box::new(move |$($arg),*| unsafe { wide::<$($generic)*, FN>(&$f, $($arg),*) });
            }
        }
        // SAFETY: rows come from the decoder, which keeps them inside the frame and of the right width.
        Box::new(move |$($arg),*| unsafe { $body::<$($generic)*, FN>(&$f, $($arg),*) })
    }};
}

macro_rules! lift_map {
    ($name:ident, $body:ident, $($T:ident $x:ident $i:tt),+) => {
        #[inline(always)]
        unsafe fn $body<$($T: Lane,)+ DD: Lane, FN: Fn($($T),+) -> DD>(f: &FN, rows: Rows, args: &Args, mask: u32) {
            // SAFETY: the caller vouches for the rows.
            unsafe {
                let mut out = rows.load::<DD::Cell>(args.d);
                $(let $x = rows.load::<$T::Cell>(args.s[$i]);)+
                for lane in 0..LANES {
                    let value = f($($T::get($x[lane])),+).put();
                    out[lane] = if mask >> lane & 1 != 0 { value } else { out[lane] };
                }
                rows.store(args.d, out);
            }
        }

        /// Lifts a function cheap enough to compute in all lanes.
        pub(crate) fn $name<$($T: Lane + 'static,)+ DD: Lane + 'static, FN>(f: FN) -> LaneOp
        where
            FN: Fn($($T),+) -> DD + Send + Sync + 'static,
        {
            dispatch!(($($T,)+ DD), ($($T: Lane,)+ DD: Lane, FN: Fn($($T),+) -> DD), f,
                (rows: Rows, args: &Args, mask: u32), $body)
        }
    };
}

macro_rules! lift_each {
    ($name:ident, $body:ident, $($T:ident $x:ident $i:tt),+) => {
        #[inline(always)]
        unsafe fn $body<$($T: Lane,)+ DD: Lane, FN: Fn($($T,)+ Noise) -> DD>(f: &FN, rows: Rows, args: &Args, mask: u32) {
            // SAFETY: the caller vouches for the rows.
            unsafe {
                let mut out = rows.load::<DD::Cell>(args.d);
                $(let $x = rows.load::<$T::Cell>(args.s[$i]);)+
                let mut rest = mask;
                while rest != 0 {
                    let lane = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    out[lane] = f($($T::get($x[lane]),)+ rows.noise).put();
                }
                rows.store(args.d, out);
            }
        }

        /// Lifts a function too costly to compute in lanes that do not want it, or one that takes noise.
        pub(crate) fn $name<$($T: Lane + 'static,)+ DD: Lane + 'static, FN>(f: FN) -> LaneOp
        where
            FN: Fn($($T,)+ Noise) -> DD + Send + Sync + 'static,
        {
            dispatch!(($($T,)+ DD), ($($T: Lane,)+ DD: Lane, FN: Fn($($T,)+ Noise) -> DD), f,
                (rows: Rows, args: &Args, mask: u32), $body)
        }
    };
}

macro_rules! lift_test {
    ($name:ident, $body:ident, $($T:ident $x:ident $i:tt),+) => {
        #[inline(always)]
        unsafe fn $body<$($T: Lane,)+ FN: Fn($($T),+) -> bool>(f: &FN, rows: Rows, args: &Args) -> u32 {
            // SAFETY: the caller vouches for the rows.
            unsafe {
                $(let $x = rows.load::<$T::Cell>(args.s[$i]);)+
                let mut bits = 0;
                for lane in 0..LANES {
                    bits |= u32::from(f($($T::get($x[lane])),+)) << lane;
                }
                bits
            }
        }

        /// Lifts a predicate.
        pub(crate) fn $name<$($T: Lane + 'static,)+ FN>(f: FN) -> TestOp
        where
            FN: Fn($($T),+) -> bool + Send + Sync + 'static,
        {
            dispatch!(($($T),+), ($($T: Lane,)+ FN: Fn($($T),+) -> bool), f,
                (rows: Rows, args: &Args) -> u32, $body)
        }
    };
}

lift_map!(map1, map1_body, A a 0);
lift_map!(map2, map2_body, A a 0, B b 1);
lift_map!(map3, map3_body, A a 0, B b 1, C c 2);
lift_map!(map4, map4_body, A a 0, B b 1, C c 2, D d 3);
lift_each!(each1, each1_body, A a 0);
lift_each!(each2, each2_body, A a 0, B b 1);
lift_test!(test1, test1_body, A a 0);
lift_test!(test2, test2_body, A a 0, B b 1);

/// `selp`: the first source where the predicate holds, else the second.
pub(crate) fn select<T: Lane + 'static>(pred: u32, negated: bool) -> LaneOp {
    Box::new(move |rows, args, mask| {
        // SAFETY: rows and predicate come from the decoder.
        unsafe {
            let flip = if negated { u32::MAX } else { 0 };
            let choice = rows.pred(pred) ^ flip;
            let (a, b) = (rows.load::<T::Cell>(args.s[0]), rows.load::<T::Cell>(args.s[1]));
            let mut out = rows.load::<T::Cell>(args.d);
            for lane in 0..LANES {
                let value = if choice >> lane & 1 != 0 { a[lane] } else { b[lane] };
                out[lane] = if mask >> lane & 1 != 0 { value } else { out[lane] };
            }
            rows.store(args.d, out);
        }
    })
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`: the function takes the carry in and returns the
/// carry out, which goes to predicate `carry` if `writes`.
pub(crate) fn carry<T, FN>(carry: u32, reads: bool, writes: bool, f: FN) -> LaneOp
where
    T: Lane + 'static,
    FN: Fn(T, T, T, bool) -> (T, bool) + Send + Sync + 'static,
{
    Box::new(move |rows, args, mask| {
        // SAFETY: rows and predicate come from the decoder.
        unsafe {
            let [a, b, c] = [0, 1, 2].map(|i| rows.load::<T::Cell>(args.s[i]));
            let mut out = rows.load::<T::Cell>(args.d);
            let input = if reads { rows.pred(carry) } else { 0 };
            let mut output = 0;
            for lane in 0..LANES {
                let (value, bit) =
                    f(T::get(a[lane]), T::get(b[lane]), T::get(c[lane]), input >> lane & 1 != 0);
                output |= u32::from(bit) << lane;
                out[lane] = if mask >> lane & 1 != 0 { value.put() } else { out[lane] };
            }
            rows.store(args.d, out);
            if writes {
                rows.set_pred(carry, output, mask);
            }
        }
    })
}
