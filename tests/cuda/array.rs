//! Strided arrays on host and device, filled at random.

use cudarc::driver::CudaSlice;
use multimix::cuda::{DeviceElement, DeviceView, DeviceViewMut, cudarc};
use multimix::{Layout, View};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::support::device::Device;
use crate::support::tiles::{layout, reach};

/// What fills the gaps of outputs: a kernel that writes there is seen.
const GAP: f32 = -7.0;

/// An input in both memories.
pub struct Input<T, const N: usize> {
    pub layout: Layout<N>,
    pub host: Vec<T>,
    pub device: CudaSlice<T>,
}

impl<T: DeviceElement, const N: usize> Input<T, N> {
    /// Values by `value`, in a random layout.
    pub fn draw(
        device: &Device,
        rng: &mut ChaCha8Rng,
        shape: [usize; N],
        value: impl Fn(&mut ChaCha8Rng) -> f32,
    ) -> Self {
        let layout = layout(rng, shape);
        let host: Vec<T> = (0..reach(&layout)).map(|_| T::from_f32(value(rng))).collect();
        Self { layout, device: device.upload(&host), host }
    }

    /// Uniform in [-1, 1].
    pub fn uniform(device: &Device, rng: &mut ChaCha8Rng, shape: [usize; N]) -> Self {
        Self::draw(device, rng, shape, |rng| rng.random_range(-1.0..1.0))
    }

    pub fn given(device: &Device, (host, layout): (Vec<T>, Layout<N>)) -> Self {
        Self { layout, device: device.upload(&host), host }
    }

    pub fn view(&self) -> View<'_, T, N> {
        View::from_layout(&self.host, self.layout).unwrap()
    }

    pub fn on_device(&self) -> DeviceView<'_, T, N> {
        DeviceView::from_layout(&self.device, self.layout).unwrap()
    }

    /// All elements in row-major order.
    pub fn dense(&self) -> Vec<f32> {
        indices(self.layout.shape).map(|index| self.view().get(index).to_f32()).collect()
    }

    pub fn dense_f64(&self) -> Vec<f64> {
        self.dense().into_iter().map(f64::from).collect()
    }
}

/// An output on the device.
pub struct Output<T, const N: usize> {
    layout: Layout<N>,
    memory: CudaSlice<T>,
}

impl<T: DeviceElement + Default, const N: usize> Output<T, N> {
    pub fn new(device: &Device, rng: &mut ChaCha8Rng, shape: [usize; N]) -> Self {
        let layout = layout(rng, shape);
        Self { layout, memory: device.upload(&vec![T::from_f32(GAP); reach(&layout)]) }
    }

    pub fn view(&mut self) -> DeviceViewMut<'_, T, N> {
        DeviceViewMut::from_layout(&mut self.memory, self.layout).unwrap()
    }

    /// All elements in row-major order, after a check that nothing was written between them.
    pub fn dense(&self, device: &Device) -> Vec<f32> {
        let mut all = device.download(&self.memory);
        let values: Vec<f32> = indices(self.layout.shape)
            .map(|index| std::mem::replace(&mut all[self.layout.offset(index)], T::from_f32(GAP)).to_f32())
            .collect();
        assert!(all.iter().all(|x| x.to_f32() == GAP), "written between the elements of {:?}", self.layout);
        values
    }
}

/// Scratch memory that nobody has written.
pub fn scratch(device: &Device, bytes: usize) -> CudaSlice<u8> {
    device.uninitialised(bytes.max(1))
}

fn indices<const N: usize>(shape: [usize; N]) -> impl Iterator<Item = [usize; N]> {
    (0..shape.iter().product()).map(move |mut flat| {
        let mut index = [0; N];
        for axis in (0..N).rev() {
            index[axis] = flat % shape[axis];
            flat /= shape[axis];
        }
        index
    })
}
