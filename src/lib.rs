//! Selkie: a container engine for one machine whose heart is a Kubernetes-style reconciler.

pub mod api;
pub mod engine;
pub mod reconcile;
