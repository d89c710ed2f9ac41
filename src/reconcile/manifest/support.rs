//! The support page: the field table for readers.
