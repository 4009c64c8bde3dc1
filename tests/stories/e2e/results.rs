//! Results by pattern: what is fetched, what is told to be missing, what `destroy` says would be lost, and what outlives the box.

use std::fs;

use crate::world::{Training, World, on_both_tiers};

on_both_tiers! {
    results_are_named_by_patterns_and_outlive_their_box: patterns;
}

pub fn patterns(world: &World) {
    let training = Training::interruptible("keep", 20);
    world.training(&training);
    let file = fs::read_to_string(world.work().join("keep.yaml")).unwrap();
    world.write(
        "keep.yaml",
        &file.replace("[out/final.txt]", "['out/*.txt', 'none/*.pt']"),
    );
    let said = world.say(&["run", "keep.yaml"]);
    // Not all that was ordered is here, and whoever scripts it must see that.
    assert_eq!(said.code, 1, "{}", said.out);
    for told in [
        "spotter ssh --start keep",
        "spotter destroy --lose-data keep",
    ] {
        assert!(said.stderr.contains(told), "{}", said.out);
    }
    for words in [&["status", "keep"][..], &["ps", "--recorded"]] {
        let looked = world.ok(words);
        assert!(looked.out.contains("none/*.pt"), "{}", looked.out);
        assert!(
            looked.stderr.contains("spotter destroy --lose-data keep"),
            "{}",
            looked.out
        );
    }
    assert!(
        said.stderr
            .contains("results that do not exist on the box: none/*.pt"),
        "{}",
        said.out
    );
    let fetched = world.work().join("results-keep/out/final.txt");
    assert_eq!(fs::read_to_string(&fetched).unwrap(), "final 20\n");
    let id = world.alive()[0]["id"].as_u64().unwrap();

    // It was stopped for a look, so nobody can ask it; the run's own end says why it was kept.
    let refused = world.say(&["destroy", "keep", "--json"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    let told: serde_json::Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(told["instance"], id, "{told}");
    assert!(
        told["reason"].as_str().unwrap().contains("none/*.pt"),
        "{told}"
    );

    // Started again it can be asked: what is here and in the bucket is not lost, what was written since is.
    world.ok(&["ssh", "--start", "keep", "--", "true"]);
    world.until("the box to say what would be lost", || {
        world.say(&[
            "ssh",
            "keep",
            "--",
            "sh",
            "-c",
            "'cd /workspace/keep 2>/dev/null || cd keep; echo new > out/late.txt'",
        ]);
        let refused = world.say(&["destroy", "keep", "--json"]);
        let told: serde_json::Value = serde_json::from_str(&refused.stdout).ok()?;
        let lost = told["would_lose"].as_array()?;
        (lost.len() == 1 && lost[0]["name"] == "out/late.txt" && lost[0]["size_bytes"] == 4)
            .then_some(())
    });
    let listed = world.say(&["destroy", "keep"]);
    assert_eq!(listed.code, 1, "{}", listed.out);
    assert!(listed.stdout.contains("out/late.txt"), "{}", listed.out);
    assert!(listed.stdout.contains("4 B"), "{}", listed.out);
    assert!(
        listed.stderr.contains("spotter destroy --lose-data keep"),
        "{}",
        listed.out
    );
    world.ok(&["fetch", "keep", "out/*"]);
    let missing = world.say(&["fetch", "keep", "out/*", "nothing.pt"]);
    assert_eq!(missing.code, 1, "{}", missing.out);
    assert!(missing.stderr.contains("nothing.pt"), "{}", missing.out);
    assert!(
        missing.stderr.contains("spotter ssh keep -- ls"),
        "{}",
        missing.out
    );

    // Everything that it can list is here now; what it was kept for was never found, so it goes only by a word of force.
    let refused = world.say(&["destroy", "keep"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(refused.stderr.contains("none/*.pt"), "{}", refused.out);
    world.ok(&["destroy", "--lose-data", "keep"]);
    world.assert_nothing_rented();
    let again = world.ok(&["destroy", "keep"]);
    assert!(
        again.stdout.contains("`keep` has no box any more"),
        "{}",
        again.out
    );

    // The box is gone; what it brought to the bucket is not.
    fs::remove_file(&fetched).unwrap();
    world.ok(&["fetch", "keep", "out/f*"]);
    assert_eq!(fs::read_to_string(&fetched).unwrap(), "final 20\n");
    let missing = world.say(&["fetch", "keep", "nothing.pt"]);
    assert_eq!(missing.code, 1, "{}", missing.out);
    assert!(
        missing.stderr.contains("spotter fetch keep ."),
        "{}",
        missing.out
    );
}
