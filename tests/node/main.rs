//! Node tests: real containers, as root, each on a node of its own.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod launcher;
mod lifecycle;
mod rest;
mod streams;
