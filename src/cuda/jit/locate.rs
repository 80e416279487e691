//! Where NVRTC lies: a list of library files to try, most specific first, and what to tell who has none.

use std::env::consts::OS;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names an NVRTC library goes by, newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};

/// What to do when there is no NVRTC.
pub(crate) const ADVICE: &str = "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc-cu12`, or set MULTIMIX_NVRTC to the library's path";

/// The places where NVRTC is looked for, in order.
///
/// [`SearchPath::from_environment`] gives those that the toolkit, pip, conda and the system's loader use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    /// `MULTIMIX_NVRTC`: this library and no other. A folder stands for the library in it.
    pub only: Option<PathBuf>,
    /// Folders that may hold the library.
    pub folders: Vec<PathBuf>,
    /// Names to ask the system's loader for, after all folders.
    pub names: Vec<String>,
}

impl SearchPath {
    /// `MULTIMIX_NVRTC`; else the loader's path variable, `CUDA_HOME`, `CUDA_PATH`, `/usr/local/cuda`, the
    /// environments of pip and conda that are active or on `PATH`, and last the names that the system's
    /// loader knows. But for the first, which names one library, relative paths do not count: nothing is
    /// looked for in the working directory.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let only = variable("MULTIMIX_NVRTC").map(PathBuf::from);
        let folder = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
        let list = |name| {
            let all = variable(name).unwrap_or_default();
            std::env::split_paths(&all).filter(|folder| folder.is_absolute()).collect::<Vec<_>>()
        };
        let mut folders = list(loader_variable());
        for root in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().filter_map(folder) {
            folders.extend(toolkit_folders(&root));
        }
        folders.extend(toolkit_folders(Path::new("/usr/local/cuda")));
        let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder);
        let on_path = list("PATH").into_iter().filter_map(|bin| bin.parent().map(Path::to_path_buf));
        let local = folder("HOME").map(|home| home.join(".local"));
        for prefix in active.chain(on_path).chain(local) {
            folders.extend(prefix_folders(&prefix));
        }
        let mut seen = std::collections::HashSet::new();
        folders.retain(|folder| seen.insert(folder.clone()));
        Self { only, folders, names: NAMES.iter().map(|&name| name.to_owned()).collect() }
    }

    /// The library files that exist, in the order in which they should be tried.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match &self.only {
            Some(only) if only.is_dir() => in_folder(only).collect(),
            Some(only) => vec![only.clone()],
            None => self.folders.iter().flat_map(|folder| in_folder(folder)).collect(),
        }
    }

    /// The names to ask the loader for once no file served.
    pub(crate) fn loader_names(&self) -> &[String] {
        if self.only.is_some() { &[] } else { &self.names }
    }

    /// One sentence on what was searched.
    pub(crate) fn describe(&self) -> String {
        match &self.only {
            Some(only) => format!("MULTIMIX_NVRTC names {}, which holds no loadable NVRTC", only.display()),
            None => format!(
                "no NVRTC library in {} folders ({}, the toolkit's, pip's and conda's) nor known to the loader",
                self.folders.len(),
                loader_variable()
            ),
        }
    }
}

fn loader_variable() -> &'static str {
    match OS {
        "windows" => "PATH",
        "macos" => "DYLD_LIBRARY_PATH",
        _ => "LD_LIBRARY_PATH",
    }
}

fn in_folder(folder: &Path) -> impl Iterator<Item = PathBuf> {
    NAMES.iter().map(|name| folder.join(name)).filter(|file| file.is_file())
}

fn toolkit_folders(root: &Path) -> Vec<PathBuf> {
    ["lib64", "lib", "targets/x86_64-linux/lib", "bin/x64", "bin"]
        .iter()
        .map(|folder| root.join(folder))
        .collect()
}

/// The library folder of a conda or system prefix, and those of the NVRTC wheels in its site-packages.
fn prefix_folders(prefix: &Path) -> Vec<PathBuf> {
    let lib = prefix.join("lib");
    let mut folders = vec![lib.clone()];
    let mut packages = vec![prefix.join("Lib/site-packages")]; // Windows
    let pythons = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    for python in pythons.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3")) {
        packages.push(python.path().join("site-packages"));
        packages.push(python.path().join("dist-packages"));
    }
    let wheels =
        ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cu13/bin/x86_64", "nvidia/cuda_nvrtc/bin"];
    folders.extend(packages.iter().flat_map(|package| wheels.map(|wheel| package.join(wheel))));
    folders.retain(|folder| folder.is_dir());
    folders
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn touch(file: &Path) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, b"").unwrap();
    }

    #[test]
    fn the_wheels_of_an_environment_and_of_a_python_on_the_path_are_found() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("venv/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        let new = root.path().join("py/lib/python3.13/site-packages/nvidia/cu13/lib/libnvrtc.so.13");
        touch(&old);
        touch(&new);
        let variables = |name: &str| match name {
            "VIRTUAL_ENV" => Some(root.path().join("venv").into_os_string()),
            "PATH" => Some(root.path().join("py/bin").into_os_string()),
            _ => None,
        };
        let files = SearchPath::from_variables(variables).files();
        let place = |file| files.iter().position(|found| found == file);
        assert!(place(&old).is_some() && place(&old) < place(&new), "{files:?}");
    }

    #[test]
    fn the_variable_excludes_everything_else() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("a/libnvrtc.so.12"));
        touch(&root.path().join("b/libnvrtc.so.13"));
        let folder = |name: &str| Some(root.path().join(name).into_os_string());
        let variables = |name: &str| match name {
            "MULTIMIX_NVRTC" => folder("a"),
            "LD_LIBRARY_PATH" => folder("b"),
            _ => None,
        };
        let search = SearchPath::from_variables(variables);
        assert_eq!(search.files(), [root.path().join("a/libnvrtc.so.12")]);
        assert!(search.loader_names().is_empty());
    }

    #[test]
    fn the_loader_path_comes_before_the_toolkit() {
        let root = tempfile::tempdir().unwrap();
        touch(&root.path().join("path/libnvrtc.so"));
        touch(&root.path().join("cuda/lib64/libnvrtc.so.13"));
        let variables = |name: &str| match name {
            "LD_LIBRARY_PATH" => Some(root.path().join("path").into_os_string()),
            "CUDA_HOME" => Some(root.path().join("cuda").into_os_string()),
            _ => None,
        };
        let files = SearchPath::from_variables(variables).files();
        assert_eq!(
            files[..2],
            [root.path().join("path/libnvrtc.so"), root.path().join("cuda/lib64/libnvrtc.so.13")]
        );
    }

    /// Or whoever fills the folder that a program is started in would choose what it loads.
    #[test]
    fn nothing_is_looked_for_in_the_working_directory() {
        let root = tempfile::tempdir().unwrap();
        let (lists, single) = ("::.:relative/bin:./lib", "relative");
        let absolute = root.path().join("bin");
        let variables = |name: &str| match name {
            "PATH" | "LD_LIBRARY_PATH" => Some(format!("{lists}:{}", absolute.display()).into()),
            "CUDA_HOME" | "CUDA_PATH" | "CUDA_ROOT" | "VIRTUAL_ENV" | "CONDA_PREFIX" | "HOME" => {
                Some(single.into())
            }
            _ => None,
        };
        let folders = SearchPath::from_variables(variables).folders;
        assert!(folders.contains(&absolute), "of the loader's list");
        let relative: Vec<_> = folders.iter().filter(|folder| !folder.is_absolute()).collect();
        assert!(relative.is_empty(), "{relative:?}");
    }
}
