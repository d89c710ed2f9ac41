//! Untagging and pruning, as root, on a real disk.

use super::image::{Image, Layer};
use super::*;

fn layer(name: &str, bytes: usize) -> Layer {
    Layer::new().file(name, 0o644, &vec![7; bytes])
}

/// `one`, and `two` and `three` that share a layer with each other.
async fn three() -> (Node, [ImageId; 3]) {
    let node = Node::new();
    let archive = node.path("in.tar");
    let one = Image::new().layer(layer("a", 1));
    let two = Image::new().layer(layer("shared", 100)).layer(layer("b", 10));
    let three = Image::new().layer(layer("shared", 100)).layer(layer("c", 1000));
    super::image::docker_archive(
        &archive,
        &[(&one, &["one"]), (&two, &["two:1", "two:2"]), (&three, &["three"])],
    );
    let records = node.images.load(&archive).await.unwrap();
    let ids = [0, 1, 2].map(|n: usize| records[n].id.clone());
    (node, ids)
}

#[tokio::test]
async fn node_an_untagged_image_stays_and_loses_the_names_alone() {
    let (node, [_, two, _]) = three().await;
    let untag = async |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        node.images.untag(two.as_str(), &names).await
    };
    let (_, untagged) = untag(&["two:1"]).await.unwrap();
    assert_eq!(untagged, ["docker.io/library/two:1"]);
    assert_eq!(node.images.image(two.as_str()).unwrap().names, ["docker.io/library/two:2"]);
    // A name of another image, an unknown one, and one of each: nothing changes.
    for names in [&["three"][..], &["nobody"], &["two:2", "three"]] {
        let error = untag(names).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
        assert!(error.chain().contains("tag not known"), "{}", error.chain());
    }
    assert_eq!(node.images.image("two:2").unwrap().id, two);
    untag(&[]).await.unwrap();
    let node = node.reopened();
    assert_eq!(node.images.image(two.as_str()).unwrap().names, Vec::<String>::new());
    assert_eq!(node.images.images().len(), 3);
}

#[tokio::test]
async fn node_a_prune_takes_what_is_wanted_away_and_unused_and_counts_it_once() {
    let (node, [one, two, three]) = three().await;
    let dangling = |image: &ImageRecord| image.names.is_empty();
    assert_eq!(node.images.prune(&dangling, &|_| false).await.unwrap(), []);
    node.images.untag("one", &[]).await.unwrap();
    assert_eq!(node.images.prune(&dangling, &|id| *id == one).await.unwrap(), []);
    let pruned = node.images.prune(&dangling, &|_| false).await.unwrap();
    assert_eq!((pruned.len(), &pruned[0].id, pruned[0].reclaimed_bytes), (1, &one, 1));

    // While `three` is in use, the layer it shares stays.
    let pruned = node.images.prune(&|_| true, &|id| *id == three).await.unwrap();
    assert_eq!((pruned.len(), &pruned[0].id, pruned[0].reclaimed_bytes), (1, &two, 10));
    assert_eq!(pruned[0].removed.untagged, ["docker.io/library/two:1", "docker.io/library/two:2"]);
    assert_eq!(node.read(&node.images.image("three").unwrap(), "shared").unwrap().len(), 100);
    let pruned = node.images.prune(&|_| true, &|_| false).await.unwrap();
    assert_eq!(pruned.iter().map(|image| image.reclaimed_bytes).sum::<u64>(), 1100);
    let node = node.reopened();
    assert_eq!((node.images.images(), node.content()), (Vec::new(), Vec::new()));
}
