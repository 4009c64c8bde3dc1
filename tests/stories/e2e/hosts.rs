//! (q) Boxes that the user has already: a plain sshd each, no market, no key of one. Nobody rents, nobody bills, and nothing of ours
//! stays but the training's own directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::world::{Said, Tier, Training, World, on};

#[test]
fn a_run_takes_a_host_of_ones_own_keeps_others_off_and_leaves_it_clean() {
    on(Tier::One, own_hosts);
}

/// Makes a box: an sshd without a port that ssh starts itself. `root@` is whoever plays the story.
const MAKE: &str = r#"
set -e
d=$HOME/$1
mkdir -p "$d/home/.ssh" "$HOME/.ssh"
chmod 700 "$d/home/.ssh" "$HOME/.ssh"
ssh-keygen -q -t ed25519 -N '' -f "$d/host_key"
printf 'root:x:%s:%s:root:%s:/bin/bash\nsshd:x:65532:65532::/run/sshd:/usr/sbin/nologin\n' "$(id -u)" "$(id -g)" "$d/home" >"$d/passwd"
printf 'root:x:%s:\nsshd:x:65532:\n' "$(id -g)" >"$d/group"
cat >"$d/sshd_config" <<X
HostKey $d/host_key
PidFile none
AuthorizedKeysFile $d/home/.ssh/authorized_keys
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
SetEnv NVML_LIB=$2
X
cat >>"$HOME/.ssh/config" <<X
Host $1.test
  ProxyCommand env LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD=$d/passwd NSS_WRAPPER_GROUP=$d/group /usr/sbin/sshd -i -E $d/log -f $d/sshd_config
X
"#;

/// Lets both laptops in, and trusts the host's key.
const TRUST: &str = r#"
set -e
cat "$2/ssh/id_ed25519.pub" "$3/ssh/id_ed25519.pub" >"$HOME/$1/home/.ssh/authorized_keys"
printf '%s.test %s\n' "$1" "$(cat "$HOME/$1/host_key.pub")" >>"$HOME/.ssh/known_hosts"
"#;

/// A lock that somebody left long ago.
const STALE: &str = r#"
set -e
mkdir "$HOME/$1/home/.spotter.lock"
printf 'spotter/gone/lost/1/x\n1700000000\nelsewhere\n%s\n' "$2" >"$HOME/$1/home/.spotter.lock/owner"
"#;

/// So long ago that nothing shows an agent.
const AGE: &str = r#"
set -e
touch -d '20 minutes ago' "$HOME/$1/home/.spotter.lock/owner" "$HOME/$1/home/.spotter.lock"
"#;

struct Laptop<'a> {
    world: &'a World,
    home: PathBuf,
}

impl Laptop<'_> {
    /// Without a key of the market: none is needed.
    fn say(&self, args: &[&str]) -> Said {
        let mut command = self.world.spotter(args);
        command
            .env("SPOTTER_HOME", &self.home)
            .env_remove("VAST_API_KEY");
        Said::of(command.output().unwrap())
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Said {
        let said = self.say(args);
        assert_eq!(said.code, 0, "spotter {args:?}\n{}", said.out);
        said
    }
}

/// Processes of an agent that was put into a home.
fn agents(home: &Path) -> Vec<PathBuf> {
    let bin = home.join(".spotter/bin");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|process| fs::read_link(process.path().join("exe")).ok())
        .filter(|exe| exe.starts_with(&bin))
        .collect()
}

fn own_hosts(world: &World) {
    let shell = |script: &str, words: &[&str]| {
        let args = [&["-c", script, "sh"], words].concat();
        let done = world.program("sh", &args).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let nvml = world.programs().join("libfake_nvml.so");
    for host in ["a", "b"] {
        shell(MAKE, &[host, nvml.to_str().unwrap()]);
    }
    let home = |host: &str| world.dir().join("laptop").join(host).join("home");
    let laptop = |home: PathBuf| Laptop { world, home };
    let mine = laptop(world.spotter_home());
    let theirs = laptop(world.work().join("other-home"));
    for (name, steps) in [("own", 200), ("theirs", 15), ("later", 15)] {
        world.training(&Training::interruptible(name, steps));
    }

    // Nobody but the user can say whether that is the host's key.
    for (laptop, file) in [(&mine, "own.yaml"), (&theirs, "theirs.yaml")] {
        let refused = laptop.say(&["run", file, "--host", "root@a.test"]);
        assert_eq!(refused.code, 1, "{}", refused.out);
        let command = "`ssh -p 22 root@a.test true`";
        assert!(refused.stderr.contains(command), "{}", refused.out);
    }
    for host in ["a", "b"] {
        let homes = [&mine.home, &theirs.home].map(|home| home.to_str().unwrap());
        shell(TRUST, &[host, homes[0], homes[1]]);
    }

    let said = mine.ok(&["run", "own.yaml", "--host", "root@a.test", "--detach"]);
    assert!(said.stderr.contains("nobody bills"), "{}", said.out);
    assert!(home("a").join(".spotter.lock/owner").exists());

    // Every other verb knows it as well.
    let status = mine.ok(&["status", "--json", "own"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(status["agent"].is_object(), "{status}");
    assert_eq!(status["plan"], serde_json::Value::Null, "{status}");
    assert_eq!(
        mine.ok(&["ssh", "own", "--", "echo", "here"]).stdout,
        "here\n"
    );
    let rows = mine.ok(&["gc", "--dry-run", "--json"]).stdout;
    assert!(rows.contains("claimed"), "{rows}");

    // Another laptop is kept off, and takes the next one of its list.
    let refused = theirs.say(&["run", "theirs.yaml", "--host", "root@a.test"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    assert!(
        refused.stderr.contains("root@a.test is held by run `own`"),
        "{}",
        refused.out
    );
    let both = ["--host", "root@a.test", "--host", "root@b.test"];
    theirs.ok(&[&["run", "theirs.yaml"][..], &both].concat());
    assert!(world.work().join("results-theirs/out/final.txt").exists());

    mine.ok(&["up", "own"]);
    let text = fs::read_to_string(world.work().join("results-own/out/final.txt")).unwrap();
    assert_eq!(text, "final 200\n");
    let status = mine.ok(&["status", "--recorded", "--json", "own"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["outcome"], "done", "{status}");
    assert!(
        status["checkpoints_committed"].as_u64() > Some(0),
        "{status}"
    );
    assert_eq!(status["cost_usd"], 0.0, "{status}");
    assert_eq!(status["charged_usd"], 0.0, "{status}");

    let cost = mine.ok(&["cost", "own"]);
    assert!(
        cost.stderr.contains("nobody bills for them"),
        "{}",
        cost.out
    );

    // One that crashed keeps its host for a look, with nothing running on it, and may be started again there.
    let mut crash = Training::interruptible("crash", 15);
    crash.command = Some("exit 3");
    world.training(&crash);
    let crashed = mine.say(&["run", "crash.yaml", "--host", "root@a.test"]);
    assert_eq!(crashed.code, 10, "{}", crashed.out);
    assert!(agents(&home("a")).is_empty(), "{:?}", agents(&home("a")));
    let refused = theirs.say(&["run", "later.yaml", "--host", "root@a.test"]);
    assert!(
        refused
            .stderr
            .contains("root@a.test is held by run `crash`"),
        "{}",
        refused.out
    );
    let again = mine.say(&["resume", "crash"]);
    assert_eq!(again.code, 10, "{}", again.out);
    mine.ok(&["destroy", "--lose-data", "crash"]);

    // A lock whose agent is gone is taken over: not one of an agent that was there lately, nor one of another machine.
    let this_machine = world.program("uname", &["-n"]).output().unwrap().stdout;
    let this_machine = String::from_utf8(this_machine).unwrap();
    let lock = home("a").join(".spotter.lock");
    for (machine, is_old) in [(this_machine.trim(), false), ("another", true)] {
        shell(STALE, &["a", machine]);
        if is_old {
            shell(AGE, &["a"]);
        }
        let refused = mine.say(&["run", "later.yaml", "--host", "root@a.test"]);
        assert_eq!(refused.code, 1, "{}", refused.out);
        assert!(
            refused.stderr.contains("root@a.test is held by run `lost`"),
            "{}",
            refused.out
        );
        fs::remove_dir_all(&lock).unwrap();
    }
    shell(STALE, &["a", this_machine.trim()]);
    shell(AGE, &["a"]);
    mine.ok(&["run", "later.yaml", "--host", "root@a.test"]);
    for host in ["a", "b"] {
        let home = home(host);
        let left: Vec<String> = fs::read_dir(&home)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(".spotter"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(agents(&home).is_empty(), "{:?}", agents(&home));
    }
    assert!(home("a").join("own/out/final.txt").exists(), "his own work");
    world.assert_nothing_rented();
}
