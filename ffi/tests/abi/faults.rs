//! Bugs in the library become a status. Here the bug is in a callback, which as a Rust
//! function may unwind.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use v4::status::{Status, v4_status};
use v4_tests::program::tiny;

unsafe extern "C-unwind" fn panics(_: *mut c_void, _: *const v4::v4_token) -> i32 {
    panic!("a fault of the test");
}

static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

unsafe extern "C-unwind" fn log(_: *mut c_void, level: i32, message: *const c_char) {
    // SAFETY: a line that lasts as long as the call.
    let message = unsafe { CStr::from_ptr(message) }.to_str().unwrap();
    LOGGED.lock().unwrap().push(format!("{level} {message}"));
}

fn last_error() -> String {
    // SAFETY: valid until the next call.
    let text = unsafe { CStr::from_ptr(v4::v4_last_error()) };
    text.to_str().unwrap().to_owned()
}

fn is(status: v4_status, expected: Status) {
    assert_eq!(status, expected as v4_status, "{}", last_error());
}

#[test]
fn a_panic_is_a_status_and_breaks_its_objects_alone() {
    let path = CString::new(tiny("tiny-v4", "native", &[]).as_os_str().as_bytes()).unwrap();
    let (mut engine, mut session, mut other, mut sampler) =
        (null_mut(), null_mut(), null_mut(), null_mut());
    let ids = [0, 17, 42];
    // SAFETY: as the header says.
    unsafe {
        is(v4::v4_set_log(Some(log), null_mut(), 1), Status::Ok);
        is(
            v4::v4_engine_open(path.as_ptr(), null(), &raw mut engine),
            Status::Ok,
        );
        is(
            v4::v4_session_open(engine, null(), &raw mut session),
            Status::Ok,
        );
        is(v4::v4_sampler_open(null(), &raw mut sampler), Status::Ok);
        is(
            v4::v4_session_append(session, ids.as_ptr(), 3, null()),
            Status::Ok,
        );
        is(v4::v4_session_fork(session, &raw mut other), Status::Ok);
        let generate = |session, sampler, callback| {
            v4::v4_session_generate(session, sampler, null(), callback, null_mut(), null_mut())
        };
        is(generate(session, sampler, Some(panics)), Status::Internal);
        let said = last_error();
        assert!(said.contains("a fault of the test"), "{said}");
        assert!(said.contains("faults.rs:"), "{said}");
        let logged = LOGGED.lock().unwrap().concat();
        assert!(
            logged.starts_with("1 ") && logged.contains(&said),
            "{logged}"
        );

        // Broken: nothing but closing.
        is(
            v4::v4_session_append(session, ids.as_ptr(), 1, null()),
            Status::Internal,
        );
        assert!(last_error().contains("close it"), "{}", last_error());
        is(v4::v4_sampler_close(sampler), Status::Ok);
        is(v4::v4_session_close(session), Status::Ok);

        // All else works.
        is(v4::v4_sampler_open(null(), &raw mut sampler), Status::Ok);
        is(
            v4::v4_session_append(other, ids.as_ptr(), 1, null()),
            Status::Ok,
        );
        let mut id = u32::MAX;
        is(
            v4::v4_sampler_sample(sampler, other, &raw mut id),
            Status::Ok,
        );
        assert!(id < 4096);
        is(v4::v4_sampler_close(sampler), Status::Ok);
        is(v4::v4_session_close(other), Status::Ok);
        is(v4::v4_engine_close(engine), Status::Ok);
        is(v4::v4_set_log(None, null_mut(), 0), Status::Ok);
    }
}
