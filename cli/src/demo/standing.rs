//! What the demo reads out of a study's status while it waits.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::remote::now_ms;
use crate::study::{SiteView, StatusView};

/// Rungs of a site that has not judged a study yet.
const UNDECIDED: [&str; 3] = ["enrolled", "connected", "deciding"];
/// A study that shows nothing new for so long is worth a line.
const QUIET: Duration = Duration::from_secs(10);

/// What helps where a hospital has too little that it can use.
const DEAL_ANEW: &str =
    "If it has too few cases, deal them to fewer hospitals (--sites) or in another way (--partition iid)";

/// What helps where a model becomes worse for a hospital than the one before.
const TRAIN_GENTLY: &str = "The training is too much for hospitals so different: take a smaller learning_rate \
                            (--training), or deal more evenly (--partition iid)";

/// How the hospitals judge a study.
pub(super) struct Judgement {
    /// Hospitals that have not judged it yet.
    pub undecided: Vec<String>,
    /// Hospitals that refused it, each with its rule.
    pub refusals: Vec<String>,
    /// Why the study can never begin, and what to type instead.
    pub hopeless: Option<String>,
}

impl Judgement {
    /// Reads it out of a status.
    pub(super) fn read(status: &Value) -> anyhow::Result<Self> {
        let view = view(status)?;
        let names =
            |wanted: &dyn Fn(&SiteView) -> Option<String>| view.sites.iter().filter_map(wanted).collect();
        let undecided = names(&|site| UNDECIDED.contains(&site.rung.as_str()).then(|| site.site.clone()));
        let refusals: Vec<String> =
            names(&|site| Some(format!("{} by its rule {}", site.site, site.refused_by.as_ref()?)));
        let hopeless = view.waits.iter().any(|wait| wait.reason == "stop").then(|| {
            format!("the study cannot begin: it is refused at {}. {DEAL_ANEW}", refusals.join(", at "))
        });
        Ok(Self { undecided, refusals, hopeless })
    }
}

/// Hospitals that do not take part in an attempt by their own decision, each with its reason, and what helps.
/// None without such a hospital.
pub(super) fn withdrawals(status: &Value) -> anyhow::Result<Option<String>> {
    let view = view(status)?;
    let reason = |site: &SiteView| {
        let missing = site.missing.as_ref()?;
        Some((site.site.clone(), missing.withdrawal.clone().or(missing.decline.clone())?))
    };
    let reasons: Vec<(String, String)> = view.sites.iter().filter_map(reason).collect();
    let by_model = reasons.iter().all(|(_, reason)| reason == "model");
    let named = reasons.iter().map(|(site, reason)| format!("{site} ({})", reason.replace('_', " ")));
    let named = named.collect::<Vec<_>>().join(", ");
    let remedy = if by_model { TRAIN_GENTLY } else { DEAL_ANEW };
    Ok((!reasons.is_empty()).then(|| format!("{named} withdrew. {remedy}")))
}

/// Whom a study waits for, in the words of `study status`.
pub(super) fn waits(status: &Value) -> anyhow::Result<String> {
    let text = view(status)?.people(now_ms());
    let waits: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("waits for")).collect();
    Ok(format!("nothing new from the study; it {}", waits.join("; it ")))
}

fn view(status: &Value) -> anyhow::Result<StatusView> {
    serde_json::from_value(status.clone()).context("the study's status cannot be read")
}

/// One line about what is going on.
pub(super) fn describe(status: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().replace('_', " ");
    let working = status["sites"].as_array().into_iter().flatten().filter_map(|site| {
        let total = site["total"].as_u64().filter(|total| *total > 0)?;
        let share = 100 * site["done"].as_u64()? / total;
        Some(format!("{} {} {share} %", word(&site["site"]), word(&site["stage"])))
    });
    let working = working.collect::<Vec<_>>().join(", ");
    format!("round {}/{} {}: {working}", status["round"], status["rounds"], word(&status["phase"]))
}

/// Notices that a study stands still: after [`QUIET`], then after twice as long, and so on.
pub(super) struct Stillness {
    last: Value,
    since: Instant,
    patience: Duration,
}

impl Stillness {
    /// Nothing was seen yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { last: Value::Null, since: now, patience: QUIET }
    }

    /// Whether it is time to say that nothing is new.
    pub(super) fn is_worth_a_line(&mut self, status: &Value, now: Instant) -> bool {
        if self.last != *status {
            *self = Self { last: status.clone(), ..Self::new(now) };
        }
        let is_due = now.duration_since(self.since) >= self.patience;
        if is_due {
            self.patience *= 2;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(refused_by: Option<&str>, wait: &str) -> Value {
        json!({"name": "demo", "state": "proposed", "round": 0, "rounds": 2, "sites": [
            {"site": "aarhus", "rung": "connected"},
            {"site": "coimbra", "rung": if refused_by.is_some() { "refused" } else { "ready" }, "refused_by": refused_by},
        ], "waits": [{"reason": wait, "sites": ["coimbra"], "since": 1_700_000_000_000_u64}]})
    }

    #[test]
    fn a_study_that_cannot_begin_names_hospital_rule_and_way_out() {
        let judged = Judgement::read(&status(Some("policy.min_cases"), "stop")).unwrap();
        let hopeless = judged.hopeless.unwrap();
        for part in ["coimbra", "policy.min_cases", "--sites", "--partition"] {
            assert!(hopeless.contains(part), "{hopeless}");
        }
        assert_eq!(judged.undecided, ["aarhus"]);
        let judged = Judgement::read(&status(Some("policy.min_cases"), "acceptances")).unwrap();
        assert!(judged.hopeless.is_none() && judged.refusals.len() == 1);
        assert!(Judgement::read(&status(None, "acceptances")).unwrap().refusals.is_empty());
    }

    #[test]
    fn whoever_withdraws_is_named_with_the_reason() {
        let mut status = status(None, "retry");
        assert_eq!(withdrawals(&status).unwrap(), None);
        status["sites"][0]["missing"] = json!({"dropout": "timeout"});
        status["sites"][1]["missing"] = json!({"dropout": "withdrew", "withdrawal": "too_few_usable"});
        let said = withdrawals(&status).unwrap().unwrap();
        assert!(said.starts_with("coimbra (too few usable) withdrew.") && said.contains("--sites"), "{said}");
        status["sites"][1]["missing"] = json!({"dropout": "declined", "decline": "model"});
        let said = withdrawals(&status).unwrap().unwrap();
        assert!(said.starts_with("coimbra (model) withdrew.") && said.contains("learning_rate"), "{said}");
    }

    #[test]
    fn waits_are_those_of_study_status() {
        let text = waits(&status(None, "acceptances")).unwrap();
        assert!(text.contains("it waits for sites to accept it: coimbra, since 2023"), "{text}");
    }

    #[test]
    fn what_stands_still_is_said_ever_less_often() {
        let began = Instant::now();
        let mut stillness = Stillness::new(began);
        let mut said = |second: u64, status: &Value| {
            stillness.is_worth_a_line(status, began + Duration::from_secs(second))
        };
        let still = status(None, "acceptances");
        let seconds: Vec<u64> = (0..100).filter(|second| said(*second, &still)).collect();
        assert_eq!(seconds, [10, 20, 40, 80]);
        let other = status(None, "stop");
        let seconds: Vec<u64> = (100..115).filter(|second| said(*second, &other)).collect();
        assert_eq!(seconds, [110]);
    }
}
