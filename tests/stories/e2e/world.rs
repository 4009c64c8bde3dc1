//! `World`: a simulator of its own, a sealed home, and spotter's programs run in it as a user would.

mod asking;
mod programs;
mod said;
mod training;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use asking::gpus_charged_at_once;
use programs::programs;
pub use said::{Background, Said};
use serde_json::Value;
use stories::skip::{excuse, skip};
use training::TRAIN;
pub use training::Training;

use crate::others::{Access, Certified, Other, Running};

/// Ordinary user that tier 1 runs as when the tests run as root.
const NOBODY: u32 = 65534;
/// Longest time for anything that a story waits for.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Where a story plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Any user; sshd behind a relay.
    One,
    /// Root; machines made of namespaces.
    Two,
}

/// One simulator and one laptop.
pub struct World {
    dir: PathBuf,
    sim: Option<Child>,
    ready: Value,
    tier: Tier,
    env: BTreeMap<String, String>,
    /// Somebody else's S3 server, where the bucket is not the simulator's.
    other: Option<Running>,
}

/// Runs a story on a tier, unless this user or a missing program makes that impossible; any other failure is one.
pub fn on(tier: Tier, story: impl FnOnce(&World)) {
    let root = nix::unistd::geteuid().is_root();
    if tier == Tier::Two && !root {
        return excuse("tier 2 needs root");
    }
    play(tier, |_| {}, story);
}

fn play(tier: Tier, prepare: impl FnOnce(&mut World), story: impl FnOnce(&World)) {
    match World::start(tier) {
        Ok(mut world) => {
            prepare(&mut world);
            story(&world);
        }
        // The simulator names every program that is missing, and what installs it.
        Err(why) if why.contains(" not installed: ") => skip(&why),
        Err(why) => panic!("the simulator did not start: {why}"),
    }
}

/// Runs a story on tier 1 whose bucket is on a server of other people, perhaps over TLS.
pub fn at(other: Other, certified: Option<&Certified>, story: impl FnOnce(&World) + Send) {
    if let Some(lacking) = other.lacking() {
        return skip(&lacking);
    }
    // On a thread of its own, which may leave for another network.
    let played = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            other.make_way();
            play(Tier::One, |world| world.moves_to(other, certified), story);
        });
        thread.join()
    });
    if let Err(panic) = played {
        std::panic::resume_unwind(panic);
    }
}

/// Makes two tests of a story: as an ordinary user on tier 1, as root on tier 2.
macro_rules! on_both_tiers {
    ($($name:ident: $story:path;)*) => {$(
        mod $name {
            #[allow(unused_imports, reason = "a story may be a path of its own")]
            use super::*;

            #[test]
            fn tier_1() {
                $crate::world::on($crate::world::Tier::One, $story);
            }

            #[test]
            fn tier_2() {
                $crate::world::on($crate::world::Tier::Two, $story);
            }
        }
    )*};
}
pub(crate) use on_both_tiers;

impl World {
    fn start(tier: Tier) -> Result<World, String> {
        let programs = programs();
        // Short: sockets lie below it.
        let dir = tempfile::Builder::new()
            .prefix("sp-")
            .tempdir_in("/tmp")
            .unwrap()
            .keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["sim", "laptop", "work"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        let mut world = World {
            dir,
            sim: None,
            ready: Value::Null,
            tier,
            env: BTreeMap::new(),
            other: None,
        };
        if world.plays_nobody() {
            for folder in ["sim", "laptop", "work"] {
                std::os::unix::fs::chown(world.dir.join(folder), Some(NOBODY), Some(NOBODY))
                    .unwrap();
            }
        }
        let log = fs::File::create(world.dir.join("sim.log")).unwrap();
        let number = if tier == Tier::One { "1" } else { "2" };
        let mut sim = world.command(&programs.join("spotter-sim"));
        sim.args([
            "serve",
            "--with-stdin",
            "--time-scale",
            "20",
            "--tier",
            number,
            "--dir",
        ])
        .arg(world.dir.join("sim"))
        .env("RUST_LOG", "info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
        let mut child = sim.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        world.sim = Some(child);
        world.ready = serde_json::from_str(&line)
            .map_err(|_| fs::read_to_string(world.dir.join("sim.log")).unwrap_or_default())?;
        let ready = |key: &str| world.ready[key].as_str().unwrap_or_default().to_owned();
        let laptop = world.dir.join("laptop").to_str().unwrap().to_owned();
        world.env = [
            ("HOME", laptop.clone()),
            ("SPOTTER_HOME", format!("{laptop}/spotter")),
            ("XDG_RUNTIME_DIR", laptop),
            ("VAST_URL", ready("url")),
            ("VAST_API_KEY", ready("api_key")),
            ("AWS_ACCESS_KEY_ID", ready("s3_access_key")),
            ("AWS_SECRET_ACCESS_KEY", ready("s3_secret_key")),
            ("AWS_ENDPOINT_URL_S3", ready("s3_url")),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("NO_COLOR", "1".to_owned()),
            // One that was built into the controller may be older than what is tested.
            (
                "SPOTTER_AGENT",
                programs.join("spotter-agent").display().to_string(),
            ),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        Ok(world)
    }

    /// Starts another S3 server with the same bucket and keys, which everybody uses from now on.
    fn moves_to(&mut self, other: Other, certified: Option<&Certified>) {
        let dir = self.dir.join("other");
        fs::create_dir(&dir).unwrap();
        let (id, secret) = self.bucket_keys();
        let access = Access {
            bucket: self.ready["s3_bucket"].as_str().unwrap(),
            id,
            secret,
        };
        let more = certified.map(|certified| certified.arguments(&dir));
        let more: Vec<&str> = more.iter().flatten().map(String::as_str).collect();
        let running = other.start(&dir, access, &more);
        let url = running.url.clone();
        self.env
            .insert("AWS_ENDPOINT_URL_S3".to_owned(), url.clone());
        self.ready["s3_url"] = url.into();
        self.other = Some(running);
    }

    fn plays_nobody(&self) -> bool {
        self.tier == Tier::One && nix::unistd::geteuid().is_root()
    }

    /// A program in the sealed environment, as the story's user.
    fn command(&self, program: &Path) -> Command {
        let mut command = if self.plays_nobody() {
            let mut command = Command::new("setpriv");
            let (uid, gid) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
            command
                .args([uid.as_str(), gid.as_str(), "--clear-groups", "--"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .envs(&self.env)
            .current_dir(self.dir.join("work"))
            .stdin(Stdio::null());
        command
    }

    /// `spotter` with these arguments.
    pub fn spotter(&self, args: &[&str]) -> Command {
        let mut command = self.command(&programs().join("spotter"));
        command.args(args);
        command
    }

    /// Runs `spotter` to its end and returns what it said, whatever that was.
    pub fn say(&self, args: &[&str]) -> Said {
        let mut said = Said::of(self.spotter(args).output().unwrap());
        said.out = format!("$ spotter {}\n{}", args.join(" "), said.out);
        said
    }

    /// Runs `spotter`, which must succeed.
    pub fn ok(&self, args: &[&str]) -> Said {
        let said = self.say(args);
        assert_eq!(
            said.code,
            0,
            "spotter {args:?}\n{}\n{}",
            said.out,
            self.sim_log()
        );
        said
    }

    /// Starts `spotter` in the background; it is killed when the guard is dropped.
    pub fn background(&self, args: &[&str]) -> Background {
        self.behind(&args.join("_").replace('/', "_"), self.spotter(args))
    }

    /// The same of a command that was made with [`World::spotter`].
    pub fn behind(&self, name: &str, mut command: Command) -> Background {
        let log = format!("{name}-{}.log", Background::number());
        let log = self.dir.join(log);
        let out = fs::File::create(&log).unwrap();
        let child = command
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Background { child, log }
    }

    /// Turns a switch of the simulator.
    pub fn ctl(&self, args: &[&str]) -> Value {
        let url = self.ready["url"].as_str().unwrap();
        let output = Command::new(programs().join("spotter-sim"))
            .args(["ctl", "--url", url])
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "ctl {args:?}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Access key and secret of the bucket, as the laptop has them.
    pub fn bucket_keys(&self) -> (&str, &str) {
        (
            &self.env["AWS_ACCESS_KEY_ID"],
            &self.env["AWS_SECRET_ACCESS_KEY"],
        )
    }

    /// Name of the bucket.
    pub fn bucket_name(&self) -> &str {
        self.ready["s3_bucket"].as_str().unwrap()
    }

    /// Where the market is, and the account's key.
    pub fn market(&self) -> (&str, &str) {
        (&self.env["VAST_URL"], &self.env["VAST_API_KEY"])
    }

    /// Home directory of a box.
    pub fn home(&self, instance: u64) -> PathBuf {
        let home = self.ctl(&["home", &instance.to_string()]);
        PathBuf::from(
            home["home"]
                .as_str()
                .unwrap_or_else(|| panic!("no home in {home}")),
        )
    }

    /// Everything of this story lies here.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Working folder of the laptop.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Folder of the programs.
    pub fn programs(&self) -> &'static Path {
        programs()
    }

    /// Home of spotter on the laptop.
    pub fn spotter_home(&self) -> PathBuf {
        PathBuf::from(&self.env["SPOTTER_HOME"])
    }

    /// Another program, as the story's user.
    pub fn program(&self, name: &str, args: &[&str]) -> Command {
        let mut command = self.command(Path::new(name));
        command.args(args);
        command
    }

    /// Writes a file into the working folder.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.work().join(name);
        fs::write(&path, text).unwrap();
        if self.plays_nobody() {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    /// Writes the run file of a small training, and the training itself.
    pub fn training(&self, run: &Training) {
        self.write("train.sh", TRAIN);
        self.write(
            &format!("{}.yaml", run.name),
            &run.yaml(self.ready["s3_bucket"].as_str().unwrap()),
        );
    }

    /// Where its S3 server answers.
    pub fn s3_url(&self) -> &str {
        self.ready["s3_url"].as_str().unwrap()
    }

    /// What the simulator said.
    pub fn sim_log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(self.dir.join("sim.log")) {
            let _ = file.read_to_string(&mut text);
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut sim) = self.sim.take() {
            // Its end is asked for by closing its input; then it destroys every box.
            drop(sim.stdin.take());
            let start = Instant::now();
            while sim.try_wait().unwrap().is_none() {
                if start.elapsed() > Duration::from_secs(30) {
                    let _ = sim.kill();
                    let _ = sim.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        self.other = None;
        if std::thread::panicking() {
            println!("left for a look: {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
