//! The one error type. Every message names the op, the argument, the value given and the rule it broke.

use std::borrow::Cow;

/// What went wrong in a call. Nothing has been written to any output when a call returns an error about its
/// arguments.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{op}: {kind}")]
#[non_exhaustive]
pub struct Error {
    /// The operation called.
    pub op: &'static str,
    /// What is wrong.
    pub kind: ErrorKind,
}

impl Error {
    pub(crate) fn new(op: &'static str, kind: ErrorKind) -> Self {
        Self { op, kind }
    }

    pub(crate) fn arguments(op: &'static str, what: &'static str) -> Self {
        Self::new(op, ErrorKind::Arguments { what })
    }

    pub(crate) fn value(
        op: &'static str,
        name: impl Into<Cow<'static, str>>,
        given: impl ToString,
        rule: &'static str,
    ) -> Self {
        Self::new(op, ErrorKind::Value { name: name.into(), given: given.to_string(), rule })
    }

    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn device(op: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(op, ErrorKind::Device { what: what.into(), advice: advice.into() })
    }
}

/// What is wrong with a call: the argument, the value given and the rule broken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument has another shape than the other arguments imply.
    #[error("{name} has shape {given:?}, but the other arguments ask for {wanted:?}")]
    Shape {
        /// The argument.
        name: Cow<'static, str>,
        /// The shape given.
        given: Vec<usize>,
        /// The shape that the other arguments ask for.
        wanted: Vec<usize>,
    },
    /// A size that must be at least one is zero.
    #[error("{name} is 0, but must be at least 1")]
    Empty {
        /// The size.
        name: Cow<'static, str>,
    },
    /// The product of some sizes passes what can be addressed.
    #[error("{name} = {sizes:?} has more elements than can be addressed")]
    TooLarge {
        /// The array that would have these sizes.
        name: Cow<'static, str>,
        /// The sizes.
        sizes: Vec<usize>,
    },
    /// An index lies further from the start than can be addressed.
    #[error("{name} with shape {shape:?} and strides {strides:?} reaches further than can be addressed")]
    Reach {
        /// The argument.
        name: Cow<'static, str>,
        /// The shape given.
        shape: Vec<usize>,
        /// The strides given, in elements.
        strides: Vec<usize>,
    },
    /// The host has no memory for an array.
    #[error("{name} takes {bytes} bytes of memory, which are not there")]
    Memory {
        /// The array.
        name: Cow<'static, str>,
        /// Its size.
        bytes: usize,
    },
    /// A workspace is smaller than the call's `_workspace_bytes` function says.
    #[error("the workspace holds {given} bytes, but the call takes {wanted}")]
    Workspace {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        wanted: usize,
    },
    /// A slice is too short for the shape and strides it is viewed with.
    #[error("{name} holds {given} elements, but its shape and strides reach {wanted}")]
    Length {
        /// The argument.
        name: Cow<'static, str>,
        /// Elements given.
        given: usize,
        /// Elements needed.
        wanted: usize,
    },
    /// An output is viewed so that two of its elements share memory.
    #[error("{name} with shape {shape:?} and strides {strides:?} maps two elements to one place")]
    Overlap {
        /// The argument.
        name: Cow<'static, str>,
        /// The shape given.
        shape: Vec<usize>,
        /// The strides given, in elements.
        strides: Vec<usize>,
    },
    /// A number lies outside of its range.
    #[error("{name} is {given}, but must be {rule}")]
    Value {
        /// The argument or element, `attention[3, 5]` for example.
        name: Cow<'static, str>,
        /// The value given.
        given: String,
        /// The rule it broke.
        rule: &'static str,
    },
    /// A label is not below the number of classes.
    #[error("labels[{index}] is {given}, but there are {classes} classes, counted from 0")]
    Label {
        /// Which example.
        index: usize,
        /// The label given.
        given: i64,
        /// The number of classes.
        classes: usize,
    },
    /// The caller asked for something without giving what it needs, or gave two things that exclude each
    /// other.
    #[error("{what}")]
    Arguments {
        /// What is missing or contradictory, and how to mend it.
        what: &'static str,
    },
    /// Two buffers of one call share device memory, and at least one of them is written.
    #[error("{first} and {second} overlap in device memory; give each a buffer of its own")]
    Alias {
        /// The buffer that is written.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// The device or its driver cannot do what was asked: there is none, it is too old, too small, or another
    /// one than the caller's.
    #[error("{what}; {advice}")]
    Device {
        /// What is the case.
        what: String,
        /// What to do about it.
        advice: String,
    },
    /// A call of the CUDA driver failed.
    #[error("{call} failed: {code}; {advice}")]
    Cuda {
        /// What the driver was asked to do.
        call: String,
        /// The driver's error, by name and number.
        code: String,
        /// What it usually means and what to do about it.
        advice: String,
    },
    /// There is no NVRTC to compile kernels with, or it failed; with its log.
    #[error("{what}{}{advice}", if advice.is_empty() { "" } else { "; " })]
    Nvrtc {
        /// What failed; the compiler's own words, line by line, where it has spoken.
        what: String,
        /// What to do about it. May be empty.
        advice: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
