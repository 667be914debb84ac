//! A site's own policy, and what it says to a study.
//!
//! The policy stands in the site's configuration and nobody else can change it. It sets floors: a study may
//! be stricter and never laxer, and where both set a number the stricter one holds. What is left out fails
//! closed: with no operator named, nobody may propose anything.
//!
//! A judgement lists every clause with the rule it met and depends on nothing but policy, study, signer
//! and roster: never on how many patients there are. A refusal has exactly one deciding rule, the first that is not
//! met, and only that one leaves the building.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::{MAX_SITES, MIN_SITES};
use crate::disclosure::Floor;
use crate::document::{Plan, Study, colluders, least_honest};
use crate::forecast::CoreTime;
use crate::name::{PersonName, Principal, SiteName};
use crate::quantity::{ClipNorm, HumanDuration};
use crate::statement::{Repeat, Rule, SiteTerms};
use crate::weight::WeightRule;

/// The `[policy]` of a site. A value that exists is valid.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Section")]
pub struct Policy {
    operators: BTreeSet<PersonName>,
    approval: Approval,
    known_sites: BTreeSet<SiteName>,
    min_selection: u32,
    min_honest: Option<u32>,
    max_clip_norm: Option<ClipNorm>,
    max_core_time: Option<HumanDuration>,
    exact_weights: bool,
    groups: bool,
    repeat: Repeat,
    min_change: Option<u32>,
    trap_factor: f64,
    min_cases: u32,
    count_floor: Floor,
}

/// Who says yes when every clause is met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approval {
    /// A person at the site; before that no file is opened.
    #[default]
    Manual,
    /// The policy itself.
    Automatic,
}

/// `[policy]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    #[serde(default)]
    operators: Vec<String>,
    #[serde(default)]
    approval: Approval,
    #[serde(default)]
    known_sites: BTreeSet<SiteName>,
    min_selection: Option<u32>,
    min_honest: Option<u32>,
    max_clip_norm: Option<ClipNorm>,
    max_core_time: Option<HumanDuration>,
    #[serde(default)]
    exact_weights: bool,
    #[serde(default)]
    groups: bool,
    #[serde(default)]
    repeat: Repeat,
    min_change: Option<u32>,
    trap_factor: Option<f64>,
    min_cases: Option<u32>,
    #[serde(default)]
    count_floor: Floor,
}

/// Why a `[policy]` cannot be loaded. The agent does not start with one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidPolicy {
    /// Not TOML, an unknown key, or a value of the wrong kind; the text names line and key.
    #[error("{0}")]
    Syntax(String),
    /// An operator that is not one.
    #[error("policy.operators: \"{0}\" is no operator; write \"operator/NAME\"")]
    Operator(String),
    /// A number outside its range.
    #[error("policy.{key}: {value} is out of range; write a number from {least} to {most}")]
    Range {
        /// The key.
        key: &'static str,
        /// What was written.
        value: f64,
        /// Least value.
        least: u32,
        /// Largest value.
        most: u32,
    },
}

impl TryFrom<Section> for Policy {
    type Error = InvalidPolicy;

    fn try_from(section: Section) -> Result<Self, InvalidPolicy> {
        let range = |key, value: f64, least: u32, most: u32| {
            if (f64::from(least)..=f64::from(most)).contains(&value) {
                Ok(())
            } else {
                Err(InvalidPolicy::Range { key, value, least, most })
            }
        };
        let sites = MAX_SITES as u32;
        let min_selection = section.min_selection.unwrap_or(MIN_SITES as u32);
        range("min_selection", min_selection.into(), MIN_SITES as u32, sites)?;
        if let Some(min_honest) = section.min_honest {
            range("min_honest", min_honest.into(), 2, sites)?;
        }
        if let Some(min_change) = section.min_change {
            range("min_change", min_change.into(), 1, sites)?;
        }
        let trap_factor = section.trap_factor.unwrap_or(3.0);
        range("trap_factor", trap_factor, 1, 1000)?;
        let min_cases = section.min_cases.unwrap_or(1);
        range("min_cases", min_cases.into(), 1, 1_000_000)?;
        let operators = section.operators.into_iter().map(operator).collect::<Result<_, _>>()?;
        Ok(Self {
            operators,
            approval: section.approval,
            known_sites: section.known_sites,
            min_selection,
            min_honest: section.min_honest,
            max_clip_norm: section.max_clip_norm,
            max_core_time: section.max_core_time,
            exact_weights: section.exact_weights,
            groups: section.groups,
            repeat: section.repeat,
            min_change: section.min_change,
            trap_factor,
            min_cases,
            count_floor: section.count_floor,
        })
    }
}

fn operator(text: String) -> Result<PersonName, InvalidPolicy> {
    match text.parse() {
        Ok(Principal::Operator(name)) => Ok(name),
        Ok(_) | Err(_) => Err(InvalidPolicy::Operator(text)),
    }
}

impl Policy {
    /// Reads the keys of a `[policy]` section, without its heading. Inside a larger configuration the type
    /// is deserialised as a field.
    pub fn from_toml(text: &str) -> Result<Self, InvalidPolicy> {
        let section: Section =
            toml::from_str(text).map_err(|error| InvalidPolicy::Syntax(error.to_string()))?;
        Self::try_from(section)
    }

    /// Who says yes when every clause is met.
    pub const fn approval(&self) -> Approval {
        self.approval
    }

    /// Whether no study can be accepted, because nobody may sign one.
    pub fn names_no_operator(&self) -> bool {
        self.operators.is_empty()
    }

    /// A starting model is refused when its held-out loss is over so many times that of the last accepted.
    pub const fn trap_factor(&self) -> f64 {
        self.trap_factor
    }

    /// The floor of the disclosure gate.
    pub const fn count_floor(&self) -> Floor {
        self.count_floor
    }

    /// Sites that have to be in every Selection.
    pub const fn known_sites(&self) -> &BTreeSet<SiteName> {
        &self.known_sites
    }

    /// The labelled, usable cases below which this site does not upload: the stricter of study and policy.
    pub fn minimum_cases(&self, plan: &Plan) -> u32 {
        self.min_cases.max(plan.data.minimum_cases)
    }

    /// The terms on which this site takes part in a study: the stricter of study and policy in each field.
    pub fn terms(&self, plan: &Plan) -> SiteTerms {
        SiteTerms {
            min_honest: self.min_honest(plan),
            min_selection: self.min_selection.max(MIN_SITES as u32),
            min_change: self.min_change,
            repeat: self.repeat,
            exact_weights: self.exact_weights,
            groups: self.groups,
        }
    }

    fn min_honest(&self, plan: &Plan) -> u32 {
        let floor = least_honest(plan.sites.len()).max(plan.aggregation.min_honest);
        self.min_honest.unwrap_or(floor).max(floor)
    }

    /// Judges a study that `signer` has signed, at `site`, with the sites of the consortium's roster.
    pub fn judge(
        &self,
        study: &Study,
        signer: &Principal,
        site: &SiteName,
        roster: &BTreeSet<SiteName>,
    ) -> Verdict {
        let clauses = vec![
            self.operators_clause(signer),
            membership_clause(study, site),
            roster_clause(study, roster),
            self.known_sites_clause(study),
            self.min_selection_clause(study),
            self.min_honest_clause(study),
            self.clip_norm_clause(study),
            self.core_time_clause(study),
            self.exact_weights_clause(study),
            self.groups_clause(study),
            self.min_cases_clause(study),
        ];
        Verdict { clauses, approval: self.approval }
    }

    fn operators_clause(&self, signer: &Principal) -> Clause {
        let met = matches!(signer, Principal::Operator(name) if self.operators.contains(name));
        let names = self.operators.iter().map(|name| format!("operator/{name}"));
        let found = match (met, self.operators.is_empty()) {
            (false, true) => format!("the study is signed by {signer}, and the policy names no operator"),
            _ => format!("the study is signed by {signer}"),
        };
        Clause::new("operators", list(names), found, met)
    }

    fn known_sites_clause(&self, study: &Study) -> Clause {
        let missing = self.known_sites.iter().find(|site| study.sites.binary_search(site).is_err());
        let found = match missing {
            Some(site) => format!("the study does not name {site}"),
            None => "the study names all of them".into(),
        };
        Clause::new("known_sites", list(self.known_sites.iter()), found, missing.is_none())
    }

    fn min_selection_clause(&self, study: &Study) -> Clause {
        let met = study.sites.len() >= self.min_selection as usize;
        let found = format!("the study names {} sites", study.sites.len());
        Clause::new("min_selection", self.min_selection.to_string(), found, met)
    }

    fn min_honest_clause(&self, study: &Study) -> Clause {
        let sites = study.sites.len();
        let helpers = colluders(sites);
        let need = self.min_honest(study);
        let setting = self.min_honest.map_or_else(|| "the study's".to_owned(), |least| least.to_string());
        let found = format!("{need} apply; of {sites} sites {helpers} may help the coordinator");
        Clause::new("min_honest", setting, found, (need + helpers) as usize <= sites)
    }

    fn clip_norm_clause(&self, study: &Study) -> Clause {
        let norm = study.aggregation.clip_norm;
        let met = self.max_clip_norm.is_none_or(|most| norm <= most);
        let setting = self.max_clip_norm.map_or_else(|| "any".to_owned(), |most| most.to_string());
        Clause::new("max_clip_norm", setting, format!("the study clips to {norm}"), met)
    }

    fn core_time_clause(&self, study: &Study) -> Clause {
        let asked = CoreTime::of(study);
        let met = self.max_core_time.is_none_or(|most| asked.time <= most);
        let setting = self.max_core_time.map_or_else(|| "any".to_owned(), |most| most.to_string());
        Clause::new("max_core_time", setting, format!("a round takes {asked}"), met)
    }

    fn exact_weights_clause(&self, study: &Study) -> Clause {
        let weight = study.aggregation.weight;
        let met = self.exact_weights || weight != WeightRule::Examples;
        let found = format!("the study weighs by \"{}\"", weight.name());
        Clause::new("exact_weights", self.exact_weights.to_string(), found, met)
    }

    fn groups_clause(&self, study: &Study) -> Clause {
        let (found, met) = match study.aggregation.groups {
            None => ("everybody is summed together".to_owned(), true),
            Some(groups) => (format!("the study sums {} groups apart", groups.count), self.groups),
        };
        Clause::new("groups", self.groups.to_string(), found, met)
    }

    fn min_cases_clause(&self, study: &Study) -> Clause {
        let found =
            format!("{} apply; the study asks for {}", self.minimum_cases(study), study.data.minimum_cases);
        // Stricter wins, so this clause informs and cannot fail.
        Clause::new("min_cases", self.min_cases.to_string(), found, true)
    }
}

fn membership_clause(study: &Study, site: &SiteName) -> Clause {
    let met = study.sites.binary_search(site).is_ok();
    let found = if met { "the study names this site" } else { "the study does not name this site" };
    Clause::new("member", site.to_string(), found.into(), met)
}

fn roster_clause(study: &Study, roster: &BTreeSet<SiteName>) -> Clause {
    let stranger = study.sites.iter().find(|site| !roster.contains(site));
    let found = match stranger {
        Some(site) => format!("{site} is not in the consortium's roster"),
        None => format!("all {} sites are in the consortium's roster", study.sites.len()),
    };
    Clause::new("roster", "the consortium's".into(), found, stranger.is_none())
}

fn list(names: impl Iterator<Item = impl fmt::Display>) -> String {
    format!("[{}]", names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "))
}

/// One clause of a policy held against a study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    rule: &'static str,
    setting: String,
    found: String,
    met: bool,
}

impl Clause {
    const fn new(rule: &'static str, setting: String, found: String, met: bool) -> Self {
        Self { rule, setting, found, met }
    }

    /// Name of the rule: a key of `[policy]`, or `member` or `roster`, which every site holds.
    pub const fn rule(&self) -> &'static str {
        self.rule
    }

    /// What the site demands.
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// What the study says.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// Whether the study meets the rule.
    pub const fn is_met(&self) -> bool {
        self.met
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.met { "met    " } else { "REFUSED" };
        write!(f, "{mark}  {} = {}: {}", self.rule, self.setting, self.found)
    }
}

/// What a policy says to a study. Only [`Policy::judge`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    clauses: Vec<Clause>,
    approval: Approval,
}

/// What follows from a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Accepted by this rule.
    Accept(Rule),
    /// Every clause is met, and a person has to say yes.
    AskPerson,
    /// Refused by this rule and no other.
    Refuse(Rule),
}

impl Verdict {
    /// Every clause, in the order in which they decide.
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }

    /// The clause that refuses: the first that is not met.
    pub fn deciding(&self) -> Option<&Clause> {
        self.clauses.iter().find(|clause| !clause.met)
    }

    /// What follows. The rule of a refusal is its name alone: the settings of a policy stay at the site.
    pub fn decision(&self) -> Decision {
        let rule = |text: String| Rule::new(text).expect("a rule's name is one short line");
        match (self.deciding(), self.approval) {
            (Some(clause), _) => Decision::Refuse(rule(format!("policy.{}", clause.rule))),
            (None, Approval::Automatic) => Decision::Accept(rule("policy.approval = automatic".into())),
            (None, Approval::Manual) => Decision::AskPerson,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clauses.iter().try_for_each(|clause| writeln!(f, "{clause}"))?;
        match (self.deciding(), self.approval) {
            (Some(clause), _) => write!(f, "refused by {}", clause.rule),
            (None, Approval::Automatic) => f.write_str("accepted: approval = automatic"),
            (None, Approval::Manual) => f.write_str("waits for a person: approval = manual"),
        }
    }
}
