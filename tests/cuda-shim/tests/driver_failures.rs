//! Calls that are wrong, and cards that fail: each error names the call.

#![allow(unsafe_code)] // Launches with wrong arguments.

mod card;

use card::{Access, Rig, access, assert_says, every_schedule, is_sanitized, late};
use v4_cuda::args::{Add, Args, Field};
use v4_cuda::driver::{Driver, EventId, EventUse, Extent, FunctionId, MOST_SHARED, ModuleId};
use v4_cuda::driver::{Signature, StreamId, code};
use v4_cuda::kernels::KNOWN;
use v4_cuda::owned::Event;
use v4_cuda_shim::driver::Faults;
use v4_cuda_shim::kernels;

#[test]
fn kernels_of_the_shim_are_those_that_are_loaded() {
    let compiled = kernels().into_iter().map(|kernel| kernel.name());
    let mut compiled: Vec<_> = compiled
        .filter(|name| !name.starts_with("fault_"))
        .collect();
    let mut known: Vec<_> = KNOWN.iter().map(|known| known.signature.name).collect();
    compiled.sort_unstable();
    known.sort_unstable();
    assert_eq!(compiled, known);
    // And are loaded, with the sizes that the C++ side knows.
    drop(Rig::new(late()));
}

#[test]
fn a_kernel_must_be_there_and_take_what_it_is_given() {
    let rig = Rig::new(late());
    let module = rig.faults;
    let of = |name, args_size| Signature {
        name,
        args_size,
        addresses: Add::ADDRESSES,
    };
    let unknown = rig.shim.function(module, &of("adds", 24));
    assert_says(unknown, &["loading of adds", "NOT_FOUND"]);
    let other = rig.shim.function(module, &of("add", 32));
    assert_says(other, &["loading of add", "24 bytes", "32"]);
    let no_module = rig.shim.function(ModuleId(0), &of("add", 24));
    assert_says(no_module, &["loading of add", "INVALID_HANDLE"]);
}

#[test]
fn a_launch_needs_all_of_its_arguments_and_an_extent_that_cards_have() {
    let rig = Rig::new(late());
    let out = rig.space(16);
    let function = rig.fault("fault_write_at");
    let args = access(out.start(), out.start(), 0).bytes();
    let launch = |extent, args: &[u8]| {
        // SAFETY: all of these are refused.
        unsafe { rig.shim.launch(function, extent, args, rig.stream.id()) }
    };
    let row = Extent::row(1, 32);
    let short = launch(row, &args[..24]);
    let size = size_of::<Access>().to_string();
    assert_says(short, &["launch of fault_write_at", &size, "not 24"]);
    for extent in [
        Extent::row(0, 32),
        Extent::row(1, 0),
        Extent::row(1, 33),
        Extent::row(1, 1056),
        Extent::grid([1, 65536, 1], 32),
        Extent::grid([1, 1, 65536], 32),
        row.with_shared(MOST_SHARED + 1),
    ] {
        assert_says(launch(extent, &args), &["launch of fault_write_at"]);
    }
    launch(row.with_shared(MOST_SHARED), &args).unwrap();
    rig.stream.synchronize().unwrap();
    // SAFETY: it is refused.
    let unknown = unsafe { rig.shim.launch(FunctionId(0), row, &args, rig.stream.id()) };
    assert_says(unknown, &["launch of a kernel", "INVALID_HANDLE"]);
}

#[test]
fn handles_that_are_none_are_refused() {
    let rig = Rig::new(late());
    let (shim, stream) = (&rig.shim, StreamId(0));
    let gone = shim.stream_create().unwrap();
    shim.stream_destroy(gone).unwrap();
    for stream in [stream, gone] {
        assert_says(shim.stream_synchronize(stream), &["wait for a stream"]);
        assert_says(shim.stream_query(stream), &["whether a stream is done"]);
        assert_says(shim.stream_destroy(stream), &["end of a stream"]);
        assert_says(shim.begin_capture(stream), &["begin of a capture"]);
    }
    let event = EventId(0);
    assert_says(shim.event_synchronize(event), &["wait for an event"]);
    assert_says(shim.event_query(event), &["whether an event is reached"]);
    assert_says(shim.event_destroy(event), &["end of an event"]);
    let record = shim.event_record(event, rig.stream.id());
    assert_says(record, &["record of an event", "INVALID_HANDLE"]);
    let wait = shim.stream_wait_event(rig.stream.id(), event);
    assert_says(wait, &["wait of a stream for an event", "INVALID_HANDLE"]);
    assert_says(shim.unload(ModuleId(0)), &["unloading of a module"]);
    assert_says(shim.allocate(0), &["allocation of 0 bytes"]);
    assert_says(shim.host_allocate(0), &["allocation of 0 bytes of pinned"]);
}

#[test]
fn a_kernel_that_breaks_a_rule_ends_the_card() {
    if is_sanitized() {
        return;
    }
    for options in every_schedule() {
        let rig = Rig::new(options);
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[1.0; 64]));
        let event = Event::new(&rig.shim, EventUse::default()).unwrap();
        let failed = rig.run_fault("fault_write_at", access(y.start(), x.start(), 64));
        let error = failed.unwrap_err();
        assert_eq!(error.code(), Some(code::ILLEGAL_ADDRESS));
        assert!(error.is_fatal() && !error.is_out_of_memory());
        // Whatever is asked from now on.
        let cause = "fault_write_at";
        assert_says(rig.add(&rig.stream, &y, &x), &["launch of", cause]);
        assert_says(event.record(&rig.stream), &["record of an event", cause]);
        assert_says(event.synchronize(), &["wait for an event", cause]);
        assert_says(rig.shim.memory(), &["free memory", cause]);
        assert_says(rig.shim.allocate(1), &["allocation", cause]);
        assert_says(rig.shim.clear_error(), &["wait for the card", cause]);
        assert_says(rig.shim.pause(), &["wait for a value in memory", cause]);
        assert_says(
            rig.stream.capture(|| Ok(())),
            &["begin of a capture", cause],
        );
    }
}

#[test]
fn the_launch_that_is_to_fail_fails_when_it_runs() {
    for options in every_schedule() {
        let rig = Rig::new(options.with_faults(Faults {
            launch: Some(2),
            ..Faults::default()
        }));
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[1.0; 64]));
        let queue = || {
            rig.add(&rig.stream, &y, &x)?;
            rig.add(&rig.stream, &y, &x)
        };
        let graph = rig.stream.capture(queue).unwrap();
        // SAFETY: all buffers are there until the card is waited for.
        let launched = unsafe { graph.launch(&rig.stream) };
        let error = launched.and_then(|()| rig.stream.synchronize());
        let error = error.unwrap_err();
        assert_eq!(error.code(), Some(code::LAUNCH_FAILED));
        assert!(error.is_fatal());
    }
}

#[test]
fn a_card_that_is_lost_refuses_every_call() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[1.0; 64]));
        rig.add(&rig.stream, &y, &x).unwrap();
        let calls = rig.shim.counts().calls;
        rig.shim.set_faults(Faults {
            lost: Some(calls + 2),
            ..Faults::default()
        });
        rig.add(&rig.stream, &y, &x).unwrap();
        assert_says(rig.add(&rig.stream, &y, &x), &["launch", "card is lost"]);
        assert_says(rig.stream.synchronize(), &["wait for a stream", "lost"]);
        let error = rig.shim.memory().unwrap_err();
        assert!(error.is_fatal());
    }
}

#[test]
fn a_thread_that_waits_hears_of_the_loss() {
    let rig = Rig::new(v4_cuda_shim::ShimOptions::threaded(1));
    let flag = rig.pinned(1);
    // SAFETY: the word is there until the card is gone.
    unsafe {
        let id = rig.stream.id();
        rig.shim.stream_wait_value(id, flag.device(), 1).unwrap();
    }
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.stream.synchronize());
        std::thread::sleep(std::time::Duration::from_millis(20));
        rig.shim.set_faults(Faults {
            lost: Some(1),
            ..Faults::default()
        });
        assert!(rig.shim.memory().is_err());
        assert_says(waiting.join().unwrap(), &["wait for a stream", "lost"]);
    });
}
