//! A target under libFuzzer: the one that TORTIE_FUZZ_TARGET names.
//! In: libFuzzer's arguments. Out: its report; an input that breaks a promise is written where it was told to.
//! Invariant: the same binary, seed and corpus make the same run.
//! Never: starts without knowing its target.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("TORTIE_FUZZ_TARGET").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| panic!("TORTIE_FUZZ_TARGET={name}: no such target"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
