//! docker's dialect, with podman's additions.
