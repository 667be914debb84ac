//! The consortium of the demo: a coordinator and its hospitals, each in processes of their own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use consilium_identity::enrolment::Terms;
use consilium_proto::v1::{ShowStudyRequest, WatchRequest};
use consilium_site_agent::data::Source;
use consilium_study::document::{Draft, Study};
use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, PersonName, SiteName, StudyName};
use consilium_study::quantity::HumanDuration;
use serde_json::Value;

use super::process::{Part, part};
use super::progress::{Round, Story};
use super::standing::{Judgement, Stillness, describe, waits, withdrawals};
use super::{AWAY, LOOK};
use crate::consortium::{Consortium, init};
use crate::remote::{Meter, Remote};
use crate::site::{Agreement, admit, invite};
use crate::study;

/// The coordinator and every agent have so long to get ready, and an enrolment to be done.
const PATIENCE: Duration = Duration::from_secs(20);
/// Every hospital has read its data and judged the study after so long.
const JUDGING: Duration = Duration::from_mins(10);
/// After so many attempts in a row that were given up while a hospital withdraws, nothing else will come of them.
const MOST_GIVEN_UP: u32 = 3;
/// Largest model that is fetched.
const LONGEST_MODEL: u64 = 4 << 30;

/// Where a consortium lies.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Its folder.
    pub root: &'a Path,
    /// Whether the folder outlives the demo.
    pub is_kept: bool,
}

/// A running consortium.
pub(super) struct Federation {
    root: PathBuf,
    logs: PathBuf,
    /// What a person can read when something went wrong.
    see: String,
    consortium: Consortium,
    coordinator: Part,
    agents: BTreeMap<SiteName, Part>,
    killed: Option<SiteName>,
}

impl Federation {
    /// Makes the consortium, starts its coordinator, enrols every hospital and starts its agent.
    pub(super) async fn start(
        Place { root, is_kept }: Place<'_>,
        sources: &BTreeMap<SiteName, Source>,
        story: &Story,
    ) -> anyhow::Result<Self> {
        let logs = root.join("logs");
        let see = if is_kept {
            format!("see {}", logs.display())
        } else {
            "with --keep DIR everybody's log stays in DIR/logs".to_owned()
        };
        std::fs::create_dir_all(&logs)?;
        // Bound for a moment to learn a free port.
        let port = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.local_addr()?.port();
        init::make(&init::InitArgs {
            folder: root.to_owned(),
            name: ConsortiumName::new("demo").expect("a valid name"),
            address: format!("127.0.0.1:{port}").parse()?,
            operator: PersonName::new("operator").expect("a valid name"),
            request: None,
            fingerprint: None,
        })?;
        let consortium = Consortium::at(root)?;
        let config = root.join("coordinator/coordinator.toml");
        // On one machine a connection that broke does not come back by itself.
        let text_of_config = std::fs::read_to_string(&config)? + "\n[timing]\nlink_grace = \"2s\"\n";
        std::fs::write(&config, text_of_config)?;
        let serve = part(&["coordinator", "serve", "--config", text(&config)?])?;
        let mut coordinator = Part::start("coordinator", serve, &logs)?;
        coordinator.ready(PATIENCE).await.with_context(|| format!("starting the coordinator ({see})"))?;
        story.tell(&format!("coordinator ready on 127.0.0.1:{port}, pid {}", coordinator.pid()));
        let root = root.to_owned();
        let mut federation =
            Self { root, logs, see, consortium, coordinator, agents: BTreeMap::new(), killed: None };
        for (site, source) in sources {
            federation.enrol(site, source).await.with_context(|| format!("enrolling {site}"))?;
            let processes = federation.start_agent(site).await?;
            story.tell(&format!("{site} enrolled with keys made on the spot; its agent runs: {processes}"));
        }
        Ok(federation)
    }

    fn folder(&self, site: &SiteName) -> PathBuf {
        self.root.join("sites").join(site.as_str())
    }

    /// Invitation, request, admission: as an operator and a hospital's IT do it.
    async fn enrol(&self, site: &SiteName, source: &Source) -> anyhow::Result<()> {
        let folder = self.folder(site);
        std::fs::create_dir_all(&folder)?;
        let source = toml::to_string(source)?;
        let config = format!(
            "# A hospital of the demo.\nthreads = 1\n\n[source]\n{source}\n\
             [policy]\napproval = \"automatic\"\noperators = [\"operator/operator\"]\n"
        );
        std::fs::write(folder.join("site.toml"), config)?;
        let valid = HumanDuration::from_millis(3_600_000)?;
        let invitation = invite(&self.consortium, site, valid).await?;
        let line = invitation.to_text();
        let enrol = part(&["site-agent", "enrol", &line, "--dir", text(&folder)?])?;
        let name = format!("{site}-enrol");
        let enrolling = tokio::spawn(async move { Part::output(&name, enrol, |_| {}).await });
        let late = Instant::now() + PATIENCE;
        loop {
            let terms = Terms { test: false, replace: false };
            // Refused until the request has arrived; the enrolling process says so if it never will.
            match admit(&self.consortium, site, terms, Agreement::Unseen).await {
                Ok(_) => break,
                Err(error) if enrolling.is_finished() => {
                    enrolling.await??;
                    return Err(error);
                }
                Err(error) if Instant::now() > late => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        tokio::time::timeout(PATIENCE, enrolling)
            .await
            .context("it was admitted and did not hear of it")???;
        Ok(())
    }

    /// Starts a hospital's agent; its processes, as `name pid`.
    async fn start_agent(&mut self, site: &SiteName) -> anyhow::Result<String> {
        let command = part(&["site-agent", "run", "--dir", text(&self.folder(site))?])?;
        let mut agent = Part::start(site.as_str(), command, &self.logs)?;
        let line = agent.ready(PATIENCE).await;
        let line = line.with_context(|| format!("starting the agent of {site} ({})", self.see))?;
        self.agents.insert(site.clone(), agent);
        let processes =
            ["supervisor", "vault", "relay"].map(|part| format!("{part} {}", line["ready"][part]));
        Ok(processes.join(", "))
    }

    /// Proposes the study, waits until the hospitals have accepted, and starts it.
    pub(super) async fn propose(&self, draft: &Draft, story: &Story) -> anyhow::Result<Study> {
        let proposed = study::propose(&self.consortium, draft.clone(), None, Meter::quiet()).await?;
        story.tell(&format!(
            "study proposed: {} parameters, {} rounds, signed; every hospital judges it by its own policy",
            draft.model.len(),
            draft.rounds.count
        ));
        self.decided(&draft.name, story).await?;
        study::start(&self.consortium, &draft.name).await?;
        Ok(draft.clone().with_initial_model(proposed.initial_model))
    }

    /// Waits until every hospital has judged the study, so that the first round has all of them.
    async fn decided(&self, study: &StudyName, story: &Story) -> anyhow::Result<()> {
        let mut remote = Remote::open(&self.consortium).await?;
        let late = Instant::now() + JUDGING;
        let mut stillness = Stillness::new(Instant::now());
        loop {
            let status = self.status(&mut remote, study).await?;
            let Judgement { undecided, refusals, hopeless } = Judgement::read(&status)?;
            if let Some(why) = hopeless {
                bail!(why);
            }
            if undecided.is_empty() {
                for refusal in refusals {
                    story.tell(&format!("the study is refused at {refusal}; the others go on"));
                }
                return Ok(());
            }
            if Instant::now() > late {
                bail!("{} did not judge the study within {JUDGING:?}; {}", undecided.join(", "), self.see);
            }
            story.progress(&format!(
                "{} hospitals are reading their data and judging the study",
                undecided.len()
            ));
            if stillness.is_worth_a_line(&status, Instant::now()) {
                story.tell(&waits(&status)?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Follows the study to its release. With `kill_among`, one hospital is killed in the middle of that many
    /// rounds.
    pub(super) async fn run(
        &mut self,
        study: &Study,
        kill_among: Option<u32>,
        story: &Story,
    ) -> anyhow::Result<Vec<Round>> {
        let mut remote = Remote::open(&self.consortium).await?;
        let request = WatchRequest { study: study.name.to_string(), from: 0 };
        let mut events = remote.client.watch(request).await?.into_inner();
        let mut looks = tokio::time::interval(LOOK);
        let mut rounds: Vec<Round> = Vec::new();
        let mut open: Option<Round> = None;
        let (mut waited, mut given_up) = (0, 0);
        let mut stillness = Stillness::new(Instant::now());
        let kill_after = kill_among.map(|rounds| (rounds / 2).max(1));
        loop {
            tokio::select! {
                event = events.message() => {
                    let Some(event) = event? else { bail!("the coordinator ended the story; {}", self.see) };
                    let event: Value = serde_json::from_str(&event.json)?;
                    if event["event"] == "state" {
                        if event["state"] == "released" {
                            return Ok(rounds);
                        }
                        if let Some(word) = event["state"].as_str() {
                            story.tell(&format!("study {word}"));
                        }
                        if event["state"] == "stopped" {
                            bail!("the study was stopped; {}", self.see);
                        }
                    } else if let Some(round) = Round::of_training(&event) {
                        open = Some(round);
                    } else if open.as_mut().is_some_and(|round| round.conclude(&event)) {
                        let round = open.take().context("a round was just concluded")?;
                        story.round(&round, study.rounds.count)?;
                        if kill_after == Some(round.round) {
                            self.kill_one(story).await?;
                        } else if kill_after.is_some_and(|after| round.round >= after + AWAY) {
                            self.bring_back(story, "a round later").await?;
                        }
                        rounds.push(round);
                        given_up = 0;
                    } else if event["state"] == "abandoned" {
                        let cause = event["cause"].as_str().unwrap_or("no cause was said");
                        story.tell(&format!("an attempt was given up and is made again: {cause}"));
                        given_up += 1;
                        let withdrawn = withdrawals(&self.status(&mut remote, &study.name).await?)?;
                        if given_up >= MOST_GIVEN_UP
                            && let Some(withdrawn) = withdrawn
                        {
                            bail!(
                                "{given_up} attempts in a row were given up ({cause}), and it will not get better: \
                                 {withdrawn}; {}",
                                self.see
                            );
                        }
                    }
                }
                _ = looks.tick() => {
                    let status = self.status(&mut remote, &study.name).await?;
                    waited = if self.killed_is_waited_for(&status) { waited + 1 } else { 0 };
                    // Once may be the moment between two rounds.
                    if waited == 2 {
                        self.bring_back(story, "the study waits for it").await?;
                    }
                    if stillness.is_worth_a_line(&status, Instant::now()) {
                        story.tell(&waits(&status)?);
                    }
                    story.progress(&describe(&status));
                }
            }
        }
    }

    async fn status(&self, remote: &mut Remote, study: &StudyName) -> anyhow::Result<Value> {
        let request = ShowStudyRequest { name: study.to_string() };
        let reply = remote.client.show_study(request).await?.into_inner();
        Ok(serde_json::from_str(&reply.status.context("the coordinator says nothing about the study")?.json)?)
    }

    /// SIGKILL to an agent while it trains: no handler, no goodbye. Its parts die with it.
    async fn kill_one(&mut self, story: &Story) -> anyhow::Result<()> {
        // Let the next round begin, so that it is hit in the middle of its training.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let Some((site, agent)) = self.agents.pop_last() else { return Ok(()) };
        let pid = agent.pid();
        agent.kill().await?;
        story.tell(&format!("kill -9 {pid}: {site} is gone in the middle of a round; the others go on"));
        self.killed = Some(site);
        Ok(())
    }

    async fn bring_back(&mut self, story: &Story, why: &str) -> anyhow::Result<()> {
        let Some(site) = self.killed.clone() else { return Ok(()) };
        if !self.agents.contains_key(&site) {
            let processes = self.start_agent(&site).await?;
            story.tell(&format!("{site} is back ({why}) and joins the next round: {processes}"));
        }
        Ok(())
    }

    fn killed_is_waited_for(&self, status: &Value) -> bool {
        let Some(site) = self.killed.as_ref().filter(|site| !self.agents.contains_key(*site)) else {
            return false;
        };
        let waits = status["waits"].as_array().into_iter().flatten();
        // A wait with an end passes by itself.
        waits
            .filter(|wait| wait["until"].is_null())
            .any(|wait| wait["sites"].as_array().into_iter().flatten().any(|waited| waited == site.as_str()))
    }

    /// The hospital that was killed, if one was.
    pub(super) fn killed(&self) -> Option<&SiteName> {
        self.killed.as_ref()
    }

    /// Fetches the released model.
    pub(super) async fn fetch_release(&self, study: &Study, to: &Path) -> anyhow::Result<()> {
        let mut remote = Remote::open(&self.consortium).await?;
        let status = self.status(&mut remote, &study.name).await?;
        let model = status["released"].as_str().context("the study has released no model")?;
        self.fetch(&model.parse()?, to).await
    }

    /// Fetches a file by its hash.
    pub(super) async fn fetch(&self, hash: &Hash, to: &Path) -> anyhow::Result<()> {
        let mut remote = Remote::open(&self.consortium).await?;
        let mut file = std::fs::File::create(to)?;
        remote.download(*hash, LONGEST_MODEL, &mut file, Meter::quiet()).await?;
        Ok(())
    }

    /// The coordinator's peak memory in bytes, where the kernel tells.
    pub(super) fn coordinator_peak(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.coordinator.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Stops everybody, the coordinator last.
    pub(super) async fn stop(self) {
        let mut stopping: tokio::task::JoinSet<()> = self.agents.into_values().map(Part::stop).collect();
        while stopping.join_next().await.is_some() {}
        self.coordinator.stop().await;
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not text", path.display()))
}
