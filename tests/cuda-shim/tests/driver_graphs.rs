//! Graphs: what they keep, and what spoils a capture.

#![allow(unsafe_code)] // Launches.

mod card;

use card::{Rig, access, assert_says, bits, every_schedule, late};
use v4_cuda::driver::{Driver, EventUse};
use v4_cuda::owned::Event;
use v4_cuda_shim::ShimOptions;
use v4_cuda_shim::driver::{Faults, Schedule};

#[test]
fn a_graph_does_its_work_when_it_is_launched() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[2.0; 64]));
        let queue = || {
            rig.add(&rig.stream, &y, &x)?;
            rig.add(&rig.stream, &x, &y)
        };
        let graph = rig.stream.capture(queue).unwrap();
        assert_eq!(rig.get(&y), [1.0; 64], "captured work is not done");
        let before = rig.shim.counts();
        for _ in 0..2 {
            // SAFETY: all buffers are there until the card is waited for.
            unsafe { graph.launch(&rig.stream).unwrap() };
        }
        assert_eq!(rig.get(&y), [8.0; 64]);
        assert_eq!(rig.get(&x), [13.0; 64]);
        let after = rig.shim.counts();
        assert_eq!(after.graph_launches, before.graph_launches + 2);
        assert_eq!(after.kernels, before.kernels + 4);
        assert_eq!(after.launches, before.launches);
    }
}

#[test]
fn an_empty_graph_is_no_work() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let graph = rig.stream.capture(|| Ok(())).unwrap();
        // SAFETY: it does nothing.
        unsafe { graph.launch(&rig.stream).unwrap() };
        rig.stream.synchronize().unwrap();
    }
}

#[test]
fn arguments_are_those_of_the_capture_and_memory_that_of_the_launch() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let (out, table) = (rig.space(4), rig.put(&[0.0; 4]));
        let write = rig.fault("fault_write_at");
        let read = rig.fault("fault_read_at");
        // A word of the host's that changes is not looked at again.
        let mut args = access(out.start(), table.start(), 1);
        let graph = rig
            .stream
            .capture(|| {
                // SAFETY: both buffers have four words, and are there until the end.
                unsafe {
                    rig.launch(write, &args)?;
                    args.at = 2;
                    rig.launch(read, &args)
                }
            })
            .unwrap();
        args.at = 3;
        args.value = 8;
        table.write(&rig.stream, 8, &5u32.to_ne_bytes()).unwrap();
        // SAFETY: the buffers are still there.
        unsafe { graph.launch(&rig.stream).unwrap() };
        let got = bits(&rig.get(&out));
        assert_eq!(
            got[..2],
            [5, 7],
            "the word of the table is new, the value old"
        );
        // What must change from launch to launch lies in memory.
        table.write(&rig.stream, 8, &6u32.to_ne_bytes()).unwrap();
        // SAFETY: as above.
        unsafe { graph.launch(&rig.stream).unwrap() };
        assert_eq!(bits(&rig.get(&out))[0], 6);
        assert_eq!(args.value, 8);
    }
}

#[test]
fn addresses_are_kept_also_if_the_buffer_is_another() {
    let rig = Rig::new(late());
    let y = rig.put(&[1.0; 64]);
    let x = rig.put(&[2.0; 64]);
    let graph = rig.stream.capture(|| rig.add(&rig.stream, &y, &x)).unwrap();
    drop(x);
    let _new = rig.put(&[4.0; 64]);
    // SAFETY: that the promise is broken is what is tested, and the shim catches it.
    unsafe { graph.launch(&rig.stream).unwrap() };
    let failed = rig.stream.synchronize();
    assert_says(failed, &["kernel add", "byte 8", "given back"]);
}

/// A graph of two streams: `y += x` on one, `z += x` on the other, then `y += z` on the first.
fn fork_and_join(options: ShimOptions, joins: bool) -> Result<Vec<f32>, String> {
    let rig = Rig::new(options);
    let other = rig.stream();
    let forked = Event::new(&rig.shim, EventUse::default()).unwrap();
    let joined = Event::new(&rig.shim, EventUse::default()).unwrap();
    let (x, y, z) = (
        rig.put(&[1.0; 64]),
        rig.put(&[10.0; 64]),
        rig.put(&[100.0; 64]),
    );
    let queue = || {
        forked.record(&rig.stream)?;
        other.wait(&forked)?;
        rig.add(&rig.stream, &y, &x)?;
        rig.add(&other, &z, &x)?;
        joined.record(&other)?;
        if joins {
            rig.stream.wait(&joined)?;
        }
        rig.add(&rig.stream, &y, &z)
    };
    let graph = rig
        .stream
        .capture(queue)
        .map_err(|error| error.to_string())?;
    // SAFETY: all buffers are there until the card is waited for.
    unsafe { graph.launch(&rig.stream).unwrap() };
    let result = rig.get(&y);
    // Both streams are as they were before the capture.
    rig.add(&other, &z, &x).unwrap();
    other.synchronize().unwrap();
    Ok(result)
}

#[test]
fn other_streams_take_part_by_events() {
    for options in every_schedule() {
        assert_eq!(fork_and_join(options, true).unwrap(), [112.0; 64]);
    }
}

#[test]
fn a_stream_that_took_part_must_be_waited_for() {
    let error = fork_and_join(late(), false).unwrap_err();
    assert!(error.contains("end of a capture"), "{error}");
    assert!(error.contains("UNJOINED"), "{error}");
}

#[test]
fn parts_of_a_graph_run_in_any_order_that_it_allows() {
    // Two parts that write the same word, with nothing between them: a fault of the program.
    let run = |seed| {
        let rig = Rig::new(ShimOptions::random(seed));
        let other = rig.stream();
        let [forked, joined] =
            [(); 2].map(|()| Event::new(&rig.shim, EventUse::default()).unwrap());
        let (x, y, z) = (
            rig.put(&[1.0; 64]),
            rig.put(&[2.0; 64]),
            rig.put(&[3.0; 64]),
        );
        let graph = rig.stream.capture(|| {
            forked.record(&rig.stream)?;
            other.wait(&forked)?;
            x.copy_from(&rig.stream, 0, &y, 0..256)?;
            x.copy_from(&other, 0, &z, 0..256)?;
            joined.record(&other)?;
            rig.stream.wait(&joined)
        });
        let graph = graph.unwrap();
        // SAFETY: all buffers are there until the card is waited for.
        unsafe { graph.launch(&rig.stream).unwrap() };
        rig.get(&x)[0]
    };
    let results: Vec<f32> = (0..20).map(run).collect();
    assert!(
        results.contains(&2.0) && results.contains(&3.0),
        "{results:?}"
    );
}

/// What a call does to a capture.
#[track_caller]
fn assert_spoils(words: &[&str], call: impl FnOnce(&Rig) -> Result<(), v4_cuda::DriverError>) {
    let rig = Rig::new(late());
    let y = rig.put(&[1.0; 64]);
    let x = rig.put(&[1.0; 64]);
    let mut refused = None;
    let captured = rig.stream.capture(|| {
        rig.add(&rig.stream, &y, &x)?;
        refused = call(&rig).err();
        let after = rig.add(&rig.stream, &y, &x);
        assert_says(after, &["launch of add", "INVALIDATED"]);
        Ok(())
    });
    let refused = refused.expect("the call is refused").to_string();
    assert_says(captured, &["end of a capture", "INVALIDATED"]);
    for word in words {
        assert!(refused.contains(word), "{word:?} is not in: {refused}");
    }
    // The stream can be used again.
    rig.add(&rig.stream, &y, &x).unwrap();
    assert_eq!(rig.get(&y), [2.0; 64]);
}

#[test]
fn calls_that_spoil_a_capture_are_refused() {
    let unsupported = ["CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"];
    assert_spoils(&unsupported, |rig| rig.stream.synchronize());
    assert_spoils(&unsupported, |rig| rig.stream.is_idle().map(drop));
    assert_spoils(&unsupported, |rig| rig.shim.synchronize());
    assert_spoils(&unsupported, |rig| rig.shim.allocate(64).map(drop));
    assert_spoils(&unsupported, |rig| rig.shim.host_allocate(64).map(drop));
    assert_spoils(&unsupported, |rig| {
        let event = Event::new(&rig.shim, EventUse::default())?;
        event.record(&rig.stream)?;
        event.synchronize()
    });
}

#[test]
fn a_copy_of_memory_that_is_not_pinned_spoils_a_capture() {
    let rig = Rig::new(late());
    let y = rig.put(&[1.0; 64]);
    let host = [0u8; 256];
    let captured = rig.stream.capture(|| {
        let from = std::ptr::NonNull::from_ref(&host).cast();
        // SAFETY: it is refused.
        unsafe {
            rig.shim
                .copy_to_device(y.start(), from, 256, rig.stream.id())
        }
    });
    let expected = ["copy to the card", "not pinned", "CAPTURE_UNSUPPORTED"];
    assert_says(captured, &expected);
    assert_eq!(rig.get(&y), [1.0; 64]);
}

#[test]
fn a_captured_stream_does_not_wait_for_what_is_outside() {
    let rig = Rig::new(late());
    let other = rig.stream();
    let event = Event::new(&rig.shim, EventUse::default()).unwrap();
    event.record(&other).unwrap();
    let captured = rig.stream.capture(|| rig.stream.wait(&event));
    let expected = ["wait of a stream for an event", "CAPTURE_ISOLATION"];
    assert_says(captured, &expected);
    // Nor the other way round, once the capture has ended.
    let inside = Event::new(&rig.shim, EventUse::default()).unwrap();
    let graph = rig.stream.capture(|| inside.record(&rig.stream)).unwrap();
    assert_says(other.wait(&inside), &["capture that has ended"]);
    drop(graph);
}

#[test]
fn captures_begin_and_end_in_their_place() {
    let rig = Rig::new(late());
    let (id, other) = (rig.stream.id(), rig.stream());
    assert_says(rig.shim.end_capture(id), &["end of a capture", "not being"]);
    rig.shim.begin_capture(id).unwrap();
    assert_says(
        rig.shim.begin_capture(id),
        &["begin of a capture", "already"],
    );
    std::thread::scope(|scope| {
        let there = scope.spawn(|| rig.shim.end_capture(id));
        assert_says(there.join().unwrap(), &["WRONG_THREAD"]);
        // Another thread may allocate meanwhile.
        let there = scope.spawn(|| rig.shim.memory().map(drop));
        there.join().unwrap().unwrap();
    });
    let event = Event::new(&rig.shim, EventUse::default()).unwrap();
    event.record(&rig.stream).unwrap();
    other.wait(&event).unwrap();
    assert_says(rig.shim.end_capture(other.id()), &["UNMATCHED"]);
    let graph = rig.shim.end_capture(id).unwrap();
    rig.shim.graph_destroy(graph).unwrap();
    assert_says(rig.shim.graph_destroy(graph), &["INVALID_HANDLE"]);
    assert_says(rig.shim.instantiate(graph), &["instantiation of a graph"]);
}

#[test]
fn a_graph_runs_once_at_a_time() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let other = rig.stream();
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[1.0; 64]));
        // Doubling `y` in two steps: steps of two runs mixed would give other values.
        let graph = rig.stream.capture(|| {
            x.copy_from(&rig.stream, 0, &y, 0..256)?;
            rig.add(&rig.stream, &y, &x)
        });
        let graph = graph.unwrap();
        // SAFETY: all buffers are there until the card is waited for.
        unsafe {
            graph.launch(&rig.stream).unwrap();
            graph.launch(&other).unwrap();
        }
        rig.shim.synchronize().unwrap();
        assert_eq!(rig.get(&y), [4.0; 64]);
    }
}

#[test]
fn a_running_graph_is_not_given_back() {
    let rig = Rig::new(late());
    let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[1.0; 64]));
    let id = rig.stream.id();
    rig.shim.begin_capture(id).unwrap();
    rig.add(&rig.stream, &y, &x).unwrap();
    let graph = rig.shim.end_capture(id).unwrap();
    let exec = rig.shim.instantiate(graph).unwrap();
    rig.shim.graph_destroy(graph).unwrap();
    // SAFETY: all buffers are there until the card is waited for.
    unsafe { rig.shim.graph_launch(exec, id).unwrap() };
    assert_says(rig.shim.exec_destroy(exec), &["end of a graph", "running"]);
    rig.stream.synchronize().unwrap();
    rig.shim.exec_destroy(exec).unwrap();
    // SAFETY: it is refused.
    let gone = unsafe { rig.shim.graph_launch(exec, id) };
    assert_says(gone, &["launch of a graph", "INVALID_HANDLE"]);
}

#[test]
fn a_launch_that_is_refused_leaves_the_rest_working() {
    let rig = Rig::new(late().with_faults(Faults {
        graph_launch: Some(2),
        ..Faults::default()
    }));
    let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[1.0; 64]));
    let graph = rig.stream.capture(|| rig.add(&rig.stream, &y, &x)).unwrap();
    // SAFETY: all buffers are there until the card is waited for.
    unsafe {
        graph.launch(&rig.stream).unwrap();
        let refused = graph.launch(&rig.stream);
        assert_says(refused, &["launch of a graph", "on purpose"]);
    }
    rig.shim.clear_error().unwrap();
    // The same work without a graph.
    rig.add(&rig.stream, &y, &x).unwrap();
    assert_eq!(rig.get(&y), [3.0; 64]);
}

#[test]
fn a_schedule_at_once_finishes_graphs_as_well() {
    let rig = Rig::new(ShimOptions {
        schedule: Schedule::Eager,
        ..late()
    });
    let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[1.0; 64]));
    let graph = rig.stream.capture(|| rig.add(&rig.stream, &y, &x)).unwrap();
    // SAFETY: all buffers are there until the card is waited for.
    unsafe { graph.launch(&rig.stream).unwrap() };
    assert!(rig.stream.is_idle().unwrap());
}
