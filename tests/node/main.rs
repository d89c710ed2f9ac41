//! Node tests: real containers, as root, each on a node of its own.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod crash;
mod launcher;
mod lifecycle;
mod reconcile;
mod rest;
mod streams;
