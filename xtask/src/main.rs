//! The project's tasks: `cargo xtask <task>`.
//!
//! | task       | what it does                                                                          |
//! |------------|---------------------------------------------------------------------------------------|
//! | `nvrtc`    | brings the pinned NVRTC releases from PyPI into `target/nvrtc/<version>/`             |
//! | `toolkit`  | brings CUDA headers, ptxas, nvdisasm and cuobjdump into `target/cuda/` (optional)     |
//! | `vgpu`     | builds the virtual GPU and installs it as `target/vgpu/libcuda.so`                    |
//! | `test`     | all of it that tests need, then `cargo test --workspace`                              |
//! | `variants` | compiles every variant of every kernel, in hours; writes `target/variants.md`, `.csv` |
//! | `run`      | runs any command with NVRTC and the virtual GPU on its library path                   |

mod environment;
mod error;
mod fetch;
mod pins;
mod vgpu;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use environment::{Device, Environment};
use error::Error;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's tasks", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch the pinned NVRTC releases from PyPI (checked by hash) into target/nvrtc
    Nvrtc,
    /// Fetch CUDA headers, ptxas, nvdisasm and cuobjdump (checked by hash) into target/cuda/
    Toolkit,
    /// Build the virtual GPU and install it as target/vgpu/libcuda.so
    Vgpu,
    /// Run `cargo test --workspace` on this machine's GPU, else on the virtual one; further arguments go to
    /// cargo test
    Test {
        /// Use the virtual GPU also where there is a real one
        #[arg(long)]
        virtual_gpu: bool,
        #[command(flatten)]
        command: Command,
    },
    /// Compile every variant of every kernel by all pinned releases (hours, goes on where it was broken off);
    /// writes target/variants.md and .csv
    Variants,
    /// Run a command with NVRTC and the virtual GPU on its library path
    Run {
        /// Use this machine's CUDA driver in place of the virtual GPU
        #[arg(long)]
        real_gpu: bool,
        #[command(flatten)]
        command: Command,
    },
}

#[derive(Args)]
struct Command {
    /// NVRTC release to compile kernels with
    #[arg(long, default_value = pins::DEFAULT_NVRTC)]
    nvrtc: String,
    /// What to run, or what to pass on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode, Error> {
    match task {
        Task::Nvrtc => fetch::nvrtc().map(|()| ExitCode::SUCCESS),
        Task::Toolkit => fetch::toolkit().map(|()| ExitCode::SUCCESS),
        Task::Vgpu => vgpu::install().map(|_| ExitCode::SUCCESS),
        Task::Test { virtual_gpu, command } => {
            fetch::toolkit()?; // for kernels of others, which include CUDA's headers
            let mut cargo = environment::cargo();
            cargo.arg("test");
            if !names_a_package(&command.args) {
                cargo.arg("--workspace");
            }
            cargo.args(&command.args);
            prepare(&command, virtual_gpu)?.run(cargo)
        }
        Task::Variants => {
            fetch::nvrtc()?;
            let mut cargo = environment::cargo();
            cargo.args(["test", "--package", "multimix", "--test", "jit", "--"]);
            cargo.args(["--ignored", "--exact", "matrix::every_variant_stays_in_registers"]);
            let nvrtc = fetch::nvrtc_library_dir(pins::DEFAULT_NVRTC)?;
            Environment { nvrtc, device: Device::Own }.run(cargo)
        }
        Task::Run { real_gpu, command } => {
            let (program, arguments) = command.args.split_first().ok_or(Error::NothingToRun)?;
            let mut child = std::process::Command::new(program);
            child.args(arguments);
            prepare(&command, !real_gpu)?.run(child)
        }
    }
}

/// Whether arguments to cargo say which packages they mean.
fn names_a_package(arguments: &[String]) -> bool {
    let mut for_cargo = arguments.iter().take_while(|argument| *argument != "--");
    for_cargo.any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

/// Fetches and builds what `command` asks for and gives the environment to run it in.
fn prepare(command: &Command, virtual_gpu: bool) -> Result<Environment, Error> {
    let nvrtc = fetch::nvrtc_library_dir(&command.nvrtc)?;
    let device = if virtual_gpu { Device::Virtual(vgpu::install()?) } else { Device::Own };
    Ok(Environment { nvrtc, device })
}
