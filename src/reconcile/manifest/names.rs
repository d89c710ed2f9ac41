//! What Kubernetes accepts as a name, and what the engine calls its objects.

use crate::reconcile::desired::ObjectName;

/// DNS-1123 label: lower case letters, digits and inner dashes.
pub fn is_dns_label(text: &str) -> bool {
    is_dns_like(text, 63, |b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// DNS-1123 subdomain: labels joined by dots.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text
            .split('.')
            .all(|label| is_dns_like(label, 253, |b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

/// DNS-1035 label, for Services: begins with a letter.
pub fn is_service_name(text: &str) -> bool {
    is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// IANA service name: at most 15 characters, at least one letter, no doubled dash.
pub fn is_port_name(text: &str) -> bool {
    is_dns_like(text, 15, |b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
}

/// Key of a ConfigMap or Secret.
pub fn is_data_key(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text != "."
        && !text.starts_with("..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Kubernetes takes any printable ASCII but `=`.
pub fn is_variable_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

/// `[PREFIX/]NAME` of labels and annotations.
pub fn is_qualified_key(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((prefix, name)) if is_dns_subdomain(prefix) => name,
        Some(_) => return false,
        None => text,
    };
    !name.is_empty() && is_label_value(name)
}

pub fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.is_empty()
        || text.len() <= 63
            && text.bytes().all(inner)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_dns_like(text: &str, max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes.iter().all(|b| allowed(*b) || *b == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// What the engine calls a pod or a volume: as in the manifest, with `NAMESPACE_` before it outside the
/// default namespace. Kubernetes names have no underscore, so no two are alike.
pub fn engine_name(name: &ObjectName) -> String {
    match name.namespace.as_str() {
        "default" => name.name.clone(),
        namespace => format!("{namespace}_{}", name.name),
    }
}

/// podman's rule for containers of pods.
pub fn container_name(pod: &str, container: &str) -> String {
    format!("{pod}-{container}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_as_by_the_api_server() {
        type Check = fn(&str) -> bool;
        let long = "a".repeat(64);
        let cases: [(Check, &[&str], &[&str]); 7] = [
            (is_dns_label, &["a", "a-1", "0"], &["", "-a", "a-", "A", "a.b", "a_b", &long]),
            (is_dns_subdomain, &["a.b", "web"], &["a..b", ".a", "a.", "A"]),
            (is_service_name, &["web"], &["0web", "a.b"]),
            (is_port_name, &["http", "p-1"], &["80", "a--b", "averyveryverylong", ""]),
            (is_data_key, &["a.b", "_A-1"], &["", "a/b", "..", ".", "..x"]),
            (is_qualified_key, &["app", "a.b/c_d"], &["", "/a", "a/", "a/b/c", "-a"]),
            (is_label_value, &["", "a.b"], &["-a", "a b", &long]),
        ];
        for (check, good, bad) in cases {
            assert!(good.iter().all(|text| check(text)), "{good:?}");
            assert!(!bad.iter().any(|text| check(text)), "{bad:?}");
        }
    }

    #[test]
    fn engine_names_of_different_pods_differ() {
        let name = |namespace: &str, name: &str| {
            engine_name(&ObjectName { namespace: namespace.into(), name: name.into() })
        };
        assert_eq!(name("default", "web"), "web");
        assert_eq!(name("prod", "web"), "prod_web");
        assert_ne!(name("a-b", "c"), name("a", "b-c"));
    }
}
