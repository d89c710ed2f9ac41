//! Fast tests: no privileges, no containers.

mod examples;
mod support;
mod tidy;
