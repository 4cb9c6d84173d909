//! The checks that users make of their cards: that they find nothing on the shim, name a kernel
//! that computes something else, and leave no kernel out.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use v4_cuda::kernels::KNOWN;
use v4_cuda_shim::driver::{Faults, Schedule};
use v4_cuda_shim::{Shim, ShimOptions};

use super::{Timed, cards};
use crate::compute::backend::cuda::check::{
    CheckFault, CheckScope, CheckSummary, Checked, Timing, check_card, time_card,
};
use crate::error::EngineError;

fn eager() -> ShimOptions {
    ShimOptions {
        schedule: Schedule::Eager,
        ..ShimOptions::default()
    }
}

/// Checks a card whose kernel `which` gives other results until one finds it; what that says.
fn fault_of(which: &'static str) -> (CheckSummary, String) {
    let faults = Faults {
        alters: Some(which),
        ..Faults::default()
    };
    let shim = Arc::new(Shim::new(eager().with_faults(faults)));
    let mut found = String::new();
    let mut seen = |checked: &Checked| match &checked.fault {
        Some(fault) => {
            assert!(checked.kernels.contains(&which), "{fault}");
            found = fault.to_string();
            ControlFlow::Break(())
        }
        None => ControlFlow::Continue(()),
    };
    let summary = check_card(&shim, CheckScope::Small, &mut seen).unwrap();
    (summary, found)
}

#[test]
fn a_card_that_computes_as_the_cpu_passes_and_runs_every_kernel() {
    for options in cards().into_iter().take(2) {
        let _timed = Timed::new("all small checks");
        let shim = Arc::new(Shim::new(options.clone()));
        let mut seen = |checked: &Checked| {
            if let Some(fault) = &checked.fault {
                panic!("{options:?}: {}: {fault}", checked.what);
            }
            let took = checked.took.as_secs_f64();
            if took > 0.5 {
                println!("{}: {took:.1} s", checked.what);
            }
            assert!(
                checked.results > 0 && checked.values > 0,
                "{}",
                checked.what
            );
            ControlFlow::Continue(())
        };
        let summary = check_card(&shim, CheckScope::Small, &mut seen).unwrap();
        let all: BTreeSet<_> = KNOWN.iter().map(|known| known.signature.name).collect();
        let right: BTreeSet<_> = summary.right.iter().copied().collect();
        let missing: Vec<_> = all.difference(&right).collect();
        assert!(missing.is_empty(), "not checked: {missing:?}");
        assert_eq!((summary.faults, summary.ended_early), (0, false));
        let kib = summary.peak_bytes >> 10;
        assert!((100..64 << 10).contains(&kib), "{kib} KiB");
    }
}

#[test]
fn a_kernel_that_computes_something_else_is_named() {
    for kernel in ["rms_norm", "mmv_i8_q8_0_8", "attend_sums"] {
        let (summary, found) = fault_of(kernel);
        assert!(
            summary.faults == 1 && summary.ended_early,
            "{kernel}: nobody saw it"
        );
        let (named, rest) = found.split_once(": ").unwrap();
        assert!(
            named.split(" or ").any(|name| name == kernel),
            "{named}, not {kernel}"
        );
        // The shape, the value and both bit patterns.
        assert!(
            rest.contains(": value ") && rest.contains(" on the card, "),
            "{rest}"
        );
        assert!(rest.matches("0x").count() == 2, "{rest}");
        assert!(
            !summary.right.contains(&kernel),
            "{kernel} gave no right result"
        );
    }
}

#[test]
fn a_card_that_fails_ends_the_checks() {
    let faults = Faults {
        launch: Some(40),
        ..Faults::default()
    };
    let shim = Arc::new(Shim::new(eager().with_faults(faults)));
    let mut last = None;
    let mut seen = |checked: &Checked| {
        assert!(last.is_none(), "nothing is checked after a failure");
        if let Some(CheckFault::Failed(error)) = &checked.fault {
            last = Some(error.to_string());
        }
        ControlFlow::Continue(())
    };
    let summary = check_card(&shim, CheckScope::Small, &mut seen).unwrap();
    assert!(summary.ended_early && summary.faults == 1);
    let said = last.unwrap();
    assert!(said.contains("CUDA error 719"), "{said}");
}

#[test]
fn short_memory_is_an_error_that_says_so() {
    let options = ShimOptions {
        memory: 1 << 10,
        ..eager()
    };
    let shim = Arc::new(Shim::new(options));
    let done = check_card(&shim, CheckScope::Small, &mut |checked| {
        match &checked.fault {
            Some(CheckFault::Failed(EngineError::Card(error))) => {
                let text = error.to_string().to_lowercase();
                assert!(text.contains("memory"), "{text}");
            }
            other => panic!("{}: {other:?}", checked.what),
        }
        ControlFlow::Continue(())
    });
    assert!(done.unwrap().ended_early);
}

#[test]
fn checks_end_when_they_are_told_to() {
    let shim = Arc::new(Shim::new(eager()));
    let mut count = 0;
    let mut seen = |_: &Checked| {
        count += 1;
        if count == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let summary = check_card(&shim, CheckScope::Small, &mut seen).unwrap();
    assert_eq!((summary.checks, summary.ended_early, count), (3, true, 3));
}

#[test]
fn kernels_are_timed_one_by_one() {
    let shim = Arc::new(Shim::new(eager()));
    let mut kernels = BTreeSet::new();
    let mut seen = |timing: &Timing| {
        assert!(
            !timing.kernels.is_empty() && !timing.took.is_zero(),
            "{timing:?}"
        );
        assert!(timing.bytes > 0, "{timing:?}");
        kernels.extend(timing.kernels.iter().copied());
        ControlFlow::Continue(())
    };
    time_card(&shim, CheckScope::Small, &mut seen).unwrap();
    // All products but those in float32 of what can be multiplied in int8, and the rest of a layer.
    let is_product = |name: &&str| name.starts_with("mm") && *name != "mmv_decoded";
    let all = KNOWN.iter().map(|known| known.signature.name);
    let missing: Vec<_> = all
        .filter(is_product)
        .filter(|name| !kernels.contains(name))
        .collect();
    assert!(missing.is_empty(), "not timed: {missing:?}");
    for name in [
        "hc_mix",
        "rms_norm",
        "rope",
        "route",
        "index_scores",
        "attend_scores",
    ] {
        assert!(kernels.contains(name), "{name}");
    }
}
