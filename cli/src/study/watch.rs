//! `consilium study watch`: a study line by line, across broken connections and restarts of the coordinator.

use std::time::{Duration, Instant};

use consilium_proto::v1::WatchRequest;
use consilium_study::name::StudyName;
use serde_json::Value;

use super::status::{NOTHING_ADOPTED, fetch, fetch_from};
use super::view::{LineView, round_line, words};
use crate::consortium::Consortium;
use crate::output::Output;
use crate::remote::{Remote, may_pass, plain, refused};

/// How long a coordinator may be away before watching ends.
const PATIENCE: Duration = Duration::from_mins(10);
/// Wait before dialling again.
const PAUSE: Duration = Duration::from_secs(2);

/// Something that happened in a study.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// Counted from 0.
    pub number: u64,
    /// One JSON object, as the coordinator sent it.
    pub json: String,
    /// What it says.
    pub what: Happening,
    /// Training rounds of the study.
    pub rounds: u32,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// A round of one kind ended.
    Round(LineView),
    /// An attempt was given up; the round goes on with another.
    Abandoned {
        /// The attempt.
        attempt: u64,
        /// Why.
        cause: String,
    },
    /// The study took another state.
    State {
        /// Its word.
        state: String,
        /// The model that was released, in hexadecimal digits.
        released: Option<String>,
    },
    /// Writing the release takes longer than it should.
    ReleaseLate,
    /// A site noticed what no honest party does.
    Alarm(String),
    /// Something that this program does not know.
    Other,
}

/// How a study ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this model, in hexadecimal digits.
    Released(Option<String>),
    /// Without a release.
    Stopped,
}

impl Happening {
    /// Reads one event.
    pub fn read(json: &str) -> Self {
        let Ok(value) = serde_json::from_str::<Value>(json) else { return Self::Other };
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(plain).unwrap_or_default();
        match value.get("event").and_then(Value::as_str) {
            None => serde_json::from_value(value).map_or(Self::Other, Self::Round),
            Some("abandoned") => Self::Abandoned {
                attempt: value.get("attempt").and_then(Value::as_u64).unwrap_or_default(),
                cause: text("cause"),
            },
            Some("state") => Self::State {
                state: text("state"),
                released: value.get("released").and_then(Value::as_str).map(plain),
            },
            Some("release_late") => Self::ReleaseLate,
            Some("alarm") => Self::Alarm(text("site")),
            Some(_) => Self::Other,
        }
    }

    fn ending(&self) -> Option<Ending> {
        match self {
            Self::State { state, released } if state == "released" => {
                Some(Ending::Released(released.clone()))
            }
            Self::State { state, .. } if state == "stopped" => Some(Ending::Stopped),
            _ => None,
        }
    }
}

impl Watched {
    /// What a person reads.
    pub fn people(&self) -> String {
        match &self.what {
            Happening::Round(line) => round_line(line, self.rounds),
            Happening::Abandoned { attempt, cause } => {
                format!("attempt {attempt} given up: {}; the round is tried again", words(cause))
            }
            Happening::State { state, released: Some(model) } => format!("study {state}: model {model}"),
            Happening::State { state, released: None } => format!("study {state}"),
            Happening::ReleaseLate => {
                "writing the release takes longer than it should; look at the coordinator".into()
            }
            Happening::Alarm(site) => {
                format!("ALARM: {site} noticed what no honest party does; look at the ledger")
            }
            Happening::Other => plain(&self.json),
        }
    }
}

/// Tells everything that happened in a study and what happens, until it is over. A coordinator that goes away
/// is waited for, if it was there at first.
pub async fn watch(
    consortium: &Consortium,
    name: &StudyName,
    mut tell: impl FnMut(&Watched) -> anyhow::Result<()>,
) -> anyhow::Result<Ending> {
    let mut place = Place { seen: 0, heard: None };
    loop {
        match follow(consortium, name, &mut place, &mut tell).await {
            Ok(Some(ending)) => return Ok(ending),
            // The coordinator is stopping.
            Ok(None) => {}
            Err(error) => {
                let away = place.heard.map(|heard| heard.elapsed());
                if !may_pass(&error) || away.is_none_or(|away| away > PATIENCE) {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How far watching has come.
struct Place {
    /// Events that were told.
    seen: u64,
    /// When the coordinator was heard last.
    heard: Option<Instant>,
}

/// Follows a study over one connection. None when the coordinator ended that before the study was over.
async fn follow(
    consortium: &Consortium,
    name: &StudyName,
    place: &mut Place,
    tell: &mut impl FnMut(&Watched) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Ending>> {
    let mut remote = Remote::open(consortium).await?;
    let rounds = fetch_from(&mut remote, name).await?.study.rounds.count;
    place.heard = Some(Instant::now());
    let request = WatchRequest { study: name.to_string(), from: place.seen };
    let mut events = remote.client.watch(request).await.map_err(refused)?.into_inner();
    loop {
        let received = events.message().await;
        // Whatever came, the connection lived until now.
        place.heard = Some(Instant::now());
        let Some(event) = received.map_err(refused)? else { return Ok(None) };
        place.seen += 1;
        let what = Happening::read(&event.json);
        let ending = what.ending();
        tell(&Watched { number: event.number, json: event.json, what, rounds })?;
        if ending.is_some() {
            return Ok(ending);
        }
    }
}

pub(super) async fn run(consortium: &Consortium, name: &StudyName, output: Output) -> anyhow::Result<()> {
    let ending = watch(consortium, name, |event| {
        if output.json {
            // Read and written again, so that it is one object on one line whatever was sent.
            let value: Value = serde_json::from_str(&event.json).unwrap_or(Value::Null);
            output.show(&value, |_| String::new())?;
        } else {
            output.show(&(), |()| event.people())?;
        }
        Ok(())
    })
    .await?;
    if let Ending::Released(_) = ending {
        if fetch(consortium, name).await?.released_its_start() {
            output.tell(NOTHING_ADOPTED);
        }
        output.tell(format!("Fetch the model with: consilium model export {name} -o {name}.safetensors"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_reads_and_only_two_end_the_study() {
        let read =
            |json: &str| Watched { number: 0, json: json.into(), what: Happening::read(json), rounds: 2 };
        let cases = [
            (r#"{"event":"state","state":"running","released":null}"#, "study running", None),
            (r#"{"event":"state","state":"stopped"}"#, "study stopped", Some(Ending::Stopped)),
            (
                r#"{"event":"state","state":"released","released":"ab"}"#,
                "study released: model ab",
                Some(Ending::Released(Some("ab".into()))),
            ),
            (
                r#"{"event":"abandoned","attempt":7,"cause":"below_quorum"}"#,
                "attempt 7 given up: below quorum; the round is tried again",
                None,
            ),
            (r#"{"event":"later","x":1}"#, r#"{"event":"later","x":1}"#, None),
            ("no json\x1b[2J", "no json[2J", None),
        ];
        for (json, text, ending) in cases {
            let watched = read(json);
            assert_eq!((watched.people().as_str(), watched.what.ending()), (text, ending), "{json}");
        }
        let line = r#"{"round":1,"kind":"train","state":"trained","selected":3,"counted":3}"#;
        assert!(read(line).people().starts_with("round 1/2  train"), "{}", read(line).people());
        assert!(read(r#"{"event":"alarm","site":"a"}"#).people().contains("ALARM: a"));
    }
}
