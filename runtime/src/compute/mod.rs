//! Computation: the operations of a backend, its weights, and the forward pass written
//! against it.
//!
//! [`backend`] is the line between the model's mathematics and a machine: the forward
//! pass knows the trait alone, `backend::cpu` implements it, and another device stands
//! next to `cpu`.

pub mod adapters;
pub mod arithmetic;
pub mod backend;
pub mod cache_rows;
pub mod forward;
pub mod profile;
pub mod roofline;
pub mod trace;
pub mod weights;
pub mod workers;
