//! What is wrong or without effect in one document, with its place.

use std::path::Path;

use super::tree::{Entry, Mark, Node, push_key};
use crate::reconcile::desired::{Location, ManifestError, ManifestWarning};

/// Collects the problems of one document. Fields are named from the document's root.
#[derive(Debug)]
pub struct Problems<'a> {
    file: &'a Path,
    root: &'a Node,
    pub errors: Vec<ManifestError>,
    pub warnings: Vec<ManifestWarning>,
}

impl<'a> Problems<'a> {
    pub fn new(file: &'a Path, root: &'a Node) -> Self {
        Self { file, root, errors: Vec::new(), warnings: Vec::new() }
    }

    pub fn location(&self, at: Mark) -> Location {
        Location { file: self.file.to_owned(), line: at.line, column: at.column }
    }

    /// The value of `node` is wrong.
    pub fn error(&mut self, node: &Node, message: impl Into<String>) {
        let field = self.path(node);
        self.push_error(node.at, field, message.into(), None);
    }

    /// The field `name` of the mapping `node` is wrong, or missing: then the mapping's place is named.
    pub fn error_in(&mut self, node: &Node, name: &str, message: impl Into<String>) {
        if let Some(value) = node.get(name) {
            return self.error(value, message);
        }
        let mut field = self.path(node);
        push_key(&mut field, name);
        self.push_error(node.at, field, message.into(), None);
    }

    /// The field itself, not its value, is wrong.
    pub fn error_at_key(&mut self, parent: &Node, entry: &Entry, message: &str, hint: Option<&str>) {
        let mut field = self.path(parent);
        push_key(&mut field, &entry.key);
        self.push_error(entry.key_at, field, message.to_owned(), hint.map(str::to_owned));
    }

    pub fn warning(&mut self, node: &Node, message: impl Into<String>) {
        let field = self.path(node);
        let location = self.location(node.at);
        self.warnings.push(ManifestWarning { location, field, message: message.into() });
    }

    pub fn warning_at_key(&mut self, parent: &Node, entry: &Entry, message: impl Into<String>) {
        let mut field = self.path(parent);
        push_key(&mut field, &entry.key);
        let location = self.location(entry.key_at);
        self.warnings.push(ManifestWarning { location, field, message: message.into() });
    }

    fn path(&self, node: &Node) -> String {
        self.root.path_to(node).unwrap_or_default()
    }

    fn push_error(&mut self, at: Mark, field: String, message: String, hint: Option<String>) {
        let location = self.location(at);
        self.errors.push(ManifestError { location, field, message, hint });
    }
}
