//! The support page in `contrib` is the one the program prints.

use std::path::Path;

use selkie::reconcile::manifest::support;

#[test]
fn support_page_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/kubernetes-support.md");
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == support::page(),
        "contrib/kubernetes-support.md is not what the field table says; run:\n  \
         selkie system support > contrib/kubernetes-support.md"
    );
}
