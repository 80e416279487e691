//! Arrays in memory orders that callers have: any axis finest, gaps between neighbours, a slice of something
//! larger, or the same values seen many times.

use multimix::{Element, Layout, View, ViewMut};
use rand::Rng;
use rand::seq::SliceRandom;

/// An array of some shape laid out at random, in a buffer of its own.
#[derive(Clone, Debug)]
pub struct Strided<T, const N: usize> {
    buffer: Vec<T>,
    /// Where the view begins in the buffer.
    start: usize,
    pub layout: Layout<N>,
    /// What lies in the gaps.
    gap: T,
}

impl<T: Element, const N: usize> Strided<T, N> {
    /// In row-major order, each element by its place in it.
    pub fn contiguous(shape: [usize; N], value: impl FnMut(usize) -> T) -> Self {
        Self::in_layout(Layout::contiguous(shape), T::from_f32(0.0), value)
    }

    /// In a given memory order, each element by its place in row-major order.
    pub fn in_layout(layout: Layout<N>, gap: T, mut value: impl FnMut(usize) -> T) -> Self {
        let mut buffer = vec![gap; layout.reach("test", "array").unwrap()];
        for at in 0..layout.shape.iter().product() {
            buffer[layout.offset(unravel(at, layout.shape))] = value(at);
        }
        Self { buffer, start: 0, layout, gap }
    }

    /// Every element `gap`, for outputs.
    pub fn empty(rng: &mut impl Rng, shape: [usize; N], gap: T) -> Self {
        Self::laid_out(rng, shape, [false; N], gap)
    }

    /// The values, given in row-major order, with `gap` (best: NaN) between them.
    pub fn of(rng: &mut impl Rng, shape: [usize; N], values: &[T], gap: T) -> Self {
        Self::broadcast(rng, shape, [false; N], values, gap)
    }

    /// The same with stride 0 along some axes, along which the values must not vary.
    pub fn broadcast(
        rng: &mut impl Rng,
        shape: [usize; N],
        repeated: [bool; N],
        values: &[T],
        gap: T,
    ) -> Self {
        let mut array = Self::laid_out(rng, shape, repeated, gap);
        for (at, &value) in values.iter().enumerate() {
            let place = array.start + array.layout.offset(unravel(at, shape));
            array.buffer[place] = value;
        }
        array
    }

    fn laid_out(rng: &mut impl Rng, shape: [usize; N], repeated: [bool; N], gap: T) -> Self {
        let mut axes: Vec<usize> = (0..N).rev().collect();
        if rng.random_bool(0.7) {
            axes.shuffle(rng);
        }
        let with_gaps = rng.random_bool(0.5);
        let mut extra = || if with_gaps { rng.random_range(0..3) } else { 0 };
        let (mut strides, mut next) = ([0; N], 1 + extra());
        for axis in axes {
            if !repeated[axis] {
                strides[axis] = next;
                next = next * shape[axis] + extra();
            }
        }
        let layout = Layout { shape, strides };
        let (start, behind) =
            if with_gaps { (rng.random_range(0..9), rng.random_range(0..9)) } else { (0, 0) };
        let reach = layout.reach("test", "array").unwrap();
        Self { buffer: vec![gap; start + reach + behind], start, layout, gap }
    }

    /// The same with each value made another.
    pub fn map<U: Element>(&self, make: impl Fn(f32) -> f32) -> Strided<U, N> {
        let values = self.floats();
        Strided::in_layout(self.layout, U::from_f32(f32::NAN), |at| U::from_f32(make(values[at])))
    }

    /// What the view begins at, with the gaps.
    pub fn memory(&self) -> &[T] {
        &self.buffer[self.start..]
    }

    pub fn view(&self) -> View<'_, T, N> {
        View::from_layout(self.memory(), self.layout).unwrap()
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, T, N> {
        ViewMut::from_layout(&mut self.buffer[self.start..], self.layout).unwrap()
    }

    /// The values in row-major order.
    pub fn values(&self) -> Vec<T> {
        let shape = self.layout.shape;
        (0..shape.iter().product()).map(|at| self.view().get(unravel(at, shape))).collect()
    }

    /// The values in row-major order, widened.
    pub fn floats(&self) -> Vec<f32> {
        self.values().into_iter().map(T::to_f32).collect()
    }

    /// The values in row-major order, in f64.
    pub fn exact(&self) -> Vec<f64> {
        self.values().into_iter().map(|value| value.to_f32().into()).collect()
    }

    /// The values, once nothing but elements is found written.
    pub fn written(&self, name: &str) -> Vec<T> {
        self.assert_gaps_untouched(name);
        self.values()
    }

    /// Nothing but elements was written.
    fn assert_gaps_untouched(&self, name: &str) {
        let mut elements = vec![false; self.buffer.len()];
        for at in 0..self.layout.shape.iter().product() {
            elements[self.start + self.layout.offset(unravel(at, self.layout.shape))] = true;
        }
        let bits = |value: &T| bytemuck::bytes_of(value).to_vec();
        for (at, value) in self.buffer.iter().enumerate() {
            assert!(elements[at] || bits(value) == bits(&self.gap), "{name}: the gap at {at} was written");
        }
    }
}

/// The index along each axis of a place in a row-major array.
pub fn unravel<const N: usize>(mut at: usize, shape: [usize; N]) -> [usize; N] {
    let mut index = [0; N];
    for axis in (0..N).rev() {
        index[axis] = at % shape[axis];
        at /= shape[axis];
    }
    index
}
