//! Streams, events and flags: what is done when.

#![allow(unsafe_code)] // Launches, and pinned memory as bytes.

mod card;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use card::{Rig, access, assert_says, bits, every_schedule, late};
use v4_cuda::driver::{Driver, EventUse};
use v4_cuda::owned::Event;
use v4_cuda_shim::ShimOptions;
use v4_cuda_shim::driver::Schedule;

#[test]
fn a_stream_does_its_work_in_order() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let x: Vec<f32> = (0..100).map(|i| i as f32 * 0.25).collect();
        let (y, x_buffer) = (rig.put(&vec![1.0; 100]), rig.put(&x));
        for _ in 0..3 {
            rig.add(&rig.stream, &y, &x_buffer).unwrap();
        }
        rig.add(&rig.stream, &x_buffer, &y).unwrap();
        let expected: Vec<f32> = x.iter().map(|x| 1.0 + x + x + x).collect();
        assert_eq!(bits(&rig.get(&y)), bits(&expected));
        let expected: Vec<f32> = x.iter().map(|x| x + (1.0 + x + x + x)).collect();
        assert_eq!(bits(&rig.get(&x_buffer)), bits(&expected));
    }
}

/// One stream makes `y`, another copies it. What the copy holds, and whether all was as written.
fn produce_and_copy(options: ShimOptions, waits: bool) -> Vec<u32> {
    let rig = Rig::new(options);
    let other = rig.stream();
    let event = Event::new(&rig.shim, EventUse::default()).unwrap();
    let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[2.0; 64]));
    let copy = rig.space(64);
    rig.add(&rig.stream, &y, &x).unwrap();
    event.record(&rig.stream).unwrap();
    if waits {
        other.wait(&event).unwrap();
    }
    copy.copy_from(&other, 0, &y, 0..256).unwrap();
    other.synchronize().unwrap();
    bits(&rig.get(&copy))
}

#[test]
fn a_stream_that_waits_for_an_event_sees_what_came_before_it() {
    for options in every_schedule() {
        assert_eq!(produce_and_copy(options, true), [3.0f32.to_bits(); 64]);
    }
}

#[test]
fn a_missing_wait_gives_another_result_for_some_seed() {
    let results: BTreeSet<Vec<u32>> = (0..20)
        .map(|seed| produce_and_copy(ShimOptions::random(seed), false))
        .collect();
    let expected = [vec![1.0f32.to_bits(); 64], vec![3.0f32.to_bits(); 64]];
    assert_eq!(results, BTreeSet::from(expected));
    // Work that comes as late as it can shows it at once, work at once never.
    assert_eq!(produce_and_copy(late(), false), [1.0f32.to_bits(); 64]);
    let eager = ShimOptions {
        schedule: Schedule::Eager,
        ..late()
    };
    assert_eq!(produce_and_copy(eager, false), [3.0f32.to_bits(); 64]);
}

#[test]
fn the_same_seed_gives_the_same_order() {
    for seed in 0..20 {
        let run = || produce_and_copy(ShimOptions::random(seed), false);
        assert_eq!(run(), run());
    }
}

#[test]
fn memory_that_nobody_has_written_holds_nans() {
    let rig = Rig::new(late());
    let space = rig.space(33);
    assert!(rig.get(&space).iter().all(|x| x.is_nan()));
    // Also after the same bytes were used by another.
    let filled = rig.put(&[1.0; 33]);
    drop(filled);
    assert!(rig.get(&rig.space(33)).iter().all(|x| x.is_nan()));
}

#[test]
fn a_copy_from_the_card_comes_no_sooner_than_it_is_waited_for() {
    let rig = Rig::new(late());
    let x = rig.put(&[5.0; 8]);
    let pinned = rig.pinned(8);
    x.read_into(&rig.stream, 0, &pinned, 0..32).unwrap();
    let word = &pinned.words()[3];
    assert_eq!(word.load(Ordering::Relaxed), 0, "it was not waited for");
    rig.stream.synchronize().unwrap();
    assert_eq!(word.load(Ordering::Relaxed), 5.0f32.to_bits());
}

#[test]
fn a_copy_to_the_card_takes_what_is_there_when_it_is_done() {
    let rig = Rig::new(late());
    let x = rig.put(&[0.0; 8]);
    let mut pinned = rig.pinned(8);
    // SAFETY: no work uses it.
    unsafe { pinned.bytes_mut() }.fill(1);
    x.write_from(&rig.stream, 0, &pinned, 0..32).unwrap();
    pinned.words()[0].store(2.0f32.to_bits(), Ordering::Relaxed);
    assert_eq!(rig.get(&x)[0], 2.0, "the host wrote too early");
}

#[test]
fn copies_of_memory_that_is_not_pinned_wait() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[2.0; 64]));
        let before = rig.shim.counts();
        rig.add(&rig.stream, &y, &x).unwrap();
        let mut host = [0f32; 64];
        let to = std::ptr::NonNull::from_mut(&mut host).cast();
        // SAFETY: both sides have as many bytes; the slice outlives the copy, which is done when
        // the call is, or this test fails.
        unsafe {
            rig.shim
                .copy_to_host(to, y.start(), 256, rig.stream.id())
                .unwrap();
        }
        assert_eq!(host, [3.0; 64]);
        let after = rig.shim.counts();
        assert_eq!(after.pageable_copies, before.pageable_copies + 1);
    }
}

#[test]
fn events_are_reached_where_they_were_recorded_last() {
    for options in every_schedule() {
        let is_late = options.schedule == Schedule::Late;
        let rig = Rig::new(options);
        let timed = EventUse {
            timing: true,
            ..EventUse::default()
        };
        let start = Event::new(&rig.shim, timed).unwrap();
        let end = Event::new(&rig.shim, timed).unwrap();
        assert!(end.is_reached().unwrap(), "it was never recorded");
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[2.0; 64]));
        end.record(&rig.stream).unwrap();
        start.record(&rig.stream).unwrap();
        rig.add(&rig.stream, &y, &x).unwrap();
        end.record(&rig.stream).unwrap();
        if is_late {
            assert!(!end.is_reached().unwrap());
            assert!(!rig.stream.is_idle().unwrap());
        }
        let since = Instant::now();
        while !end.is_reached().unwrap() {
            assert!(since.elapsed() < Duration::from_secs(20), "it never comes");
        }
        end.synchronize().unwrap();
        assert!(end.since(&start).unwrap() >= 0.0);
        assert_eq!(rig.get(&y), [3.0; 64]);
    }
}

#[test]
fn times_need_events_that_keep_them_and_were_reached() {
    let rig = Rig::new(late());
    let timed = EventUse {
        timing: true,
        sleeps: false,
    };
    let plain = Event::new(&rig.shim, EventUse::default()).unwrap();
    let start = Event::new(&rig.shim, timed).unwrap();
    plain.record(&rig.stream).unwrap();
    start.record(&rig.stream).unwrap();
    assert_says(start.since(&start), &["time between events", "NOT_READY"]);
    rig.stream.synchronize().unwrap();
    assert_says(plain.since(&start), &["not made for timing"]);
    start.since(&start).unwrap();
}

#[test]
fn the_host_sees_a_flag_and_what_was_written_before_it() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let pinned = rig.pinned(2);
        let function = rig.fault("fault_release");
        let args = access(pinned.device(), pinned.device(), 0);
        // SAFETY: the kernel writes two words, which are there until the card is waited for.
        unsafe { rig.launch(function, &args).unwrap() };
        while pinned.words()[1].load(Ordering::Acquire) != 7 {
            rig.shim.pause().unwrap();
        }
        assert_eq!(pinned.words()[0].load(Ordering::Relaxed), 21);
        rig.stream.synchronize().unwrap();
    }
}

#[test]
fn a_stream_waits_for_a_value_that_the_host_writes() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let flag = rig.pinned(1);
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[2.0; 64]));
        let other = rig.stream();
        // SAFETY: the word is there until the card is waited for.
        unsafe {
            rig.shim
                .stream_wait_value(other.id(), flag.device(), 5)
                .unwrap();
        }
        rig.add(&other, &y, &x).unwrap();
        // The other stream goes on.
        rig.add(&rig.stream, &x, &x).unwrap();
        assert_eq!(rig.get(&x), [4.0; 64]);
        flag.words()[0].store(4, Ordering::Release);
        assert!(!other.is_idle().unwrap());
        assert_eq!(rig.get(&y), [1.0; 64]);
        flag.words()[0].store(6, Ordering::Release);
        other.synchronize().unwrap();
        assert_eq!(rig.get(&y), [5.0; 64]);
    }
}

#[test]
fn another_thread_may_write_the_value() {
    for options in [late(), ShimOptions::random(3), ShimOptions::threaded(3)] {
        let rig = Rig::new(options);
        let flag = rig.pinned(1);
        // SAFETY: the word is there until the card is waited for.
        unsafe {
            let id = rig.stream.id();
            rig.shim.stream_wait_value(id, flag.device(), 1).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                flag.words()[0].store(1, Ordering::Release);
            });
            rig.stream.synchronize().unwrap();
        });
    }
}

#[test]
fn a_wait_that_would_never_end_is_an_error() {
    let rig = Rig::new(late());
    let flag = rig.pinned(1);
    // SAFETY: the word is there until the card is waited for.
    unsafe {
        let id = rig.stream.id();
        rig.shim.stream_wait_value(id, flag.device(), 1).unwrap();
    }
    assert_says(
        rig.stream.synchronize(),
        &["wait for a stream", "would never end"],
    );
    flag.words()[0].store(1, Ordering::Release);
    rig.stream.synchronize().unwrap();
}

#[test]
fn polling_for_what_nothing_writes_is_an_error() {
    let rig = Rig::new(late());
    let error = loop {
        if let Err(error) = rig.shim.pause() {
            break error;
        }
    };
    assert_says::<()>(Err(error), &["wait for a value in memory", "never end"]);
    rig.stream.synchronize().unwrap();
}

#[test]
fn a_card_that_cannot_wait_for_a_value_says_so() {
    let rig = Rig::new(ShimOptions {
        can_wait_value: false,
        ..late()
    });
    assert!(!rig.shim.card().can_wait_value);
    let flag = rig.pinned(1);
    // SAFETY: it is refused.
    let refused = unsafe {
        let id = rig.stream.id();
        rig.shim.stream_wait_value(id, flag.device(), 1)
    };
    assert_says(
        refused,
        &["wait of a stream for a value", "CUDA_ERROR_NOT_SUPPORTED"],
    );
}

#[test]
fn work_of_a_stream_that_was_given_back_is_still_done() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[2.0; 64]));
        let other = rig.stream();
        rig.add(&other, &y, &x).unwrap();
        drop(other);
        rig.shim.synchronize().unwrap();
        assert_eq!(rig.get(&y), [3.0; 64]);
    }
}

#[test]
fn one_thread_puts_work_in_while_another_waits() {
    for options in [
        late(),
        ShimOptions::random(1),
        ShimOptions::threaded(1),
        ShimOptions::threaded(2),
    ] {
        let rig = Rig::new(options);
        let (y, x) = (rig.put(&[0.0; 64]), rig.put(&[1.0; 64]));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                for _ in 0..50 {
                    rig.stream.synchronize().unwrap();
                }
            });
            for _ in 0..50 {
                rig.add(&rig.stream, &y, &x).unwrap();
            }
            waiting.join().unwrap();
        });
        assert_eq!(rig.get(&y), [50.0; 64]);
    }
}
