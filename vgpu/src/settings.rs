//! What a user of the virtual GPU may choose: checks, schedule order, noise, host threads.

/// Findings beyond what hardware reports. Bounds, alignment and null are not here: they are always checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checks {
    /// Reads of global or shared memory that nobody wrote.
    pub uninitialised: bool,
    /// Unordered conflicting accesses of two threads of a block to shared memory.
    pub shared_races: bool,
    /// Unordered conflicting accesses of two threads of a launch to global memory.
    pub global_races: bool,
    /// Barriers reached by part of a warp, or completed only because threads exited.
    pub barriers: bool,
    /// Warp collectives (shfl, vote, match, redux, mma, ldmatrix) with missing lanes or wrong masks.
    pub collectives: bool,
    /// Shared memory read or overwritten while a `cp.async` into it is pending.
    pub async_copies: bool,
}

impl Checks {
    /// Everything on, the default.
    pub const ALL: Checks = Checks::every(true);
    /// Everything off: what hardware reports, no more.
    pub const NONE: Checks = Checks::every(false);

    const fn every(on: bool) -> Checks {
        Checks {
            uninitialised: on,
            shared_races: on,
            global_races: on,
            barriers: on,
            collectives: on,
            async_copies: on,
        }
    }

    /// Reads `all`, `none`, or a comma-separated list of `uninitialised`, `shared-races`, `global-races`,
    /// `barriers`, `collectives`, `async-copies`. The error is the word that is none of these.
    pub fn parse(list: &str) -> Result<Checks, String> {
        let mut checks = Checks::NONE;
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "all" => checks = Checks::ALL,
                "none" => checks = Checks::NONE,
                "uninitialised" => checks.uninitialised = true,
                "shared-races" => checks.shared_races = true,
                "global-races" => checks.global_races = true,
                "barriers" => checks.barriers = true,
                "collectives" => checks.collectives = true,
                "async-copies" => checks.async_copies = true,
                other => return Err(other.to_string()),
            }
        }
        Ok(checks)
    }
}

/// How kernels are executed.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Checks in force.
    pub checks: Checks,
    /// Order of blocks, and of warps in a block: 0 is ascending, any other value a permutation.
    pub seed: u64,
    /// Whether approximate instructions get noise within their documented bounds (drawn from `seed`).
    pub noise: bool,
    /// Host threads that execute blocks; 0 takes as many as the machine has cores.
    pub threads: usize,
    /// Warp instructions after which a launch is ended as timed out; `None` lets it run for ever.
    pub instruction_limit: Option<u64>,
    /// Whether kernels run at all. Without it a launch is checked and then forgotten, so that what a program
    /// does around its launches can be timed.
    pub execute: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            checks: Checks::ALL,
            seed: 0,
            noise: false,
            threads: 0,
            instruction_limit: None,
            execute: true,
        }
    }
}

impl Settings {
    /// Reads `VGPU_CHECKS`, `VGPU_SEED`, `VGPU_NOISE` (1 or 0), `VGPU_THREADS`, `VGPU_INSTRUCTION_LIMIT` and
    /// `VGPU_EXECUTE` (1 or 0) through `variable`; the error names the variable and what is wrong with it.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
        fn number<T: std::str::FromStr>(name: &str, text: Option<String>) -> Result<Option<T>, String> {
            let Some(text) = text else { return Ok(None) };
            match text.trim().parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(format!("{name}={text}: not a number in range")),
            }
        }
        let mut settings = Settings::default();
        if let Some(list) = variable("VGPU_CHECKS") {
            settings.checks =
                Checks::parse(&list).map_err(|word| format!("VGPU_CHECKS={list}: unknown check '{word}'"))?;
        }
        settings.seed = number("VGPU_SEED", variable("VGPU_SEED"))?.unwrap_or(0);
        settings.noise = number::<u8>("VGPU_NOISE", variable("VGPU_NOISE"))?.unwrap_or(0) != 0;
        settings.threads = number("VGPU_THREADS", variable("VGPU_THREADS"))?.unwrap_or(0);
        settings.instruction_limit = number("VGPU_INSTRUCTION_LIMIT", variable("VGPU_INSTRUCTION_LIMIT"))?;
        settings.execute = number::<u8>("VGPU_EXECUTE", variable("VGPU_EXECUTE"))?.unwrap_or(1) != 0;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_lists_are_read_and_unknown_words_refused() {
        assert_eq!(Checks::parse("all"), Ok(Checks::ALL));
        assert_eq!(Checks::parse("none"), Ok(Checks::NONE));
        let two = Checks::parse("barriers, shared-races").unwrap();
        assert_eq!(two, Checks { barriers: true, shared_races: true, ..Checks::NONE });
        assert_eq!(Checks::parse("barriers,typo"), Err("typo".to_string()));
    }

    #[test]
    fn settings_come_from_variables() {
        let read = |name: &str| match name {
            "VGPU_SEED" => Some("17".to_string()),
            "VGPU_CHECKS" => Some("none".to_string()),
            _ => None,
        };
        let settings = Settings::from_variables(read).unwrap();
        assert_eq!((settings.seed, settings.checks), (17, Checks::NONE));
        let wrong = Settings::from_variables(|name| (name == "VGPU_THREADS").then(|| "two".to_string()));
        assert_eq!(wrong, Err("VGPU_THREADS=two: not a number in range".to_string()));
    }
}
