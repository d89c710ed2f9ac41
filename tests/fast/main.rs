//! Fast tests: no privileges, no containers.

mod examples;
mod plan_cases;
mod property;
mod support;
mod tidy;
mod world;
