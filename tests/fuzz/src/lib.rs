//! What every fuzz target is made of.

pub use libfuzzer_sys;
pub use probe_tests::fuzz;

/// The entrances that libFuzzer calls, for one of [`fuzz::TARGETS`].
#[macro_export]
macro_rules! target {
    ($target:expr) => {
        #[global_allocator]
        static ALLOCATOR: $crate::fuzz::memory::Counting = $crate::fuzz::memory::Counting;

        $crate::libfuzzer_sys::fuzz_target!(|input: &[u8]| $target.run(input));

        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, size_max: usize, seed: u32| {
            $crate::mutate(&$target, data, size, size_max, seed)
        });
    };
}

/// One half of the mutations is the target's own, the other libFuzzer's. Returns the new size.
pub fn mutate(target: &fuzz::Target, data: &mut [u8], size: usize, size_max: usize, seed: u32) -> usize {
    let changed = if seed % 2 == 0 { None } else { target.mutate(&data[..size], size_max, seed) };
    let Some(changed) = changed else {
        return libfuzzer_sys::fuzzer_mutate(data, size, size_max);
    };
    data[..changed.len()].copy_from_slice(&changed);
    changed.len()
}
