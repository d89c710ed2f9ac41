//! The doors: REST today, varlink later. They translate and call the engine; behaviour lives there.

pub mod kube;
