//! The library as C and C++ programs use it: installed, compiled against, linked and run,
//! with the tiny models.

mod check;
mod compatibility;
mod examples;
mod faults;
mod header;
mod layout;
mod signed;
mod symbols;
mod tools;
