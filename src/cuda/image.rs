//! Which image of a program a driver is given: its machine code, or its PTX, or both once more.

use std::sync::Arc;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use super::advice::driver_error;
use super::jit::{Image, Origin};
use crate::error::Error;

/// What there is to choose from for a program.
///
/// A refusal decides nothing for other programs. The refused image may come from a bad file, so it's made
/// anew, once. If the driver then refuses machine code that this process has compiled, it gets the PTX, for
/// this program alone; unless it takes no machine code at all.
pub(super) struct Choices<'a, M> {
    /// Compiles anew, and replaces the file, where the image given is from disk.
    pub renew: &'a dyn Fn(&Arc<Image>) -> Option<Arc<Image>>,
    /// Whether the driver takes machine code of this compiler at all.
    pub takes_cubins: &'a dyn Fn() -> bool,
    /// Asks the driver to load an image: machine code, or PTX with a zero byte at its end.
    pub load: &'a dyn Fn(&[u8]) -> Result<M, DriverError>,
}

/// The driver's last word on a program, and what it said of the program's other images before.
pub(super) struct Refused {
    kind: &'static str,
    origin: Origin,
    error: DriverError,
    before: Vec<String>,
}

impl<M> Choices<'_, M> {
    /// Loads a program of which `image` was found.
    pub fn load(
        &self,
        mut image: Arc<Image>,
        mut origin: Origin,
    ) -> Result<(M, Arc<Image>, Origin), Refused> {
        let mut before = vec![];
        'anew: loop {
            let (current, ptx) = (Arc::clone(&image), [&image.ptx[..], &[0]].concat());
            for (kind, bytes) in [("cubin", &current.cubin), ("PTX", &ptx)] {
                if bytes.is_empty() {
                    continue; // a virtual target has no machine code
                }
                let error = match (self.load)(bytes) {
                    Ok(module) => return Ok((module, image, origin)),
                    Err(error) => error,
                };
                let doubtful = is_refusal(error) && (kind == "PTX" || (self.takes_cubins)());
                let fresh = doubtful.then(|| (self.renew)(&current)).flatten();
                if !is_refusal(error) || (kind == "PTX" && fresh.is_none()) {
                    return Err(Refused { kind, origin, error, before });
                }
                before.push(format!("{kind} ({origin:?}): {:?}", error.0));
                if let Some(fresh) = fresh {
                    (image, origin) = (fresh, Origin::Compiled);
                    continue 'anew;
                }
            }
        }
    }
}

impl Refused {
    /// As an error of `call`.
    pub fn into_error(self, op: &'static str, call: &str) -> Error {
        let Self { kind, origin, error, before } = self;
        let after = if before.is_empty() { String::new() } else { format!(", after {}", before.join(", ")) };
        driver_error(op, format!("{call} as {kind} ({origin:?}{after})"), error)
    }
}

/// Whether the driver says of an image that it is none, or none for this device.
pub(super) fn is_refusal(error: DriverError) -> bool {
    use CUresult as C;
    matches!(
        error.0,
        C::CUDA_ERROR_NO_BINARY_FOR_GPU
            | C::CUDA_ERROR_INVALID_IMAGE
            | C::CUDA_ERROR_INVALID_SOURCE
            | C::CUDA_ERROR_INVALID_PTX
            | C::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    )
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const REFUSED: DriverError = DriverError(CUresult::CUDA_ERROR_INVALID_IMAGE);

    fn image(cubin: &str, ptx: &str) -> Arc<Image> {
        Arc::new(Image { cubin: cubin.into(), ptx: ptx.into(), log: String::new() })
    }

    /// Loads `found` with a driver that takes the images listed: what it took, or the error; what it was
    /// offered; compilations.
    fn load(
        found: (&Arc<Image>, Origin),
        fresh: &Arc<Image>,
        takes_cubins: bool,
        taken: &[&str],
    ) -> (Result<String, String>, Vec<String>, u32) {
        let (offered, compilations) = (RefCell::new(vec![]), Cell::new(0));
        let choices = Choices {
            renew: &|refused| {
                let from_disk = found.1 == Origin::Disk && Arc::ptr_eq(refused, found.0);
                compilations.set(compilations.get() + u32::from(from_disk));
                from_disk.then(|| fresh.clone())
            },
            takes_cubins: &|| takes_cubins,
            load: &|bytes| {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                let known = taken.contains(&text.trim_end_matches('\0'));
                offered.borrow_mut().push(text.clone());
                known.then_some(text).ok_or(REFUSED)
            },
        };
        let loaded = choices.load(found.0.clone(), found.1);
        let loaded =
            loaded.map(|(text, ..)| text).map_err(|why| why.into_error("op", "loading it").to_string());
        (loaded, offered.into_inner(), compilations.get())
    }

    #[test]
    fn a_bad_file_is_compiled_anew_and_nothing_else_changes() {
        let (bad, good) = (image("bad", "ptx"), image("good", "ptx"));
        let (loaded, offered, compilations) = load((&bad, Origin::Disk), &good, true, &["good", "ptx"]);
        assert_eq!((loaded.as_deref(), compilations), (Ok("good"), 1));
        assert_eq!(offered, ["bad", "good"], "no PTX is needed");
        let ptx = image("", "damaged");
        let (loaded, _, compilations) = load((&ptx, Origin::Disk), &image("", "ptx"), false, &["ptx"]);
        assert_eq!((loaded.as_deref(), compilations), (Ok("ptx\0"), 1));
    }

    #[test]
    fn a_fresh_cubin_that_is_refused_leaves_its_ptx() {
        let (bad, worse) = (image("bad", "ptx"), image("worse", "fresh ptx"));
        for origin in [Origin::Compiled, Origin::Memory] {
            let (loaded, offered, compilations) = load((&bad, origin), &worse, true, &["ptx"]);
            assert_eq!((loaded.as_deref(), compilations), (Ok("ptx\0"), 0));
            assert_eq!(offered, ["bad", "ptx\0"]);
        }
        let (loaded, offered, _) = load((&bad, Origin::Disk), &worse, true, &["fresh ptx"]);
        assert_eq!(loaded.as_deref(), Ok("fresh ptx\0"));
        assert_eq!(offered, ["bad", "worse", "fresh ptx\0"]);
    }

    #[test]
    fn a_driver_that_takes_no_machine_code_costs_no_compilation() {
        let found = image("cubin", "ptx");
        let (loaded, offered, compilations) = load((&found, Origin::Disk), &found, false, &["ptx"]);
        assert_eq!((loaded.as_deref(), compilations), (Ok("ptx\0"), 0));
        assert_eq!(offered, ["cubin", "ptx\0"]);
    }

    #[test]
    fn the_error_names_all_that_was_refused() {
        let (old, new) = (image("old", "old ptx"), image("new", "new ptx"));
        let (loaded, offered, compilations) = load((&old, Origin::Disk), &new, true, &[]);
        assert_eq!((offered.len(), compilations), (3, 1), "{offered:?}");
        let text = loaded.unwrap_err();
        let words =
            ["cubin (Disk)", "cubin (Compiled)", "as PTX (Compiled", "CUDA_ERROR_INVALID_IMAGE (200)"];
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}
