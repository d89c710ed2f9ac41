//! Tests of `validate.rs`.
