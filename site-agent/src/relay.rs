//! The process with the network: it reaches the coordinator and never a data folder.
//!
//! It dials out, keeps the connection, and carries sealed and signed bytes between the coordinator
//! and the vault. It holds a TLS key and a certificate and no other state: whoever takes it over can hold
//! messages back, and nothing else. It never gives up; between tries it waits longer each time, with
//! jitter, so that a coordinator that restarts is not met by every hospital at once.

pub(crate) mod board;
pub(crate) mod credential;
pub(crate) mod session;

mod pipe;
mod renew;
mod trace;
mod transfer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use consilium_client::{DialError, Target, dial};
use consilium_identity::Trust;
use consilium_identity::address::Address;
use consilium_identity::revocation::Revocations;
use consilium_identity::tls::ClientTls;
use consilium_proto::v1::site_client::SiteClient;
use consilium_study::name::SiteName;
use consilium_study::quantity::HumanDuration;
use tonic::transport::Channel;

use self::board::Board;
use self::credential::Credential;
use self::pipe::VaultPipe;
use self::session::Ended;
use self::trace::Traces;
use crate::cli::PartError;
use crate::config::Config;
use crate::folder::SiteFolder;
use crate::pipe::message::{FromRelay, FromVault, Link};
use crate::program::die_with_parent;
use crate::store::Disk;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A connection that lived this long was a good one: the next try comes soon.
const SETTLED: Duration = Duration::from_secs(30);

/// Runs the relay until its pipe ends.
pub(crate) fn run(folder: &SiteFolder, parent: u32) -> Result<(), PartError> {
    die_with_parent(parent)?;
    let config = Config::load(folder)?;
    let folder = config.folder(folder);
    let dialler = Dialler::read(&config, &folder).map_err(PartError::NeedsAPerson)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let traces = Traces::start(config.telemetry.otlp.as_deref(), &dialler.site)
            .map_err(|error| PartError::NeedsAPerson(error.into()))?;
        let outcome = keep_connected(dialler, &folder, &traces).await;
        // Sending the last spans needs this runtime, so the wait for it must not block it.
        let _ = tokio::task::spawn_blocking(move || traces.finish()).await;
        outcome
    })
}

/// Whom to dial, and as whom.
pub(crate) struct Dialler {
    credential: Credential,
    trust: Arc<Trust>,
    target: Target,
    longest_pause: Duration,
    site: SiteName,
}

impl Dialler {
    /// Reads what enrolment and `site.toml` say.
    pub(crate) fn read(config: &Config, folder: &SiteFolder) -> anyhow::Result<Self> {
        let credential = Credential::read(&Disk, folder)?;
        let destination = &credential.destination;
        let target = config.coordinator.target(&destination.address)?;
        let longest_pause = config.coordinator.longest_pause.map_or(LONGEST_PAUSE, HumanDuration::get);
        let trust = Trust::new(destination.anchor.clone(), &destination.roster, Revocations::new())
            .context("the roster of enrolment does not verify any more")?;
        let leaf = credential.chain.leaf();
        let consilium_study::name::Principal::Site(site) = leaf.id.principal else {
            anyhow::bail!("the certificate is not one of a site");
        };
        Ok(Self { trust: Arc::new(trust), target, longest_pause, site, credential })
    }

    /// Where the coordinator is.
    pub(crate) fn address(&self) -> &Address {
        &self.target.address
    }

    /// The certificate, and what leads from it to the consortium.
    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// One try.
    pub(crate) async fn dial(&self) -> Result<Channel, DialError> {
        let Credential { chain, key, .. } = &self.credential;
        let tls = ClientTls::member(Arc::clone(&self.trust), chain, key)
            .expect("certificate and key were made together");
        dial(&self.target, &tls).await
    }
}

async fn keep_connected(mut dialler: Dialler, folder: &SiteFolder, traces: &Traces) -> Result<(), PartError> {
    let mut pipe = VaultPipe::open()?;
    let board = Board::new(folder.relay_status(), dialler.address().to_string());
    let mut pause = FIRST_PAUSE;
    if pipe.to.send(FromRelay::Link(Link::Down)).await.is_err() {
        return Ok(());
    }
    loop {
        board.certificate_expires(&dialler.credential.chain.leaf().not_after);
        let began = Instant::now();
        let cause = match while_away(dialler.dial(), &mut pipe, traces).await {
            None => return Ok(()),
            Some(Err(error)) => error.to_string(),
            Some(Ok(channel)) => {
                let limit = consilium_proto::MAX_MESSAGE;
                let client = SiteClient::new(channel)
                    .max_decoding_message_size(limit)
                    .max_encoding_message_size(limit);
                tracing::info!(coordinator = %dialler.address(), "connected");
                let ended = tokio::select! {
                    ended = session::serve(client.clone(), &mut pipe, &board, traces) => ended,
                    never = renew::keep(client, &mut dialler.credential.chain, folder, &board) => match never {},
                };
                match ended {
                    Ended::Stopped => return Ok(()),
                    Ended::Cut(status) => reason(&status),
                }
            }
        };
        if began.elapsed() > SETTLED {
            pause = FIRST_PAUSE;
        }
        board.disconnected(&cause);
        let wait = with_jitter(pause);
        tracing::warn!(cause, again_in_ms = wait.as_millis(), "not connected to the coordinator");
        if pipe.to.send(FromRelay::Link(Link::Down)).await.is_err() {
            return Ok(());
        }
        if while_away(tokio::time::sleep(wait), &mut pipe, traces).await.is_none() {
            return Ok(());
        }
        pause = (pause * 2).min(dialler.longest_pause);
    }
}

/// Waits for `work` while there is no connection. What the vault says meanwhile is said again to the
/// next connection, so only finished spans are kept. None when the vault's pipe has ended.
async fn while_away<T>(work: impl Future<Output = T>, pipe: &mut VaultPipe, traces: &Traces) -> Option<T> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            message = pipe.from.recv() => match message? {
                FromVault::Hello => pipe.to.send(FromRelay::Link(Link::Down)).await.ok()?,
                FromVault::Span(span) => traces.vault(&span),
                FromVault::Want { .. }
                | FromVault::Say { .. }
                | FromVault::UploadReady { .. }
                | FromVault::Chunk { .. }
                | FromVault::Acknowledge { .. } => {}
            },
        }
    }
}

/// Why a connection ended, for people. The coordinator's text is not repeated beyond its first line.
fn reason(status: &tonic::Status) -> String {
    let text = status.message().lines().next().unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{}: {text}", status.code().description())
}

/// Between half and one and a half times as long.
fn with_jitter(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is only no jitter.
    let _ = SystemRandom::new().fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_around_the_pause() {
        for _ in 0..100 {
            let wait = with_jitter(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&wait));
        }
    }

    #[test]
    fn a_reason_is_one_readable_line() {
        let status = tonic::Status::permission_denied("revoked\u{1b}[2J\nsecond line");
        let text = reason(&status);
        assert!(text.contains("revoked") && !text.contains("second") && !text.contains('\u{1b}'), "{text}");
    }
}
