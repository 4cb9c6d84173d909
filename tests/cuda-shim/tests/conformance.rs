//! The same checks for every implementation of `Driver`.

mod card;

use std::sync::Arc;

use card::every_schedule;
use v4_cuda_shim::{Shim, ShimOptions, conformance};

#[test]
fn the_shim_in_each_of_its_ways() {
    for options in every_schedule() {
        let shim = Arc::new(Shim::new(options));
        conformance::check(&shim).unwrap();
    }
}

#[test]
fn a_shim_that_can_less() {
    let shim = Arc::new(Shim::new(ShimOptions {
        can_wait_value: false,
        can_register: false,
        ..ShimOptions::random(7)
    }));
    conformance::check(&shim).unwrap();
}
