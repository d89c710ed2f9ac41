//! Kubernetes YAML of what runs.
