//! `consilium demo`: a whole consortium on this machine, in minutes.
//!
//! A coordinator and one agent per hospital run as real processes and speak real gRPC over mutual TLS on loopback.
//! Every hospital has its own data; one of them is killed in the middle and comes back. At the end the released
//! model is compared, on cases that no hospital had, with pooled training and with each hospital alone.

pub mod arms;
pub(crate) mod deal;
mod federation;
pub(crate) mod folder;
pub(crate) mod interruption;
pub mod process;
pub(crate) mod progress;
mod report;
mod standing;
pub mod synthetic;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use consilium_study::canonical::Canonical as _;
use consilium_study::document::{Draft, Study};
use consilium_study::graph::Shape;
use consilium_study::name::SiteName;
use consilium_study::task::Task;

use self::arms::{Arm, Job, Outcome};
use self::deal::{Collection, Dealt, Places};
use self::federation::{Federation, Place};
use self::folder::Folder;
use self::interruption::Interruption;
use self::process::Part;
use self::progress::{Round, Story};
use self::report::{Comparison, Cost, Run};
use crate::output::Output;
use crate::partition::Partition;

/// Watch hospitals train one model together: a whole consortium on this machine, in minutes
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Number of hospitals
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(3..=20))]
    pub sites: u8,
    /// Rounds of training
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// A MedMNIST archive (.npz), or a folder of images, DICOM or NIfTI files with labels.csv; synthetic DICOM series without it
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// How --data is dealt out: iid, dirichlet:A or by:COLUMN
    #[arg(long, default_value = "dirichlet:0.5", requires = "data")]
    pub partition: Partition,
    /// Model: logistic, mlp, small-cnn, cnn-bn, resnet18, resnet34, resnet50 or densenet121
    #[arg(long, default_value = "small-cnn")]
    pub model: String,
    /// Another `training` section for the study, as TOML, for example 'optimiser = "sgd" …'
    #[arg(long, value_name = "TOML")]
    pub training: Option<String>,
    /// Seed of data, partition and study
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keep everything in this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Kill no hospital
    #[arg(long)]
    pub no_kill: bool,
    /// Skip the comparison with pooled and local training
    #[arg(long)]
    pub no_compare: bool,
}

/// Runs the demo. Ctrl-C, SIGTERM and SIGHUP end it, as does a reader that leaves; nothing stays running, and no
/// folder that was not asked for.
pub fn run(args: &DemoArgs, output: Output) -> anyhow::Result<()> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut interruption = {
        let _inside = runtime.enter();
        Interruption::listen()?
    };
    let folder = Folder::new(args.keep.as_deref())?;
    let (story, mut unheard) = Story::with_an_end(output, started);
    let demo = Demo { args, output, story, started, root: folder.root().to_owned() };
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            signal = interruption.arrives() => bail!("stopped by {signal}; nothing is left running"),
            Some(error) = unheard.recv() => Err(error.into()),
            outcome = demo.play() => outcome,
        }
    });
    // Waits for a thread that still deals data out: after that nobody writes into the folder.
    drop(runtime);
    folder.leave()?;
    outcome
}

struct Demo<'a> {
    args: &'a DemoArgs,
    output: Output,
    story: Story,
    started: Instant,
    root: PathBuf,
}

impl Demo<'_> {
    async fn play(&self) -> anyhow::Result<()> {
        let story = &self.story;
        let names = hospital_names(self.args.sites);
        story.tell(&format!(
            "{} hospitals train one model together on this machine; only the sum of their updates is ever visible.",
            names.len()
        ));
        story.tell(&format!("Everything lies in {}.", self.root.display()));
        let dealt = self.deal(&names).await?;
        let draft = draft(self.args, &names, &dealt.collection)?;
        if is_small(&dealt.collection) {
            story.tell(&format!(
                "The smallest hospital has {} case(s): this study asks for one at each and for half of them to be \
                 usable; {USUAL_MINIMUM} and 90 % are usual.",
                dealt.collection.smallest
            ));
        }

        let place = Place { root: &self.root, is_kept: self.args.keep.is_some() };
        let mut federation = Federation::start(place, &dealt.sites, story).await?;
        let study = federation.propose(&draft, story).await?;
        let killing = !self.args.no_kill && names.len() >= 4 && self.args.rounds >= 3;
        let rounds = federation.run(&study, killing.then_some(self.args.rounds), story).await?;
        let models = self.root.join("models");
        std::fs::create_dir_all(&models)?;
        let released = models.join("released.safetensors");
        let initial = models.join("initial.safetensors");
        federation.fetch_release(&study, &released).await?;
        federation.fetch(&study.initial_model(), &initial).await?;
        let killed = federation.killed().cloned();
        let cost = Cost {
            seconds: rounds.iter().map(|round| round.seconds).sum(),
            overhead: rounds.iter().filter_map(|round| round.overhead_seconds).sum(),
            model: study.model.len() as u64 * 4,
            coordinator_peak: federation.coordinator_peak(),
        };
        federation.stop().await;

        let traffic =
            rounds.iter().fold((0, 0), |(up, down), round| (up + round.bytes_up, down + round.bytes_down));
        story.tell(&format!("The hospitals exchanged {}.", report::traffic(traffic.0, traffic.1)));
        story.tell(&format!("{cost}."));
        let comparison = self.compare(&study, &dealt, &rounds, &released, &initial, story).await?;
        let kept = self.args.keep.is_some();
        let run = Run {
            sites: usize::from(self.args.sites),
            rounds: self.args.rounds,
            traffic,
            cost,
            seconds: self.started.elapsed().as_secs_f64(),
            seed: self.args.seed,
            killed,
            model: kept.then_some(released),
        };
        let table = comparison.table();
        self.output.show(&comparison.summary(&run), |summary| {
            let next = match &summary.model {
                Some(model) => format!(
                    "The model: {}\nCheck what was done: consilium audit verify {}",
                    model.display(),
                    self.root.display()
                ),
                None => "Keep everything, and check it offline:\n\n  consilium demo --keep DIR\n  consilium audit verify DIR".to_owned(),
            };
            format!("\n{table}\n\nAll on cases that no hospital had. {:.0} s in all.\n{next}", summary.seconds)
        })?;
        Ok(())
    }

    async fn deal(&self, names: &[SiteName]) -> anyhow::Result<Dealt> {
        let folders: BTreeMap<SiteName, PathBuf> = names
            .iter()
            .map(|name| (name.clone(), self.root.join("sites").join(name.as_str()).join("data")))
            .collect();
        let (args, test) = (self.args.clone(), self.root.join("test"));
        let story = self.story.clone();
        tokio::task::spawn_blocking(move || {
            let places = Places { sites: &folders, test: &test };
            match &args.data {
                None => {
                    story.tell("Each hospital gets its own synthetic DICOM series (own scanner, window, noise, prevalence, size).");
                    deal::synthetic(&places, args.seed)
                }
                Some(path) if path.is_dir() => {
                    story.tell(&format!("The patients of {} are dealt out ({}).", path.display(), args.partition));
                    deal::folder(path, &args.partition, &places, args.seed)
                }
                Some(path) => {
                    story.tell(&format!("{} is dealt out ({}); its test split goes to nobody.", path.display(), args.partition));
                    deal::archive(path, &args.partition, &places, args.seed, Task::Classification)
                }
            }
        })
        .await?
    }

    async fn compare(
        &self,
        study: &Study,
        dealt: &Dealt,
        rounds: &[Round],
        released: &Path,
        initial: &Path,
        story: &Story,
    ) -> anyhow::Result<Comparison> {
        let jobs = self.root.join("jobs");
        std::fs::create_dir_all(&jobs)?;
        std::fs::write(jobs.join("study"), study.to_canonical())?;
        let counted: Vec<Vec<SiteName>> = rounds.iter().map(|round| round.counted(&study.sites)).collect();
        let full_path = |source: &consilium_site_agent::data::Source, site: &SiteName| {
            deal::rooted(source.clone(), &self.root.join("sites").join(site.as_str()))
        };
        let arm = |sites: &[&SiteName]| Arm::Train {
            sites: sites.iter().map(|site| ((*site).clone(), full_path(&dealt.sites[*site], site))).collect(),
            initial: initial.to_owned(),
            counted: counted
                .iter()
                .map(|present| present.iter().filter(|site| sites.contains(site)).cloned().collect())
                .collect(),
        };
        let mut arms = vec![("released".to_owned(), Arm::File(released.to_owned()))];
        if !self.args.no_compare {
            let all: Vec<&SiteName> = study.sites.iter().collect();
            arms.push(("pooled".to_owned(), arm(&all)));
            arms.extend(study.sites.iter().map(|site| (site.to_string(), arm(&[site]))));
            story.tell("Now the same recipe and number of passes without a federation, for comparison …");
        }
        let outcomes = run_arms(study, dealt, &jobs, arms, story).await?;
        let take =
            |name: &str| outcomes.get(name).cloned().with_context(|| format!("{name} was not measured"));
        let federated = take("released")?;
        if self.args.no_compare {
            return Ok(Comparison { federated, pooled: None, alone: Vec::new() });
        }
        let alone: Vec<(SiteName, Outcome)> = study
            .sites
            .iter()
            .map(|site| Ok((site.clone(), take(site.as_str())?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Comparison { federated, pooled: Some(take("pooled")?), alone })
    }
}

/// Two arms at a time, each in a process with one thread.
async fn run_arms(
    study: &Study,
    dealt: &Dealt,
    jobs: &Path,
    arms: Vec<(String, Arm)>,
    story: &Story,
) -> anyhow::Result<BTreeMap<String, Outcome>> {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(2));
    let mut running = tokio::task::JoinSet::new();
    for (name, arm) in arms {
        let job = Job { study: jobs.join("study"), test: dealt.test.clone(), arm };
        let path = jobs.join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec(&job)?)?;
        let title = match &job.arm {
            // Scored within a moment.
            Arm::File(_) => None,
            Arm::Train { sites, .. } if sites.len() == 1 => Some(format!("{name} alone")),
            Arm::Train { .. } => Some(name.clone()),
        };
        let (places, story) = (std::sync::Arc::clone(&places), story.clone());
        running.spawn(async move {
            let _place = places.acquire_owned().await?;
            let began = Instant::now();
            if let Some(title) = &title {
                story.tell(&format!("{title}: training"));
            }
            let command = arms::command(&path)?;
            let text =
                Part::output(&name, command, |line| story.progress(&format!("{name}: {line}"))).await?;
            let outcome: Outcome = serde_json::from_str(text.trim())?;
            if let Some(title) = &title {
                let seconds = began.elapsed().as_secs_f64();
                story.tell(&format!("{title}: AUROC {:.3} after {seconds:.1} s", outcome.auroc));
            }
            anyhow::Ok((name, outcome))
        });
    }
    let mut outcomes = BTreeMap::new();
    while let Some(done) = running.join_next().await {
        let (name, outcome) = done??;
        outcomes.insert(name, outcome);
    }
    story.clear();
    debug_assert!(outcomes.len() <= study.sites.len() + 2);
    Ok(outcomes)
}

fn hospital_names(count: u8) -> Vec<SiteName> {
    const NAMES: [&str; 8] =
        ["aarhus", "bergen", "coimbra", "delft", "evora", "freiburg", "ghent", "helsinki"];
    (0..usize::from(count))
        .map(|number| {
            let name = match NAMES.get(number) {
                Some(name) => (*name).to_owned(),
                None => format!("hospital-{:02}", number + 1),
            };
            SiteName::new(name).expect("the demo's own names are valid")
        })
        .collect()
}

/// The study of the demo. Everything a real study says is in it.
fn draft(args: &DemoArgs, names: &[SiteName], collection: &Collection) -> anyhow::Result<Draft> {
    let quoted = |texts: &mut dyn Iterator<Item = &str>| {
        texts.map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ")
    };
    let sides = match collection.shape {
        Shape::Volume([channels, depth, height, width]) => {
            format!("channels = {channels}\ndepth = {depth}\nheight = {height}\nwidth = {width}")
        }
        Shape::Image([channels, height, width]) => {
            format!("channels = {channels}\nheight = {height}\nwidth = {width}")
        }
        Shape::Row(_) => bail!("a demo shows pictures and volumes"),
    };
    let (mean, std) = collection.statistics;
    let cap = collection.largest.max(16).next_power_of_two();
    let text = format!(
        "format = 1\nname = \"demo\"\ntitle = \"{title}\"\nsites = [{sites}]\nseed = {seed}\n\n\
         [data]\nlabels = [{labels}]\n{sides}\n\
         mean = {mean:?}\nstd = {std:?}\ntask = \"{task}\"\n{floors}\n\
         [model]\npreset = \"{model}\"\n\n\
         [training]\n{training}\n\n\
         [rounds]\ncount = {rounds}\nquorum = 3\ncollect_timeout = \"{patience}\"\nevaluate_timeout = \"{patience}\"\nsetup_timeout = \"1m\"\n\
         strategy = {{ kind = \"fedavg\", server_learning_rate = {server_rate:?} }}\n\n\
         [aggregation]\nweight = \"{weight}\"\nweight_cap = {cap}\n\n[evaluation]\n",
        title = collection.title,
        floors = if is_small(collection) { "minimum_cases = 1\nsmallest_usable_share = 0.5\n" } else { "" },
        sites = quoted(&mut names.iter().map(SiteName::as_str)),
        seed = args.seed,
        task = collection.task.name(),
        labels = quoted(&mut collection.labels.iter().map(String::as_str)),
        model = args.model,
        training = args.training.as_deref().unwrap_or(collection.recipe.training),
        rounds = args.rounds,
        server_rate = collection.recipe.server_learning_rate,
        weight = collection.recipe.weight.name(),
        // A site that works reports every step, so silence of a few steps means that it is gone. In a real study
        // a hospital may be away for hours.
        patience =
            if ["resnet", "densenet"].iter().any(|deep| args.model.starts_with(deep)) { "60s" } else { "5s" },
    );
    Draft::from_toml(&text).context("the demo's study")
}

/// Cases that a study asks of each hospital where it says nothing else.
const USUAL_MINIMUM: usize = 10;

/// Whether a hospital was dealt so few cases that it would refuse a usual study, or sit out its rounds for a single
/// image that cannot be read.
fn is_small(collection: &Collection) -> bool {
    collection.smallest < USUAL_MINIMUM
}

/// A killed hospital stays away until so many rounds have ended without it. It starts again while the next one is
/// running, so it misses one more.
const AWAY: u32 = 1;
/// How often the demo looks whether the study waits for the killed hospital.
const LOOK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use consilium_study::task::Task;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        demo: DemoArgs,
    }

    #[test]
    fn the_demos_study_passes_every_check() {
        for (sites, smallest, minimum) in [(3, 1, 1), (4, 9, 1), (8, 10, 10), (20, 200, 10)] {
            let args = Line::parse_from(["demo", "--sites", &sites.to_string()]).demo;
            let names = hospital_names(args.sites);
            let collection = Collection {
                title: "t".into(),
                labels: vec!["a".into(), "b".into()],
                task: Task::Classification,
                shape: [1, 28, 28].into(),
                statistics: (0.5, 0.25),
                largest: 300,
                smallest,
                recipe: deal::ARCHIVE_RECIPE,
            };
            let study = draft(&args, &names, &collection).unwrap();
            assert_eq!(study.data.minimum_cases, minimum, "{sites}");
        }
    }

    #[test]
    fn a_partition_without_data_to_deal_is_refused() {
        let read = |line: &str| Line::try_parse_from(line.split(' '));
        assert!(read("demo").is_ok() && read("demo --partition iid --data cases.npz").is_ok());
        assert!(read("demo --partition iid").is_err());
    }
}
