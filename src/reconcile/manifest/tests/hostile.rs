//! Whatever a file holds: no panic, no flood, always a verdict.

use proptest::prelude::*;

use super::*;

const FULL: &str = include_str!("../full.yaml");

fn verdict(bytes: &[u8]) {
    let mut files = SourceFiles::of_texts(source(), []);
    files.files.insert("x.yaml".into(), Ok(Arc::from(bytes)));
    let desired = desired_from(&[files], &context());
    match stack(&desired, "x") {
        DesiredStack::Loaded(_) => {}
        DesiredStack::Held { errors } => {
            for error in errors {
                assert!(error.location.line > 0 && error.location.column > 0, "{error}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        verdict(&bytes);
    }

    #[test]
    fn arbitrary_yaml_gets_a_verdict(text in "([ \\-:{}\\[\\]&*!|>'\"#%@,?a-c0-9\\n\\t]|: |- |\\n  |<<|---\\n){0,80}") {
        verdict(text.as_bytes());
    }

    #[test]
    fn damaged_manifests_get_a_verdict(
        at in 0..FULL.len(),
        removed in 0..60_usize,
        inserted in "[ -~\\n]{0,12}",
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        let end = (at + removed).min(bytes.len());
        bytes.splice(at..end, inserted.bytes());
        verdict(&bytes);
    }

    #[test]
    fn truncated_manifests_get_a_verdict(at in 0..FULL.len()) {
        verdict(&FULL.as_bytes()[..at]);
    }
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for (name, of) in ('b'..='z').zip('a'..) {
        bomb.push_str(&format!("{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}]\n"));
    }
    let message = errors(&bomb);
    assert!(message.contains("too much"), "{message}");
}

#[test]
fn anchors_are_useful_all_the_same() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - &base
    name: one
    image: web:1
    env: &env [{name: A, value: b}]
  - <<: *base
    name: two
  - {name: three, image: 'web:2', env: *env}
";
    let pod = pod(text);
    let images: Vec<&str> = pod.containers.iter().map(|c| c.spec.image.as_str()).collect();
    assert_eq!(images, ["web:1", "web:1", "web:2"]);
    assert_eq!(pod.containers[2].spec.env["A"], "b");
}
