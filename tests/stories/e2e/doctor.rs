//! (m) What is wrong with a bucket is named before anything is rented, with what has to be granted. The whole texts lie beside this
//! file: `INSTA_UPDATE=always` writes them anew.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use serde_json::Value;

use crate::{
    refusals::plain,
    world::{Said, Tier, Training, World, on},
};

/// A bucket is the same on every tier.
#[test]
fn the_doctor_names_what_a_bucket_lacks_and_the_policy_that_grants_it() {
    on(Tier::One, bucket);
}

fn bucket(world: &World) {
    world.training(&Training::interruptible("sick", 20));
    let url = "s3://runs/runs";
    let key = |id: &str, more: &str| {
        let order =
            format!(r#"{{"key": {{"access_key": "{id}", "secret_key": "secret of {id}"{more}}}}}"#);
        world.ctl(&["s3", &order]);
    };
    let with = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = world.spotter(args);
        command.envs(variables.iter().copied());
        Said::of(command.output().unwrap())
    };
    let as_key = |id: &str, args: &[&str]| {
        let secret = format!("secret of {id}");
        with(
            args,
            &[
                ("AWS_ACCESS_KEY_ID", id),
                ("AWS_SECRET_ACCESS_KEY", &secret),
            ],
        )
    };
    let doctor = ["doctor", "bucket", url];

    check(world, "well", &with(&doctor, &[]));
    for (name, more) in [
        ("no-delete", r#", "rights": "no_delete""#),
        ("read-only", r#", "rights": "read_only""#),
        ("elsewhere", r#", "prefix": "others/""#),
        ("expired", r#", "expires_in_s": -60"#),
    ] {
        key(name, more);
        check(world, name, &as_key(name, &doctor));
    }
    check(
        world,
        "wrong_bucket",
        &with(&["doctor", "bucket", "s3://not-there/runs"], &[]),
    );
    check(
        world,
        "wrong_secret",
        &with(&doctor, &[("AWS_SECRET_ACCESS_KEY", "guessed")]),
    );
    check(world, "unknown_key", &as_key("nobody", &doctor));
    check(
        world,
        "no_server",
        &with(&doctor, &[("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")]),
    );

    for (name, scheme, answer) in [
        (
            "web_page",
            "http",
            &b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 22\r\n\r\n<html>a console</html>"[..],
        ),
        (
            "not_found",
            "http",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot found",
        ),
        (
            "no_tls",
            "https",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
        ),
        // How TLS says that it did not understand: an alert, fatal, of a wrong version.
        ("only_tls", "http", b"\x15\x03\x01\x00\x02\x02\x46"),
    ] {
        let server = format!("{scheme}://{}", answering(answer));
        check(
            world,
            name,
            &with(&doctor, &[("AWS_ENDPOINT_URL_S3", &server)]),
        );
    }
    check(
        world,
        "no_scheme",
        &with(&doctor, &[("AWS_ENDPOINT_URL_S3", "minio.lab:9000")]),
    );
    let order = r#"{"key": {"access_key": "tmp", "secret_key": "secret of tmp", "session_token": "its own"}}"#;
    world.ctl(&["s3", order]);
    check(
        world,
        "wrong_token",
        &with(
            &doctor,
            &[
                ("AWS_ACCESS_KEY_ID", "tmp"),
                ("AWS_SECRET_ACCESS_KEY", "secret of tmp"),
                ("AWS_SESSION_TOKEN", "another"),
            ],
        ),
    );

    // A run file stands for its bucket; what may be done below one run's prefix is enough.
    key("scoped", r#", "prefix": "runs/sick/""#);
    let said = as_key("scoped", &["doctor", "bucket", "sick.yaml", "--json"]);
    assert_eq!(said.code, 0, "{}", said.out);
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["target"], url);
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 7);
    assert!(checks.iter().all(|check| check["ok"] == true), "{report}");
    assert!(report["clock_offset_s"].as_f64().unwrap().abs() < 60.0);

    // The policy is printed without asking anybody, and without keys.
    let mut keyless = world.spotter(&["doctor", "bucket", "sick.yaml", "--policy=b2"]);
    keyless
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    check(world, "policy_b2", &Said::of(keyless.output().unwrap()));
    let objects = world.ctl(&["s3", "{}"]);
    assert!(objects["keys"].as_array().unwrap().len() >= 5);
}

/// A server that says the same to everybody; its address.
fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            // The beginning of a request is enough to answer it.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    address
}

#[track_caller]
fn check(world: &World, name: &str, said: &Said) {
    let text = format!(
        "exit: {}\n-- stdout --\n{}\n-- stderr --\n{}",
        said.code,
        plain(world, &said.stdout),
        plain(world, &said.stderr)
    );
    // How far two clocks of one machine are apart is a matter of the moment.
    let text = regex::Regex::new(r"[+-]\d+\.\S+ s from")
        .unwrap()
        .replace_all(&text, "[n] s from");
    insta::with_settings!({
        snapshot_path => Path::new("doctor"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}
