//! What is measured of a card, on the shim.

use std::sync::Arc;
use std::time::Duration;

use v4_cuda::kernels::Kernels;
use v4_cuda::measure;
use v4_cuda_shim::driver::Schedule;
use v4_cuda_shim::{Shim, ShimOptions};

fn shim(pinned: u64) -> Arc<Shim> {
    Arc::new(Shim::new(ShimOptions {
        schedule: Schedule::Eager,
        pinned,
        ..ShimOptions::default()
    }))
}

#[test]
fn pinned_memory_is_tried_up_to_its_limit_and_given_back() {
    // Whole steps, then a quarter of one, a sixteenth, and so on.
    let limit = (64 << 20) + (16 << 20) + (3 << 20);
    let card = shim(limit);
    let found = measure::pinned(&card, 1 << 30).unwrap();
    assert!(found.refused);
    assert_eq!(found.bytes, limit);
    assert_eq!(measure::pinned(&card, 1 << 30).unwrap(), found);
    // No more than was asked for.
    let found = measure::pinned(&card, 64 << 20).unwrap();
    assert_eq!((found.bytes, found.refused), (64 << 20, false));
    let found = measure::pinned(&card, 0).unwrap();
    assert_eq!((found.bytes, found.refused), (0, false));
    let none = measure::pinned(&shim(0), 1 << 30).unwrap();
    assert_eq!((none.bytes, none.refused), (0, true));
}

#[test]
fn copies_are_measured_with_as_much_memory_as_there_is() {
    let card = Arc::new(Shim::new(ShimOptions {
        schedule: Schedule::Eager,
        memory: 40 << 20,
        pinned: 20 << 20,
        ..ShimOptions::default()
    }));
    let rates = measure::rates(&card).unwrap();
    for rate in [rates.to_card, rates.from_card, rates.within] {
        assert!(rate.is_finite() && rate > 0.0, "{rates:?}");
    }
    assert!(measure::rates(&shim(0)).is_err(), "nothing can be pinned");
}

#[test]
fn latencies_end_where_work_is_done_late() {
    for schedule in [Schedule::Eager, Schedule::Late, Schedule::Random(3)] {
        let card = Arc::new(Shim::new(ShimOptions {
            schedule,
            ..ShimOptions::default()
        }));
        let latencies = measure::latencies(&Kernels::load(&card).unwrap()).unwrap();
        assert!(latencies.wait >= Duration::from_nanos(1), "{latencies:?}");
        assert!(latencies.flag >= Duration::from_nanos(1), "{latencies:?}");
    }
}
