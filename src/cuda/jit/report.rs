//! What ptxas says of a kernel: registers, shared memory, spills.

/// The resources of one kernel, from ptxas' own report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// The kernel's name.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub shared_bytes: u32,
    /// Bytes of local memory of a thread: arrays and spills that did not fit registers.
    pub stack_bytes: u32,
    /// Bytes of spilled registers that are stored.
    pub spill_store_bytes: u32,
    /// Bytes of spilled registers that are loaded.
    pub spill_load_bytes: u32,
}

impl Resources {
    /// Whether everything that is the thread's own lives in registers.
    pub fn is_clean(&self) -> bool {
        self.stack_bytes == 0 && self.spill_store_bytes == 0 && self.spill_load_bytes == 0
    }
}

/// Reads the log of `--ptxas-options=-v`, one entry per kernel. Device functions that were not inlined are
/// listed after the kernel that ptxas compiled last, and count as its own.
pub(super) fn parse(log: &str) -> Vec<Resources> {
    let mut kernels: Vec<Resources> = vec![];
    for line in log.lines().filter(|line| line.starts_with("ptxas")) {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let name = rest.split('\'').next().unwrap_or_default();
            kernels.push(Resources { kernel: name.to_owned(), ..Resources::default() });
        } else if let Some(kernel) = kernels.last_mut() {
            line.split(", ").for_each(|item| record(kernel, item));
        }
    }
    kernels
}

/// One item of a line, `ptxas info    : Used 32 registers` or `0 bytes spill stores` for example.
fn record(kernel: &mut Resources, item: &str) {
    let Some(number) = item.split(' ').find_map(|word| word.parse::<u32>().ok()) else { return };
    if item.ends_with(" registers") {
        kernel.registers = number;
    } else if item.ends_with(" bytes smem") {
        kernel.shared_bytes = number;
    } else if item.ends_with(" bytes stack frame") {
        kernel.stack_bytes = kernel.stack_bytes.max(number);
    } else if item.ends_with(" bytes spill stores") {
        kernel.spill_store_bytes += number;
    } else if item.ends_with(" bytes spill loads") {
        kernel.spill_load_bytes += number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_two_kernels_is_read() {
        let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'two' for 'sm_80'
ptxas info    : Function properties for two
ptxas         .     256 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 256 bytes cumulative stack size, 364 bytes cmem[0]
ptxas info    : Compile time = 57.606 ms
ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 9 registers, used 1 barriers, 400 bytes smem, 364 bytes cmem[0]";
        let kernels = parse(log);
        let two = Resources {
            kernel: "two".into(),
            registers: 32,
            stack_bytes: 256,
            spill_store_bytes: 12,
            spill_load_bytes: 8,
            ..Resources::default()
        };
        let one = Resources { kernel: "one".into(), registers: 9, shared_bytes: 400, ..Resources::default() };
        assert_eq!(kernels, [two, one]);
        assert!(!kernels[0].is_clean() && kernels[1].is_clean());
    }
}
