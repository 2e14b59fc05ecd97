//! What is fuzzed: for each parser of foreign bytes a function that takes any bytes and panics where a promise is broken.
//!
//! The same functions run in `tests/fuzz` (cargo-fuzz, on nightly) and over the kept corpora in `tests/tests/fuzz_corpus.rs`
//! (stable, in every `cargo xtask test`). A new target is a module here, a line in [`TARGETS`], a file in
//! `tests/fuzz/fuzz_targets`, a folder of inputs in `tests/data/fuzz` and its sources in `xtask/src/fuzz.rs`.

pub mod http_response;
pub mod manifest;
pub mod memory;
pub mod mutation;
pub mod state;

use self::memory::Bound;

/// One parser, and what it promises.
pub struct Target {
    /// As its file in `fuzz_targets` and its folder in `tests/data/fuzz` are called.
    pub name: &'static str,
    /// Words of its language, as libFuzzer's `-dict` takes them.
    pub dictionary: &'static str,
    /// Panics where a promise is broken.
    check: fn(&[u8]),
    /// What the check may take of the heap at any time.
    memory: Bound,
    /// Changes that keep the input what it is.
    mutate: Mutate,
}

/// From input, dictionary, bytes at most and seed.
type Mutate = fn(&[u8], &str, usize, u64) -> Option<Vec<u8>>;

/// Everything that is fuzzed.
pub const TARGETS: [&Target; 3] = [&MANIFEST, &HTTP_RESPONSE, &STATE];

/// Manifests: YAML and JSON to pods.
pub const MANIFEST: Target = Target {
    name: "manifest",
    dictionary: include_str!("../data/fuzz/manifest.dict"),
    check: manifest::check,
    memory: manifest::MEMORY,
    mutate: mutation::lines,
};

/// Responses to httpGet probes.
pub const HTTP_RESPONSE: Target = Target {
    name: "http_response",
    dictionary: include_str!("../data/fuzz/http_response.dict"),
    check: http_response::check,
    memory: http_response::MEMORY,
    mutate: mutation::lines,
};

/// The state file.
pub const STATE: Target = Target {
    name: "state",
    dictionary: include_str!("../data/fuzz/state.dict"),
    check: state::check,
    memory: state::MEMORY,
    mutate: state::mutate,
};

impl Target {
    /// Runs the check on one input.
    ///
    /// # Panics
    /// Where a promise is broken, and where the check took more of the heap than it may.
    pub fn run(&self, input: &[u8]) {
        let peak = memory::peak(|| (self.check)(input));
        let max = self.memory.bytes_max(input.len());
        assert!(peak <= max, "{}: {peak} bytes of heap for an input of {}, more than {max}", self.name, input.len());
    }

    /// A changed copy of the input, at most `len_max` bytes long; the same for the same arguments. `None` where only a change of
    /// bytes is of use.
    #[must_use]
    pub fn mutate(&self, input: &[u8], len_max: usize, seed: u32) -> Option<Vec<u8>> {
        (self.mutate)(input, self.dictionary, len_max, seed.into())
    }
}
