//! What the kernels do, counted on the virtual GPU, beside the least that each op must do. Counts, not times.
//!
//!     cargo xtask nvrtc && cargo bench --bench counters          # a Markdown table on stdout
//!
//! Floors: each input read and each output written once, in 32-byte sectors; the products of the op's
//! equations; shared memory without bank conflicts. The gradient of the loss mixes the logits a second time
//! in place of keeping them, which its floor leaves out. The last two columns are modelled times on a usual
//! device of the capability (`VGPU_CC`): the floor's, and the counts' by `vgpu::roofline`, launch after
//! launch, with the unit that bounds the longest.

#[path = "../tests/support/mod.rs"]
mod support;

use half::bf16;
use multimix::cuda::cudarc::driver::CudaSlice;
use multimix::cuda::{Cuda, Queue};
use multimix::{
    Alpha, AttentionInput, AttentionOptions, Element, LossInput, LossOptions, MixInput, MixedGradients,
    Mixing,
};
use multimix::{Targets, View, Want, WeightsInput};
use support::device::{Device, virtual_device};
use vgpu::VirtualGpu;
use vgpu::counters::Counters;
use vgpu::roofline;

/// b, r, d, c, n of the shapes A (CIFAR-100) and S (small).
const SHAPES: [(&str, [usize; 5]); 2] = [("S", [32, 16, 64, 10, 128]), ("A", [128, 16, 512, 100, 1000])];

fn main() -> Result<(), String> {
    let (device, gpu) = virtual_device()?;
    gpu.set("checks", "none").expect("checks can always be switched off");
    println!("Counted on {}.\n", device.engine.device().name);
    println!(
        "| shape | op | type | launches | warp instructions | thread instructions per draw | global sectors (floor) | shared wavefronts (ideal) | MFLOP in FMA | in tensor cores | products | floor, µs on {0} | counts, µs on {0} |",
        usual(device).name()
    );
    println!("|{}", "---|".repeat(13));
    for (name, sizes) in SHAPES {
        Bench::<f32>::new(device, gpu, name, sizes, "f32").run();
        Bench::<bf16>::new(device, gpu, name, sizes, "bf16").run();
    }
    Ok(())
}

/// The device that times are modelled for.
fn usual(device: &Device) -> roofline::Device {
    let capability = device.engine.device().capability;
    roofline::Device::usual((capability / 10, capability % 10)).expect("the virtual GPU has it")
}

/// The arrays of one shape in one type.
struct Bench<'a, T> {
    device: &'a Device,
    gpu: &'a VirtualGpu,
    shape: &'static str,
    dtype: &'static str,
    /// b, r, d, c, n.
    sizes: [usize; 5],
    features: CudaSlice<T>,
    logits: CudaSlice<T>,
    attention: CudaSlice<f32>,
    labels: CudaSlice<u32>,
}

/// The least that an op must do.
struct Floor {
    bytes: usize,
    flops: usize,
}

impl<'a, T: Element> Bench<'a, T> {
    fn new(
        device: &'a Device,
        gpu: &'a VirtualGpu,
        shape: &'static str,
        sizes: [usize; 5],
        dtype: &'static str,
    ) -> Self {
        let [b, r, d, c, _] = sizes;
        let wave =
            |count: usize| (0..count).map(|x| T::from_f32((x as f32 * 0.37).sin())).collect::<Vec<T>>();
        Self {
            device,
            gpu,
            shape,
            dtype,
            sizes,
            features: device.upload(&wave(b * r * d)),
            logits: device.upload(&wave(b * r * c)),
            attention: device
                .upload(&(0..b * r).map(|x| 1.0 + (x as f32 * 0.53).sin()).collect::<Vec<f32>>()),
            labels: device.upload(&(0..b as u32).map(|i| i % c as u32).collect::<Vec<u32>>()),
        }
    }

    fn run(&self) {
        let [b, r, d, c, n] = self.sizes;
        let size = size_of::<T>();
        let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(1);
        let maps = 4 * b * r;
        let weights = WeightsInput { b, r, attention: Some(self.maps()) };
        let floor = Floor { bytes: maps + size * b * r * n + 4 * r * n, flops: 0 };
        self.report("weights", floor, |queue| drop(queue.weights::<T>(&mixing, &weights).unwrap()));

        let features = View::new(&self.features, [b, r, d]).unwrap();
        let input = AttentionInput { features: features.clone(), classifier: None };
        let floor = Floor { bytes: size * b * r * d + maps, flops: 0 };
        let options = AttentionOptions::default();
        self.report("attention", floor, |queue| drop(queue.attention(&input, &options).unwrap()));

        let input = MixInput { features, targets: None, attention: Some(self.maps()) };
        let (mixed, product) = (size * n * r * d, 2 * b * r * d * n);
        let floor = Floor { bytes: size * b * r * d + maps + mixed, flops: product };
        self.report("mix forward", floor, |queue| drop(queue.mix(mixing, &input).unwrap()));
        let incoming = self.device.upload(&vec![T::from_f32(0.5); n * r * d]);
        let incoming = MixedGradients { features: View::new(&incoming, [n, r, d]).unwrap(), targets: None };
        // Z and dZ~ are read; dZ and da written. dZ is one product, dM^ another.
        let floor = Floor { bytes: 2 * size * b * r * d + 2 * maps + mixed, flops: 2 * product };
        self.report("mix backward", floor, |queue| {
            drop(queue.mix_backward(mixing, &input, &incoming).unwrap());
        });

        let input = LossInput {
            logits: View::new(&self.logits, [b, r, c]).unwrap(),
            targets: Targets::labels(View::new(&self.labels, [b]).unwrap()),
            attention: Some(self.maps()),
        };
        let (logits, product) = (size * b * r * c, 2 * b * r * c * n);
        let options = LossOptions::default();
        let floor = Floor { bytes: logits + maps + 4 * b, flops: product };
        self.report("loss", floor, |queue| {
            drop(queue.loss(mixing, &input, &options, Want::Loss).unwrap());
        });
        let floor = Floor { bytes: 2 * logits + maps + 4 * b, flops: 2 * product };
        self.report("loss + dS", floor, |queue| {
            drop(queue.loss(mixing, &input, &options, Want::Gradients(1.0)).unwrap());
        });
    }

    fn floor_seconds(&self, floor: &Floor, model: roofline::Device) -> f64 {
        let tensor = model.tensor_rate().filter(|_| size_of::<T>() == 2);
        let products = floor.flops as f64 / tensor.unwrap_or(model.f32_rate());
        products.max(floor.bytes as f64 / model.memory_rate())
    }

    fn maps(&self) -> View<'_, f32, 2, Cuda> {
        View::new(&self.attention, [self.sizes[0], self.sizes[1]]).unwrap()
    }

    /// Runs an op once and prints what its launches came to.
    fn report(&self, op: &str, floor: Floor, run: impl FnOnce(&Queue<'_>)) {
        let stream = &self.device.stream;
        let queue = self.device.engine.on(stream).unwrap();
        stream.synchronize().unwrap();
        self.gpu.reset();
        run(&queue);
        stream.synchronize().unwrap();
        let launches = self.gpu.launches();
        let sum = |count: &dyn Fn(&Counters) -> u64| launches.iter().map(count).sum::<u64>();
        let [b, r, _, _, n] = self.sizes;
        let model = usual(self.device);
        let bounds: Vec<_> = launches.iter().map(|counters| model.bound(counters)).collect();
        let longest =
            bounds.iter().max_by(|x, y| x.seconds().total_cmp(&y.seconds())).expect("an op launches");
        println!(
            "| {} | {op} | {} | {} | {} | {:.0} | {} ({}) | {} ({}) | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} ({}) |",
            self.shape,
            self.dtype,
            launches.len(),
            sum(&Counters::total_warp_instructions),
            sum(&Counters::total_thread_instructions) as f64 / (b * r * n) as f64,
            sum(&|counters| counters.global_loads.sectors + counters.global_stores.sectors),
            floor.bytes.div_ceil(32),
            sum(&|counters| counters.shared_loads.wavefronts + counters.shared_stores.wavefronts),
            sum(&|counters| counters.shared_loads.ideal_wavefronts + counters.shared_stores.ideal_wavefronts),
            sum(&|counters| counters.flops) as f64 / 1e6,
            sum(&|counters| counters.tensor_flops) as f64 / 1e6,
            floor.flops as f64 / 1e6,
            1e6 * self.floor_seconds(&floor, model),
            1e6 * bounds.iter().map(roofline::Bound::seconds).sum::<f64>(),
            longest.unit().name(),
        );
    }
}
