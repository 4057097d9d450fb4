//! Disturbed runs of a synthesis, held against the undisturbed one.

mod journal;

use std::{
    collections::BTreeSet,
    fmt,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dataset::store::{Location, Reader, kill_point};
use futures::TryStreamExt as _;
use proto::dataset::v1::Sample;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

pub use self::journal::journal_points;
use crate::{Redis, Service, checkout, program};

/// Places at which a process can be told to end; see `dataset::store::kill_point`.
const POINTS: [&str; 8] = [
    "staging.before",
    "staging.after",
    "publish.before",
    "publish.after",
    "manifest.before",
    "manifest.after",
    "round.before",
    "round.after",
];
/// Starts after which a run that does not end is given up on.
const MAX_STARTS: u32 = 12;
/// Kills of one long run.
const KILLS_PER_LONG_RUN: u32 = 10;

/// What came of the trials of one kind.
#[derive(Debug, Default)]
pub struct Tally {
    what: String,
    trials: u32,
    /// Times that the orchestrator was started again.
    restarts: u32,
    lost: u64,
    repeated: u64,
    identical: u32,
}

impl Tally {
    fn of(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ..Self::default()
        }
    }

    /// Whether every trial ended in the undisturbed dataset.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.identical == self.trials
    }

    fn add(&mut self, restarts: u32, found: &Dataset, expected: &Dataset) {
        self.trials += 1;
        self.restarts += restarts;
        let distinct: BTreeSet<&String> = found.ids.iter().collect();
        let is_lost = |id: &&String| !distinct.contains(id);
        self.lost += expected.ids.iter().filter(is_lost).count() as u64;
        self.repeated += (found.ids.len() - distinct.len()) as u64;
        let is_same = found == expected;
        self.identical += u32::from(is_same);
        eprintln!(
            "{} {}: {restarts} restarts, {}",
            self.what,
            self.trials,
            if is_same { "identical" } else { "DIFFERENT" }
        );
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            trials,
            restarts,
            lost,
            repeated,
            identical,
        } = self;
        write!(
            formatter,
            "{what:<34} {trials:>6} {restarts:>9} {lost:>5} {repeated:>9} {identical:>10}"
        )
    }
}

/// What a run left: ids in the order of the manifest, and the names of its shards, which are the
/// hashes of their content.
#[derive(Debug, PartialEq, Eq)]
struct Dataset {
    manifest_sha256: String,
    ids: Vec<String>,
    shards: BTreeSet<String>,
}

impl Dataset {
    fn read(folder: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(async {
            let reader = Reader::open(Location::from(folder).open()?).await?;
            let samples: Vec<Sample> = reader.samples().try_collect().await?;
            let shards = std::fs::read_dir(folder.join("shards"))?;
            let shards = shards.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let shards: Result<BTreeSet<String>> = shards.collect();
            let is_shard = |name: &String| name.ends_with(".parquet") && !name.contains('#');
            Ok(Self {
                manifest_sha256: reader.manifest_sha256(),
                ids: samples.into_iter().map(|sample| sample.id).collect(),
                // What a killed writer had not named yet is no shard.
                shards: shards?.into_iter().filter(is_shard).collect(),
            })
        })
    }
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Orchestrator,
    Service(usize),
    Redis,
}

/// A run that was disturbed and has ended.
struct Disturbed {
    out: PathBuf,
    /// Kills that hit while it ran.
    kills: u32,
    restarts: u32,
}

/// What `abort` ends a process with, on Linux.
const SIGABRT: i32 = 6;

/// Three services, a Redis, a recipe, and what it gives when nothing happens.
#[derive(Debug)]
pub struct Bench {
    folder: tempfile::TempDir,
    recipe: PathBuf,
    services: Vec<Service>,
    redis: Redis,
    undisturbed: Dataset,
    undisturbed_seconds: f64,
    random: ChaCha8Rng,
    run_count: u32,
}

const SERVICES: [&str; 3] = ["promptgen", "diffusion", "dialogue"];

impl Bench {
    /// Starts everything and runs the recipe once in peace.
    ///
    /// # Errors
    /// A program that does not start, or the run fails.
    pub fn open(recipe: &str, seed: u64) -> Result<Self> {
        let redis = Redis::start();
        let start = |name: &str| {
            Service::start(name, |command| {
                command
                    .env("DIPTYCH_ASSETS", checkout())
                    .env("REDIS_URL", redis.url());
            })
        };
        let mut bench = Self {
            folder: tempfile::tempdir()?,
            recipe: checkout().join(recipe),
            services: SERVICES.map(start).into(),
            redis,
            undisturbed: Dataset {
                manifest_sha256: String::new(),
                ids: Vec::new(),
                shards: BTreeSet::new(),
            },
            undisturbed_seconds: 0.0,
            random: ChaCha8Rng::seed_from_u64(seed),
            run_count: 0,
        };
        let out = bench.place();
        let begun = Instant::now();
        if let Some(complaint) = complaint(bench.synth(&out))? {
            bail!("the undisturbed run failed: {complaint}");
        }
        bench.undisturbed_seconds = begun.elapsed().as_secs_f64();
        bench.undisturbed = Dataset::read(&out)?;
        // What is in the caches now would make the disturbed runs shorter, and their kills miss.
        bench.forget();
        eprintln!(
            "{recipe}: {} samples in {:.1} s undisturbed",
            bench.undisturbed.ids.len(),
            bench.undisturbed_seconds
        );
        Ok(bench)
    }

    /// One kill -9 in each of `count` runs, at a random moment, of a random victim.
    ///
    /// # Errors
    /// A run that never ends.
    pub fn random_kills(&mut self, count: u32) -> Result<Vec<Tally>> {
        let mut tallies = ["orchestrator", "service", "Redis"]
            .map(|victim| Tally::of(format!("kill -9 of {victim}")));
        let mut done = 0;
        while done < count {
            let victim = self.victim();
            let Disturbed {
                out,
                kills,
                restarts,
            } = self.disturbed_run(1, |_| victim)?;
            // The run was over before its moment: nothing was survived.
            if kills == 0 {
                eprintln!("a run ended before its kill; another one is made");
                continue;
            }
            done += 1;
            let row = match victim {
                Victim::Orchestrator => 0,
                Victim::Service(_) => 1,
                Victim::Redis => 2,
            };
            tallies[row].add(restarts, &Dataset::read(&out)?, &self.undisturbed);
        }
        Ok(tallies.into())
    }

    /// The orchestrator ends at each named point, at its first passage, its second, and so on.
    ///
    /// # Errors
    /// A run that never ends, or one that was not ended.
    pub fn named_points(&mut self, rounds: u32) -> Result<Tally> {
        let mut tally = Tally::of("named points");
        for passage in 1..=rounds {
            for point in POINTS {
                let out = self.place();
                let mut command = self.synth(&out);
                // Beyond the last passage nothing ends; then the last but one must do.
                let passages = match point.starts_with("round") {
                    // Nothing repeats in the recipes of these trials.
                    true => 1,
                    false => self.undisturbed.shards.len() as u32,
                };
                let passage = (passage - 1) % passages + 1;
                command.env(kill_point::VARIABLE, format!("{point}:{passage}"));
                let signal = command.status()?.signal();
                ensure!(signal == Some(SIGABRT), "{point}:{passage} did not end it");
                let restarts = self.finish(&out)?;
                tally.add(restarts, &Dataset::read(&out)?, &self.undisturbed);
            }
        }
        Ok(tally)
    }

    /// Runs on a disk that is full after a share of the dataset, and is enlarged then.
    ///
    /// # Errors
    /// No disk of its own can be had, or a run that never ends.
    pub fn full_disks(&mut self, count: u32) -> Result<Tally> {
        let mut tally = Tally::of("disk full");
        let total = self.size_bytes()?;
        for trial in 0..count {
            let out = self.place();
            std::fs::create_dir_all(&out)?;
            let size = total * u64::from(trial + 1) / u64::from(count + 2);
            let disk = self.folder.path().join("disk");
            std::fs::create_dir_all(&disk)?;
            let synth = self.synth(&disk);
            let mut script = Command::new("unshare");
            script.args(["-rm", "bash", "-ec", DISK_SCRIPT, "disk"]);
            script.arg(&disk).arg(size.max(4096).to_string()).arg(&out);
            script.arg(synth.get_program()).args(synth.get_args());
            script.stdout(Stdio::null()).stderr(Stdio::null());
            for (name, value) in synth.get_envs() {
                match value {
                    Some(value) => script.env(name, value),
                    None => script.env_remove(name),
                };
            }
            let status = script.status().context("unshare (util-linux)")?;
            ensure!(
                status.success(),
                "trial {trial}: the disk script ended with {status}"
            );
            tally.add(1, &Dataset::read(&out)?, &self.undisturbed);
        }
        Ok(tally)
    }

    /// The recipe shared out over processes that run at the same time.
    ///
    /// # Errors
    /// A process that fails.
    pub fn side_by_side(&mut self, processes: u32) -> Result<Tally> {
        let mut tally = Tally::of(format!("{processes} processes side by side"));
        let out = self.place();
        let mut children = Vec::new();
        for index in 0..processes {
            let mut command = self.synth(&out);
            command.args(["--shard-index", &index.to_string()]);
            command.args(["--shard-count", &processes.to_string()]);
            children.push(command.spawn()?);
        }
        for mut child in children {
            ensure!(child.wait()?.success(), "a process failed");
        }
        tally.add(0, &Dataset::read(&out)?, &self.undisturbed);
        Ok(tally)
    }

    /// Runs with many kills each.
    ///
    /// # Errors
    /// A run that never ends.
    pub fn long_runs(&mut self, count: u32) -> Result<Tally> {
        let name = self
            .recipe
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy();
        let mut tally = Tally::of(format!("{name}, {KILLS_PER_LONG_RUN} kills each"));
        for _ in 0..count {
            let Disturbed {
                out,
                kills,
                restarts,
            } = self.disturbed_run(KILLS_PER_LONG_RUN, |bench| bench.victim())?;
            ensure!(kills > 0, "the run ended before its first kill");
            eprintln!("{kills} of {KILLS_PER_LONG_RUN} kills hit");
            tally.add(restarts, &Dataset::read(&out)?, &self.undisturbed);
        }
        Ok(tally)
    }

    fn victim(&mut self) -> Victim {
        match self.random.random_range(0..5) {
            0 | 1 => Victim::Orchestrator,
            2 | 3 => Victim::Service(self.random.random_range(0..SERVICES.len())),
            _ => Victim::Redis,
        }
    }

    /// A run with `kills` kills, spread over the time that it takes in peace.
    fn disturbed_run(
        &mut self,
        kills: u32,
        mut victim: impl FnMut(&mut Self) -> Victim,
    ) -> Result<Disturbed> {
        self.forget();
        let out = self.place();
        let (mut made, mut restarts) = (0, 0);
        let mut child = self.synth(&out).spawn()?;
        let share = self.undisturbed_seconds / f64::from(kills);
        for _ in 0..kills {
            let pause = Duration::from_secs_f64(share * self.random.random_range(0.05..0.95));
            if has_ended(&mut child, pause)? {
                break;
            }
            made += 1;
            match victim(self) {
                Victim::Service(index) => self.services[index].kill_and_restart(),
                Victim::Redis => self.redis.kill_and_restart(),
                Victim::Orchestrator => {
                    child.kill()?;
                    child.wait()?;
                    restarts += 1;
                    child = self.synth(&out).spawn()?;
                }
            }
        }
        if !child.wait()?.success() {
            restarts += self.finish(&out)?;
        }
        Ok(Disturbed {
            out,
            kills: made,
            restarts,
        })
    }

    /// Starts the run again until it ends well.
    fn finish(&self, out: &Path) -> Result<u32> {
        for start in 1..=MAX_STARTS {
            match complaint(self.synth(out))? {
                None => return Ok(start),
                Some(complaint) => eprintln!("start {start}: {complaint}"),
            }
        }
        bail!("{} did not end in {MAX_STARTS} starts", out.display())
    }

    fn synth(&self, out: &Path) -> Command {
        let endpoints: Vec<String> = self.services.iter().map(Service::named_endpoint).collect();
        let mut command = program("diptych");
        command
            .env("DIPTYCH_ASSETS", checkout())
            .arg("synth")
            .arg(&self.recipe)
            .arg("--out")
            .arg(out)
            .args(["--endpoints", &endpoints.join(",")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn place(&mut self) -> PathBuf {
        self.run_count += 1;
        self.folder.path().join(format!("run-{}", self.run_count))
    }

    /// Empties all caches: services keep one in memory, and one in Redis.
    fn forget(&mut self) {
        self.redis.kill_and_restart();
        self.services.iter_mut().for_each(Service::kill_and_restart);
    }

    fn size_bytes(&self) -> Result<u64> {
        let shards = self.folder.path().join("run-1/shards");
        let sizes = std::fs::read_dir(shards)?.map(|entry| Ok(entry?.metadata()?.len()));
        let sizes: Result<Vec<u64>> = sizes.collect();
        Ok(sizes?.into_iter().sum())
    }
}

/// `disk FOLDER BYTES OUT PROGRAM …`: runs the program on a small disk, which must not be enough,
/// enlarges it, runs it again and copies what it left.
const DISK_SCRIPT: &str = r#"
disk=$1 size=$2 out=$3; shift 3
mount -t tmpfs -o size="$size" tmpfs "$disk"
if "$@"; then echo "the disk was large enough" >&2; exit 3; fi
mount -o remount,size=1g "$disk"
"$@"
cp -r "$disk"/. "$out"
"#;

/// Runs a command to its end; what it says when it fails.
fn complaint(mut command: Command) -> Result<Option<String>> {
    let output = command.stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((!output.status.success()).then_some(said))
}

/// Waits for a time, or until the child has ended.
fn has_ended(child: &mut Child, pause: Duration) -> Result<bool> {
    const LOOK_EVERY: Duration = Duration::from_millis(2);
    let begun = Instant::now();
    while begun.elapsed() < pause {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(false)
}
