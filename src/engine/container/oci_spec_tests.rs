//! Tests of `oci_spec.rs`.
