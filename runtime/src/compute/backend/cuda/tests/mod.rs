//! Tests of the backend, on the shim.
