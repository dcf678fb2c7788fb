//! A fuzzer for one of the targets of `groundswell::fuzz`: the one that `FUZZ_TARGET` names.
//! `dev/fuzz` compiles and runs it.

#![no_main]

use std::{env, sync::LazyLock};

use groundswell::fuzz::TARGETS;

/// The function of the chosen target.
static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("FUZZ_TARGET names no target: `{name}`")).run
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET(input));
