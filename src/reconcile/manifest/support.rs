//! The support page: the field table for readers. Printed by `selkie system support`; a copy is kept in
//! `contrib/kubernetes-support.md`, which a test holds against this.

use std::collections::BTreeSet;

use super::fields::{Class, Kind, Shape, TOP_KINDS};

/// The page as Markdown.
pub fn page() -> String {
    let mut page = String::from(
        "# What Selkie does with Kubernetes manifests\n\n\
         Made from the table that the decoder obeys (`selkie system support`); do not edit.\n\n\
         - **honoured**: does here what it does on a cluster.\n\
         - **emulated**: the purpose is served in another way, told in the note.\n\
         - **inert**: has no effect on one node; accepted, and reported as a warning.\n\
         - **refused**: an error, with file, line and the reason. Where values are named, those are accepted.\n\n\
         A field that is not listed is unknown, and an error as well. What is said of a field holds for all\n\
         below it. Kinds that are not listed are reported by name and left alone.\n\n\
         ## Kinds\n\n| kind | apiVersion | | note |\n|---|---|---|---|\n",
    );
    for kind in TOP_KINDS {
        page.push_str(&row(&[kind.name, kind.api_version, &class(kind.class), kind.note]));
    }
    let mut seen = BTreeSet::new();
    for kind in TOP_KINDS {
        if let Some(shape) = kind.shape {
            describe(shape, &mut seen, &mut page);
        }
    }
    page
}

fn describe(shape: &Shape, seen: &mut BTreeSet<&'static str>, page: &mut String) {
    if !seen.insert(shape.name) {
        return;
    }
    page.push_str(&format!("\n## {}\n\n| field | | note |\n|---|---|---|\n", shape.name));
    for field in shape.fields {
        page.push_str(&row(&[field.name, &class(field.class), field.note]));
    }
    for field in shape.fields {
        match field.kind {
            Kind::Object(inner) | Kind::Objects(inner) => describe(inner, seen, page),
            Kind::Text
            | Kind::Boolean
            | Kind::Integer
            | Kind::Mode
            | Kind::Quantity
            | Kind::Port
            | Kind::TextMap
            | Kind::QuantityMap
            | Kind::BytesMap
            | Kind::TextList
            | Kind::IntegerList
            | Kind::Any => {}
        }
    }
}

fn class(class: Class) -> String {
    match class {
        Class::Honoured => "honoured".to_owned(),
        Class::Emulated => "emulated".to_owned(),
        Class::Inert => "inert".to_owned(),
        Class::Refused => "refused".to_owned(),
        Class::Only(values) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("refused, except {}", values.join(" and "))
        }
    }
}

fn row(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}
