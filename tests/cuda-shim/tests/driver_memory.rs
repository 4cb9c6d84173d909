//! Memory of the card and of the host: who may touch what, and when.

#![allow(unsafe_code)] // Calls with wrong addresses.

mod card;

use std::process::Command;
use std::ptr::NonNull;
use std::sync::Arc;

use card::{Rig, access, assert_says, every_schedule, is_sanitized, late};
use v4_cuda::driver::{DevicePtr, Driver, Memory, Platform};
use v4_cuda::owned::{DeviceBuffer, PinnedBuffer, Registration};
use v4_cuda_shim::driver::{Faults, ShimPlatform};
use v4_cuda_shim::{Shim, ShimOptions};

#[test]
fn owners_check_the_bounds_of_copies() {
    let rig = Rig::new(late());
    let buffer = rig.put(&[1.0; 8]);
    let other = rig.space(4);
    let pinned = rig.pinned(4);
    let stream = &rig.stream;
    let mut long = [0; 33];
    assert_says(buffer.write(stream, 0, &long), &["write to the card", "33"]);
    assert_says(buffer.write(stream, 29, &long[..4]), &["buffer of 32"]);
    assert_says(buffer.read(stream, 0, &mut long), &["read from the card"]);
    assert_says(buffer.read(stream, usize::MAX, &mut long[..1]), &["read"]);
    let to_card = |at, part| buffer.write_from(stream, at, &pinned, part);
    assert_says(to_card(20, 0..16), &["copy to the card", "buffer of 32"]);
    assert_says(to_card(0, 4..17), &["copy to the card", "buffer of 16"]);
    let to_host = |at, part| buffer.read_into(stream, at, &pinned, part);
    assert_says(to_host(0, 4..17), &["copy from the card", "buffer of 16"]);
    let on_card = |at, part| buffer.copy_from(stream, at, &other, part);
    assert_says(on_card(0, 0..17), &["copy on the card", "buffer of 16"]);
    assert_says(on_card(20, 0..16), &["copy on the card", "buffer of 32"]);
    let itself = buffer.copy_from(stream, 8, &buffer, 0..9);
    assert_says(itself, &["copy on the card", "overlap"]);
    assert_says(buffer.fill(stream, 30..33, 0), &["fill", "buffer of 32"]);
    // Up to the end is fine, and nothing at all.
    buffer.write(stream, 32, &[]).unwrap();
    buffer.fill(stream, 30..32, 255).unwrap();
    buffer.copy_from(stream, 8, &buffer, 0..8).unwrap();
    assert!(rig.get(&buffer)[7].is_nan());
    assert!(DeviceBuffer::new(&rig.shim, 0).unwrap().is_empty());
}

#[test]
fn the_card_checks_them_as_well() {
    let rig = Rig::new(late());
    let buffer = rig.put(&[1.0; 8]);
    let pinned = rig.pinned(16);
    let host = NonNull::from_ref(pinned.words()).cast();
    let stream = rig.stream.id();
    let start = buffer.start();
    // SAFETY: all of these are refused.
    unsafe {
        let to_card = |to, bytes| rig.shim.copy_to_device(to, host, bytes, stream);
        let beyond = ["copy to the card", "INVALID_VALUE", "ends after 32"];
        assert_says(to_card(start, 33), &beyond);
        assert_says(to_card(start.offset(32 + 8), 1), &["outside of every"]);
        assert_says(to_card(DevicePtr(4096), 1), &["no memory of this card"]);
        let to_host = |from, bytes| rig.shim.copy_to_host(host, from, bytes, stream);
        assert_says(to_host(start, 33), &["copy from the card", "ends after"]);
        let both = rig.shim.copy(start, pinned.device(), 65, stream);
        assert_says(both, &["copy on the card"]);
        let overlap = rig.shim.copy(start.offset(4), start, 8, stream);
        assert_says(overlap, &["copy on the card", "overlap"]);
        let fill = rig.shim.fill(start.offset(1), 0, 32, stream);
        assert_says(fill, &["fill on the card", "ends after 31"]);
    }
}

#[test]
fn addresses_of_host_and_card_are_not_exchanged() {
    let rig = Rig::new(late());
    let buffer = rig.put(&[1.0; 8]);
    let stream = rig.stream.id();
    let local = [0u8; 32];
    let host = NonNull::from_ref(&local).cast();
    let as_device = DevicePtr(host.addr().get() as u64);
    let as_host = NonNull::new(buffer.start().0 as *mut u8).unwrap();
    // SAFETY: all of these are refused.
    unsafe {
        let wrong = rig.shim.copy_to_device(as_device, host, 32, stream);
        assert_says(wrong, &["copy to the card", "no memory of this card"]);
        let wrong = rig.shim.copy_to_device(buffer.start(), as_host, 32, stream);
        assert_says(wrong, &["copy to the card", "given as one of the host"]);
        let wrong = rig.shim.copy_to_host(as_host, buffer.start(), 32, stream);
        assert_says(wrong, &["copy from the card", "given as one of the host"]);
    }
    let in_argument = rig.run_fault("fault_read_at", access(buffer.start(), as_device, 0));
    let expected = [
        "launch of fault_read_at",
        "byte 8",
        "no address of this card",
    ];
    assert_says(in_argument, &expected);
}

#[test]
fn cards_have_memory_of_their_own() {
    let platform = ShimPlatform::new(vec![late(), ShimOptions::random(1)]);
    assert_eq!(platform.count().unwrap(), 2);
    assert_says(platform.open(2), &["opening card 2", "INVALID_DEVICE"]);
    let [one, other] = [0, 1].map(|i| Arc::new(platform.open(i).unwrap()));
    assert_eq!(other.card().ordinal, 1);
    let memory = DeviceBuffer::new(&one, 64).unwrap();
    let own = DeviceBuffer::new(&other, 64).unwrap();
    let stream = other.stream_create().unwrap();
    // SAFETY: it is refused.
    let wrong = unsafe { other.copy(own.start(), memory.start(), 64, stream) };
    assert_says(wrong, &["copy on the card", "no memory of this card"]);
    assert_says(one.stream_synchronize(stream), &["INVALID_HANDLE"]);
    other.stream_destroy(stream).unwrap();
}

#[test]
fn memory_that_was_given_back_is_not_used() {
    let rig = Rig::new(late());
    let stream = rig.stream.id();
    let memory = rig.shim.allocate(64).unwrap();
    let other = rig.put(&[1.0; 16]);
    // SAFETY: nothing uses it.
    unsafe { rig.shim.free(memory).unwrap() };
    // SAFETY: all of these are refused.
    unsafe {
        let twice = rig.shim.free(memory);
        assert_says(twice, &["giving back memory of the card", "before"]);
        let inside = rig.shim.free(other.start().offset(4));
        assert_says(inside, &["giving back", "not the start"]);
        let copy = rig.shim.copy(other.start(), memory, 64, stream);
        assert_says(copy, &["copy on the card", "given back"]);
        let pinned = rig.shim.host_allocate(64).unwrap();
        rig.shim.host_free(pinned).unwrap();
        let twice = rig.shim.host_free(pinned);
        assert_says(twice, &["giving back pinned memory", "before"]);
        let copy = rig
            .shim
            .copy_to_device(other.start(), pinned.host, 64, stream);
        assert_says(copy, &["copy to the card", "given back"]);
    }
    let read = rig.run_fault("fault_read_at", access(other.start(), memory, 0));
    assert_says(read, &["launch of fault_read_at", "given back"]);
}

#[test]
fn memory_that_is_given_back_too_early_is_noticed() {
    let rig = Rig::new(late());
    let memory = rig.shim.allocate(64).unwrap();
    let other = rig.put(&[1.0; 16]);
    // SAFETY: that the promise is broken is what is tested, and the shim catches it.
    unsafe {
        let id = rig.stream.id();
        rig.shim.copy(other.start(), memory, 64, id).unwrap();
        rig.shim.free(memory).unwrap();
    }
    assert_says(
        rig.stream.synchronize(),
        &["wait for a stream", "given back"],
    );
}

#[test]
fn owners_wait_before_they_give_back() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let (y, x) = (rig.put(&[1.0; 64]), rig.put(&[2.0; 64]));
        let pinned = rig.pinned(64);
        rig.add(&rig.stream, &y, &x).unwrap();
        drop(x);
        y.read_into(&rig.stream, 0, &pinned, 0..256).unwrap();
        drop(pinned);
        assert_eq!(rig.get(&y), [3.0; 64]);
    }
}

#[test]
fn writing_beside_an_allocation_is_noticed() {
    if is_sanitized() {
        return;
    }
    for (at, expected) in [
        (16, "0 bytes beyond the end of an allocation of 64 bytes"),
        (20, "16 bytes beyond the end of an allocation of 64 bytes"),
        (-1, "4 bytes before an allocation of 64 bytes"),
    ] {
        for options in every_schedule() {
            let rig = Rig::new(options);
            let out = rig.space(16);
            let args = access(out.start(), out.start(), at);
            let failed = rig.run_fault("fault_write_at", args);
            assert_says(failed, &["fault_write_at", expected, "ILLEGAL_ADDRESS"]);
        }
    }
    let rig = Rig::new(late());
    let out = rig.space(16);
    let args = access(out.start(), out.start(), 15);
    rig.run_fault("fault_write_at", args).unwrap();
    assert_eq!(rig.get(&out)[15].to_bits(), 7);
}

#[test]
fn writing_beside_pinned_memory_is_noticed() {
    if is_sanitized() {
        return;
    }
    let rig = Rig::new(late());
    let pinned = rig.pinned(16);
    let args = access(pinned.device(), pinned.device(), 17);
    let failed = rig.run_fault("fault_write_at", args);
    assert_says(failed, &["fault_write_at", "4 bytes beyond", "pinned"]);
}

#[test]
fn a_kernel_that_uses_what_it_has_not_ends_but_not_the_process() {
    for options in every_schedule() {
        let rig = Rig::new(options);
        let out = rig.space(16);
        let far = access(out.start(), out.start(), 1 << 20);
        let failed = rig.run_fault("fault_write_at", far);
        let expected = ["fault_write_at", "thread 0", "nothing", "ILLEGAL_ADDRESS"];
        assert_says(failed, &expected);
        // That card is done for.
        assert_says(rig.stream.synchronize(), &["fault_write_at"]);
        assert_says(rig.try_get(&out), &["copy from the card", "fault_write_at"]);
    }
}

#[test]
fn an_address_that_nobody_has_written_is_none() {
    if is_sanitized() {
        return;
    }
    for options in every_schedule() {
        let rig = Rig::new(options);
        let out = rig.space(16);
        let through = access(out.start(), out.start(), 1);
        let failed = rig.run_fault("fault_write_through", through);
        assert_says(failed, &["fault_write_through", "cannot be one"]);
    }
}

#[test]
fn pages_that_were_given_back_are_not_read_through_old_tables() {
    let rig = Rig::new(late());
    let out = rig.space(16);
    let gone = rig.space(1 << 16);
    let table = DeviceBuffer::new(&rig.shim, 8).unwrap();
    let inside = gone.start().offset(1 << 15).0.to_ne_bytes();
    table.write(&rig.stream, 0, &inside).unwrap();
    let args = access(out.start(), table.start(), 0);
    rig.run_fault("fault_write_through", args).unwrap();
    drop(gone);
    let failed = rig.run_fault("fault_write_through", args);
    assert_says(failed, &["fault_write_through", "nothing"]);
}

#[test]
fn small_memory_that_was_given_back_is_watched() {
    if is_sanitized() {
        return;
    }
    let rig = Rig::new(late());
    let (out, gone) = (rig.space(16), rig.space(16));
    let words = (gone.start().0 - out.start().0) / 4 + 2;
    drop(gone);
    let args = access(out.start(), out.start(), words as i64);
    let failed = rig.run_fault("fault_write_at", args);
    assert_says(failed, &["byte 8", "64 bytes that was given back"]);
}

/// Set for a child process: what it does must end it.
const CHILD: &str = "V4_SHIM_TEST_CHILD";

/// Runs a test of this program by itself, in which something must end the process.
fn assert_ends_the_process(test: &str) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(text.contains("before") && !text.contains("after"), "{text}");
    assert!(!child.status.success());
}

#[test]
fn the_host_has_no_access_to_the_cards_memory() {
    if std::env::var_os(CHILD).is_none() {
        return assert_ends_the_process("the_host_has_no_access_to_the_cards_memory");
    }
    let rig = Rig::new(late());
    let buffer = rig.put(&[1.0; 8]);
    println!("before");
    // SAFETY: there is none: it ends the process, which is what is tested.
    let value = unsafe { (buffer.start().0 as *const f32).read_volatile() };
    println!("after {value}");
}

#[test]
fn reading_beside_an_allocation_gives_nans_or_ends_in_the_sanitizer() {
    let child = std::env::var_os(CHILD).is_some();
    if !child && is_sanitized() {
        let name = "reading_beside_an_allocation_gives_nans_or_ends_in_the_sanitizer";
        return assert_ends_the_process(name);
    }
    let rig = Rig::new(late());
    let (out, input) = (rig.space(1), rig.put(&[1.0; 16]));
    println!("before");
    let args = access(out.start(), input.start(), 16);
    rig.run_fault("fault_read_at", args).unwrap();
    println!("after");
    assert!(rig.get(&out)[0].is_nan());
}

#[test]
fn memory_is_counted_and_runs_out() {
    let rig = Rig::new(ShimOptions {
        memory: 1 << 20,
        ..late()
    });
    let total = 1 << 20;
    let memory = || rig.shim.memory().unwrap();
    assert_eq!(memory(), Memory { free: total, total });
    let half = DeviceBuffer::new(&rig.shim, 1 << 19).unwrap();
    let small = DeviceBuffer::new(&rig.shim, 1).unwrap();
    let free = total - (1 << 19) - 256;
    assert_eq!(memory(), Memory { free, total });
    let refused = DeviceBuffer::new(&rig.shim, 1 << 19);
    let error = refused.unwrap_err();
    assert!(error.is_out_of_memory() && !error.is_fatal());
    let text = error.to_string();
    assert!(
        text.contains("allocation of 524288 bytes on the card"),
        "{text}"
    );
    rig.shim.clear_error().unwrap();
    drop(half);
    drop(DeviceBuffer::new(&rig.shim, 1 << 19).unwrap());
    drop(small);
    assert_eq!(memory(), Memory { free: total, total });
}

#[test]
fn the_allocation_that_is_to_fail_fails_alone() {
    let rig = Rig::new(late().with_faults(Faults {
        allocation: Some(2),
        pinning: Some(1),
        ..Faults::default()
    }));
    let refused = PinnedBuffer::new(&rig.shim, 64).unwrap_err();
    assert!(refused.is_out_of_memory());
    let _pinned = rig.pinned(64);
    let _first = rig.space(1);
    let refused = DeviceBuffer::new(&rig.shim, 4).unwrap_err();
    assert!(refused.is_out_of_memory());
    let _third = rig.space(1);
    rig.shim.clear_error().unwrap();
}

#[test]
fn pinned_memory_has_a_limit() {
    let rig = Rig::new(ShimOptions {
        pinned: 8192,
        ..late()
    });
    let memory = vec![0u8; 5000];
    let start = NonNull::from_ref(&memory[..]).cast::<u8>();
    // SAFETY: the memory is there until the end of this test.
    let register = |bytes| unsafe { Registration::new(&rig.shim, start, bytes) };
    let first = rig.pinned(1024);
    let refused = register(5000).unwrap_err();
    assert!(refused.is_out_of_memory());
    let text = refused.to_string();
    assert!(text.contains("pinning of 5000 bytes"), "{text}");
    rig.shim.clear_error().unwrap();
    let registered = register(4000).unwrap();
    assert_says(register(10), &["pinning of 10 bytes", "ALREADY_REGISTERED"]);
    assert_says(PinnedBuffer::new(&rig.shim, 1000), &["OUT_OF_MEMORY"]);
    drop(first);
    let second = rig.pinned(1000);
    drop((registered, second));
    // SAFETY: it is refused.
    let unknown = unsafe { rig.shim.host_unregister(start) };
    assert_says(unknown, &["unpinning", "NOT_REGISTERED"]);
    let rig = Rig::new(ShimOptions {
        can_register: false,
        ..late()
    });
    // SAFETY: it is refused.
    let refused = unsafe { Registration::new(&rig.shim, start, 4000) };
    assert_says(refused, &["pinning", "NOT_SUPPORTED"]);
}

#[test]
fn registered_memory_is_copied_late_and_read_by_kernels() {
    let rig = Rig::new(late());
    let mut memory = vec![1.0f32; 64];
    let start = NonNull::from_mut(&mut memory[..]).cast::<u8>();
    // SAFETY: the memory is there until the end of this test, which uses it in turns with the
    // card.
    let registered = unsafe { Registration::new(&rig.shim, start, 256).unwrap() };
    let (y, copy) = (rig.put(&[2.0; 64]), rig.space(64));
    let before = rig.shim.counts().pageable_copies;
    // SAFETY: as above; it is waited for below.
    unsafe {
        let id = rig.stream.id();
        rig.shim
            .copy_to_device(copy.start(), start, 256, id)
            .unwrap();
        let too_long = rig.shim.copy_to_device(copy.start(), start, 257, id);
        assert_says(too_long, &["copy to the card"]);
    }
    let args = v4_cuda::args::Add {
        y: y.start().0,
        x: registered.device().0,
        count: 64,
    };
    // SAFETY: both have 64 values.
    unsafe {
        let extent = v4_cuda::driver::Extent::row(1, 64);
        let add = &rig.kernels.rows.add;
        add.launch(&rig.stream, extent, &args).unwrap();
    }
    assert_eq!(rig.shim.counts().pageable_copies, before);
    assert_eq!(rig.get(&y), [3.0; 64]);
    assert_eq!(rig.get(&copy), [1.0; 64]);
}

#[test]
fn what_is_not_given_back_is_told() {
    let shim = Shim::new(ShimOptions {
        leaks_are_errors: false,
        ..late()
    });
    assert_eq!(shim.leaks(), Vec::<String>::new());
    let memory = shim.allocate(100).unwrap();
    shim.host_allocate(200).unwrap();
    shim.stream_create().unwrap();
    let module = shim.load("rows", &[]).unwrap();
    let leaks = shim.leaks().join("; ");
    for what in [
        "100 bytes of the card",
        "200 bytes of pinned",
        "1 streams",
        "1 modules",
    ] {
        assert!(leaks.contains(what), "{what} is not in: {leaks}");
    }
    // SAFETY: nothing uses it.
    unsafe { shim.free(memory).unwrap() };
    shim.unload(module).unwrap();
    assert_eq!(shim.leaks().len(), 2);
}

#[test]
#[should_panic(expected = "not given back: 1 streams")]
fn and_is_a_panic_at_the_end() {
    let shim = Shim::new(late());
    shim.stream_create().unwrap();
}
