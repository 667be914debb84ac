//! `consilium study list`, `show` and `status`: what a study says, and where it stands.

use anyhow::{Context as _, bail};
use consilium_proto::v1::{ListStudiesRequest, ShowStudyRequest};
use consilium_study::canonical::Canonical;
use consilium_study::data::Input;
use consilium_study::document::Study;
use consilium_study::forecast::Forecast;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName, StudyName};
use consilium_study::preprocessing::Window;
use consilium_study::sign::Signed;
use serde::Serialize;

use super::check::Guarantee;
use super::view::StatusView;
use crate::consortium::Consortium;
use crate::output::{Output, by, table};
use crate::remote::{self, Remote, plain, refused};

/// One study in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StudyLine {
    /// Its name.
    pub name: String,
    /// Where it stands: proposed, open, running, paused, closed, released, stopped.
    pub state: String,
    /// The current round.
    pub round: u32,
    /// Rounds in all.
    pub rounds: u32,
    /// Its hash.
    pub study: Option<Hash>,
    /// The released model.
    pub released: Option<Hash>,
}

/// All studies in the order of names.
pub async fn list(consortium: &Consortium) -> anyhow::Result<Vec<StudyLine>> {
    let mut remote = Remote::open(consortium).await?;
    let reply = remote.client.list_studies(ListStudiesRequest {}).await.map_err(refused)?.into_inner();
    let lines = reply.studies.into_iter().map(|study| StudyLine {
        name: plain(&study.name),
        state: state(&study.state),
        round: study.round,
        rounds: study.rounds,
        study: remote::hash(&study.hash).ok(),
        released: remote::hash(&study.released).ok(),
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(lines)
}

/// The coordinator's word for a state.
pub(super) fn state(said: &str) -> String {
    if said.is_empty() { "unknown".to_owned() } else { plain(said) }
}

pub(super) fn print(lines: &[StudyLine], output: Output) -> anyhow::Result<()> {
    if output.json {
        return Ok(lines.iter().try_for_each(|line| output.show(line, |_| String::new()))?);
    }
    if lines.is_empty() {
        output.tell("No studies yet. Write one with: consilium study new NAME");
        return Ok(());
    }
    let short = |hash: Option<Hash>| hash.map(|hash| hash.short()).unwrap_or_default();
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            let round = format!("{}/{}", line.round, line.rounds);
            vec![line.name.clone(), line.state.clone(), round, short(line.study), short(line.released)]
        })
        .collect();
    output.tell(table(&["study", "state", "round", "hash", "released"], &rows));
    Ok(())
}

/// A study as its operator signed it, and where the coordinator says it stands.
#[derive(Debug)]
pub struct Known {
    /// The study. Its signature was checked.
    pub study: Study,
    /// Who proposed it.
    pub operator: Principal,
    /// Where it stands.
    pub status: StatusView,
    /// The released model.
    pub released: Option<Hash>,
    json: String,
}

/// Fetches a study by its name.
pub async fn fetch(consortium: &Consortium, name: &StudyName) -> anyhow::Result<Known> {
    fetch_from(&mut Remote::open(consortium).await?, name).await
}

/// The same, from a coordinator that was dialled.
pub(crate) async fn fetch_from(remote: &mut Remote, name: &StudyName) -> anyhow::Result<Known> {
    let (_, roster) = remote.roster().await?;
    let request = ShowStudyRequest { name: name.to_string() };
    let reply = remote.client.show_study(request).await.map_err(refused)?.into_inner();
    let signed = Signed::<Study>::from_canonical(&reply.study).context("the study cannot be read")?;
    let operator = signed.signer().clone();
    let key = match &operator {
        Principal::Operator(_) => roster.signing_key(&operator),
        _ => None,
    };
    let key =
        key.with_context(|| format!("the study is signed by {operator}, who is no operator on the roster"))?;
    let study = signed.verify(&operator, &key)?.into_inner();
    if study.name != *name {
        bail!("the coordinator sent the study {} for {name}", study.name);
    }
    let status = reply.status.unwrap_or_default();
    let view = StatusView::read(&status.json).context("the study's status cannot be read")?;
    let released = remote::hash(&status.released).ok();
    Ok(Known { study, operator, status: view, released, json: status.json })
}

/// Said of a study that trained for nothing.
pub(crate) const NOTHING_ADOPTED: &str = "No candidate was adopted: this is the model that the study started from. \
     Its round lines say why (consilium study status); a smaller training.learning_rate often helps.";

impl Known {
    /// Whether what was released is the model that the study started from.
    pub fn released_its_start(&self) -> bool {
        self.released == Some(self.study.initial_model())
    }

    /// Where it stands, for people.
    pub(super) fn people(&self, now_ms: u64) -> String {
        let status = self.status.people(now_ms);
        if self.released_its_start() { format!("{status}\n{NOTHING_ADOPTED}") } else { status }
    }

    /// The status as the coordinator sent it.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.json)?)
    }

    /// What the study says, for people and programs.
    pub(super) fn shown(&self) -> anyhow::Result<Shown> {
        let study = &self.study;
        let draft = study.clone().into_draft();
        Ok(Shown {
            name: study.name.clone(),
            title: study.title.clone(),
            study: study.hash(),
            operator: self.operator.to_string(),
            state: self.status.state.clone(),
            sites: study.sites.clone(),
            seed: study.seed,
            labels: study.data.labels.clone(),
            task: study.data.task.name(),
            images: study.data.case().sides().to_vec(),
            window: study.data.window,
            inputs: study.data.inputs.clone(),
            beside: study.data.beside.clone(),
            graph: study.model.hash(),
            parameters: study.model.len(),
            initial_model: study.initial_model(),
            rounds: study.rounds.count,
            quorum: study.rounds.quorum,
            clip_norm: study.aggregation.clip_norm.get(),
            weight: study.aggregation.weight.name(),
            ring_bits: study.aggregation.ring_bits,
            guarantee: Guarantee::of(&draft)?,
            training: serde_json::to_value(&study.training)?,
            strategy: study.rounds.strategy.to_string(),
            forecast: Forecast::of(study).to_string(),
        })
    }
}

/// What a study says.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    name: StudyName,
    title: String,
    study: Hash,
    operator: String,
    state: String,
    sites: Vec<SiteName>,
    seed: u64,
    labels: Vec<String>,
    task: &'static str,
    images: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inputs: Option<Vec<Input>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<Vec<Input>>,
    graph: Hash,
    parameters: usize,
    initial_model: Hash,
    rounds: u32,
    quorum: u32,
    clip_norm: f64,
    weight: &'static str,
    ring_bits: u32,
    guarantee: Guarantee,
    training: serde_json::Value,
    strategy: String,
    #[serde(skip)]
    forecast: String,
}

impl Shown {
    pub(super) fn people(&self) -> String {
        let sites: Vec<_> = self.sites.iter().map(SiteName::as_str).collect();
        let row = |inputs: &[Input]| {
            format!("{} inputs from the columns {}", inputs.len(), Input::columns(inputs).join(", "))
        };
        let cases = match &self.inputs {
            Some(inputs) => format!("rows of {}", row(inputs)),
            None => {
                let what = if self.images.len() == 4 { "volumes" } else { "images" };
                let window = |Window { low, high }| format!(", {low} black and {high} white");
                let beside = |inputs: &Vec<Input>| format!(", beside each {}", row(inputs));
                format!(
                    "{what} of {}{}{}",
                    by(&self.images),
                    self.window.map_or_else(String::new, window),
                    self.beside.as_ref().map_or_else(String::new, beside)
                )
            }
        };
        format!(
            "{name}: {title}\n\
             hash         {study}\n\
             proposed by  {operator}\n\
             state        {state}\n\
             sites        {sites}\n\
             cases        {cases}, scored as {labels} ({task})\n\
             starts from  model {initial}, seed {seed}\n\
             training     {training}\n\
             strategy     {strategy}\n\
             rounds       {rounds}, each with at least {quorum} sites; clip norm {clip}, weight {weight}, ring of {ring} bits\n\
             {forecast}\n{guarantee}",
            name = self.name,
            title = self.title,
            study = self.study,
            operator = self.operator,
            state = self.state,
            sites = sites.join(", "),
            labels = self.labels.join(", "),
            task = self.task,
            initial = self.initial_model,
            seed = self.seed,
            training = pairs(&self.training),
            strategy = self.strategy,
            rounds = self.rounds,
            quorum = self.quorum,
            clip = self.clip_norm,
            weight = self.weight,
            ring = self.ring_bits,
            forecast = self.forecast,
            guarantee = self.guarantee.people(),
        )
    }
}

/// `key value` for each key that is set.
fn pairs(value: &serde_json::Value) -> String {
    let Some(map) = value.as_object() else { return value.to_string() };
    let set = map.iter().filter(|(_, value)| !value.is_null());
    let pairs = set.map(|(key, value)| match value.as_str() {
        Some(word) => format!("{key} {word}"),
        None => format!("{key} {value}"),
    });
    pairs.collect::<Vec<_>>().join(", ")
}
