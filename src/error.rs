//! The one error type. Every message names the op, the argument, the value given and the rule it broke.

/// What went wrong in a call. Nothing has been written to any output when a call returns an error about its arguments.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has another shape than the other arguments imply.
    #[error("{op}: {name} has shape {given:?}, but the other arguments ask for {wanted:?}")]
    Shape {
        /// The operation called.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// The shape given.
        given: Vec<usize>,
        /// The shape that the other arguments ask for.
        wanted: Vec<usize>,
    },
    /// A size that must be at least one is zero.
    #[error("{op}: {name} is 0, but must be at least 1")]
    Empty {
        /// The operation called.
        op: &'static str,
        /// The size.
        name: &'static str,
    },
    /// The product of some sizes passes what can be addressed.
    #[error("{op}: {name} = {sizes:?} has more elements than can be addressed")]
    TooLarge {
        /// The operation called.
        op: &'static str,
        /// The array that would have these sizes.
        name: &'static str,
        /// The sizes.
        sizes: Vec<usize>,
    },
    /// An index lies further from the start than can be addressed.
    #[error(
        "{op}: {name} with shape {shape:?} and strides {strides:?} reaches further than can be addressed"
    )]
    Reach {
        /// The operation called.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// The shape given.
        shape: Vec<usize>,
        /// The strides given, in elements.
        strides: Vec<usize>,
    },
    /// The host has no memory for an array.
    #[error("{op}: {name} takes {bytes} bytes of memory, which are not there")]
    Memory {
        /// The operation called.
        op: &'static str,
        /// The array.
        name: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// A workspace is smaller than the call's `_workspace_bytes` function says.
    #[error("{op}: the workspace holds {given} bytes, but the call takes {wanted}")]
    Workspace {
        /// The operation called.
        op: &'static str,
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        wanted: usize,
    },
    /// A slice is too short for the shape and strides it is viewed with.
    #[error("{op}: {name} holds {given} elements, but its shape and strides reach {wanted}")]
    Length {
        /// The operation called.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// Elements given.
        given: usize,
        /// Elements needed.
        wanted: usize,
    },
    /// An output is viewed so that two of its elements share memory.
    #[error("{op}: {name} with shape {shape:?} and strides {strides:?} maps two elements to one place")]
    Overlap {
        /// The operation called.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// The shape given.
        shape: Vec<usize>,
        /// The strides given, in elements.
        strides: Vec<usize>,
    },
    /// A number lies outside of its range.
    #[error("{op}: {name} is {given}, but must be {rule}")]
    Value {
        /// The operation called.
        op: &'static str,
        /// The argument or element, `attention[3, 5]` for example.
        name: String,
        /// The value given.
        given: String,
        /// The rule it broke.
        rule: &'static str,
    },
    /// A label is not below the number of classes.
    #[error("{op}: labels[{index}] is {given}, but there are {classes} classes, counted from 0")]
    Label {
        /// The operation called.
        op: &'static str,
        /// Which example.
        index: usize,
        /// The label given.
        given: u64,
        /// The number of classes.
        classes: usize,
    },
    /// The caller asked for something without giving what it needs, or gave two things that exclude each other.
    #[error("{op}: {what}")]
    Arguments {
        /// The operation called.
        op: &'static str,
        /// What is missing or contradictory, and how to mend it.
        what: &'static str,
    },
    /// Two buffers of one call share device memory, and at least one of them is written.
    #[error("{op}: {first} and {second} overlap in device memory; give each a buffer of its own")]
    Alias {
        /// The operation called.
        op: &'static str,
        /// The buffer that is written.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// The device or its driver cannot do what was asked: there is none, it is too old, too small, or another one than the caller's.
    #[error("{op}: {what}; {advice}")]
    Device {
        /// The operation called.
        op: &'static str,
        /// What is the case.
        what: String,
        /// What to do about it.
        advice: String,
    },
    /// A call of the CUDA driver failed.
    #[error("{op}: {call} failed: {code}; {advice}")]
    Cuda {
        /// The operation called.
        op: &'static str,
        /// What the driver was asked to do.
        call: String,
        /// The driver's error, by name and number.
        code: String,
        /// What it usually means and what to do about it.
        advice: String,
    },
    /// There is no NVRTC to compile kernels with, or it failed; with its log.
    #[error("{op}: {what}{}{advice}", if advice.is_empty() { "" } else { "; " })]
    Nvrtc {
        /// The operation called.
        op: &'static str,
        /// What failed; the compiler's own words, line by line, where it has spoken.
        what: String,
        /// What to do about it. May be empty.
        advice: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
