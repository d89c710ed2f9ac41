//! Fast tests: no privileges, no containers.

mod tidy;
