//! (s) A run file names the bucket's server itself: the box finds out what that server checks, and every verb finds the bucket by it,
//! whatever the environment says.

use crate::world::{Said, Tier, Training, World, on};

/// The box's kernel is no matter here.
#[test]
fn the_server_that_a_run_file_names_counts_over_the_environment() {
    on(Tier::One, named);
}

fn named(world: &World) {
    let training = Training::interruptible("named", 40);
    world.training(&training);
    let yaml = std::fs::read_to_string(world.work().join("named.yaml")).unwrap();
    // The bucket is in the host's name, which is no name of an address.
    let server = format!(
        "  server: {{endpoint: \"{}\", region: us-east-1, style: virtual}}\n",
        world.s3_url().replace("127.0.0.1", "localhost")
    );
    let upload = "  upload: {max: 40MB/s, schedule: [\"00:00-12:00 full\", \"12:00-24:00 50MB/s\"], zone: \"+02:00\"}\n";
    let changed = yaml.replace("  every: 1m\n", &format!("  every: 1m\n{server}{upload}"));
    assert_ne!(changed, yaml);
    world.write("named.yaml", &changed);
    // Nobody listens where the environment points.
    let say = |args: &[&str]| {
        let mut command = world.spotter(args);
        command.env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1");
        let said = Said::of(command.output().unwrap());
        assert_eq!(said.code, 0, "{args:?}\n{}\n{}", said.out, world.sim_log());
        said.stdout
    };
    say(&["run", "named.yaml"]);
    let events = say(&["events", "named"]);
    assert!(events.contains("bucket.probed"), "{events}");
    let listed = say(&["checkpoints", "named"]);
    assert!(listed.contains("step-40.txt"), "{listed}");
    say(&["checkpoints", "verify", "named"]);
    say(&["doctor", "bucket", "named"]);
    world.assert_nothing_rented();
}
