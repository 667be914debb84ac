//! The operator's side of the wire: from a consortium's folder to a coordinator that answers.
//!
//! What the coordinator says is believed where something proves it (a signature, a hash) and shown as text
//! otherwise, without control characters: it may have been broken into.

mod credential;

use std::fmt;
use std::future::Future;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use consilium_client::{DialError, Target, dial};
use consilium_identity::revocation::Revocations;
use consilium_identity::tls::ClientTls;
use consilium_identity::{Roster, Trust, roster};
use consilium_proto::v1::operator_client::OperatorClient;
use consilium_proto::v1::{BlobChunk, FetchBlobRequest, RosterRequest};
use consilium_proto::{CHUNK, MAX_MESSAGE};
use consilium_study::canonical::Canonical;
use consilium_study::hash::{Hash, Hasher};
use consilium_study::sign::{Signed, Verified};
use jiff::Timestamp;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::consortium::{Consortium, Operator};
use crate::output::{Output, bytes};

/// Longest answer that is read: the status of a study with ten thousand rounds.
const LONGEST_ANSWER: usize = 32 << 20;

/// A coordinator that answers, and the operator who asks.
pub struct Remote {
    /// The calls.
    pub client: OperatorClient<Channel>,
    consortium: Consortium,
    operator: Operator,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({}, {})", self.consortium.anchor().name, self.operator.principal())
    }
}

impl Remote {
    /// Dials the coordinator of a consortium as the folder's operator.
    pub async fn open(consortium: &Consortium) -> anyhow::Result<Self> {
        let operator = consortium.operator()?;
        let (signed, _) = consortium.roster()?;
        let trust = Trust::new(consortium.anchor().clone(), &signed, Revocations::new())?;
        let (chain, key) = credential::read(consortium, &operator)?;
        let tls = ClientTls::member(Arc::new(trust), &chain, &key)?;
        let channel = dial(&Target::direct(consortium.address()?), &tls).await?;
        if let Err(error) = credential::renew_if_due(channel.clone(), &operator, &chain).await {
            // It serves until its end, and the next command tries again.
            eprintln!("warning: {error:#}");
        }
        let client = OperatorClient::new(channel)
            .max_decoding_message_size(LONGEST_ANSWER)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Self { client, consortium: consortium.clone(), operator })
    }

    /// Who asks.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Brings the folder's roster up to date. It lags behind when another operator admitted a site.
    pub async fn roster(&mut self) -> anyhow::Result<(Signed<Roster>, Verified<Roster>)> {
        let (signed, known) = self.consortium.roster()?;
        let reply = self.client.roster(RosterRequest {}).await.map_err(refused)?.into_inner();
        if reply.roster.is_empty() {
            return Ok((signed, known));
        }
        let offered =
            Signed::from_canonical(&reply.roster).context("the coordinator's roster cannot be read")?;
        let next = roster::verify(self.consortium.anchor(), &offered).context("the coordinator's roster")?;
        if !is_newer(&known, &next)? {
            return Ok((signed, known));
        }
        self.consortium.keep_roster(&offered)?;
        Ok((offered, next))
    }

    /// Stores a file at the coordinator, under its hash.
    pub async fn upload(&mut self, file: Vec<u8>, meter: Meter) -> anyhow::Result<Hash> {
        let hash = Hash::of_bytes(&file);
        let length = file.len() as u64;
        let pieces = file.len().div_ceil(CHUNK).max(1);
        let chunks = (0..pieces).map(move |piece| {
            let first = piece == 0;
            let range = piece * CHUNK..((piece + 1) * CHUNK).min(file.len());
            meter.show(range.end as u64, length);
            BlobChunk {
                hash: if first { hash.as_bytes().to_vec() } else { Vec::new() },
                length: if first { length } else { 0 },
                bytes: file[range].to_vec(),
            }
        });
        let reply = self.client.put_blob(tokio_stream::iter(chunks)).await;
        meter.clear();
        let reply = reply.map_err(refused)?.into_inner();
        if reply.length != length {
            bail!("the coordinator stored {} of {length} bytes; run the command again", reply.length);
        }
        Ok(hash)
    }

    /// Fetches a file by its hash, of at most `limit` bytes. What was written to `out` counts only when this
    /// returns well.
    pub async fn download(
        &mut self,
        hash: Hash,
        limit: u64,
        out: &mut (impl Write + Send),
        meter: Meter,
    ) -> anyhow::Result<u64> {
        let received = self.receive(hash, limit, out, meter).await;
        meter.clear();
        let (length, got) = received?;
        if got != hash {
            bail!(
                "what the coordinator sent is not the file {}: its bytes have another hash. Nothing was kept",
                hash.short()
            );
        }
        Ok(length)
    }

    /// Length and hash of what came.
    async fn receive(
        &mut self,
        hash: Hash,
        limit: u64,
        out: &mut (impl Write + Send),
        meter: Meter,
    ) -> anyhow::Result<(u64, Hash)> {
        let request = FetchBlobRequest { hash: hash.as_bytes().to_vec(), offset: 0 };
        let mut chunks = self.client.fetch_blob(request).await.map_err(refused)?.into_inner();
        let mut hasher = Hasher::new();
        let mut received = 0;
        while let Some(chunk) = chunks.message().await.map_err(refused)? {
            received += chunk.bytes.len() as u64;
            if received > limit {
                bail!("the coordinator sends more than the {} that this file can have", bytes(limit));
            }
            hasher.update(&chunk.bytes);
            out.write_all(&chunk.bytes)?;
            meter.show(received, chunk.length);
        }
        Ok((received, hasher.finish()))
    }
}

/// Whether the roster that the coordinator has comes after the folder's. Both are the consortium's own words.
fn is_newer(known: &Roster, offered: &Roster) -> anyhow::Result<bool> {
    let (mine, theirs) = (known.version(), offered.version());
    if known.hash() == offered.hash() {
        return Ok(false);
    }
    if theirs < mine {
        bail!(
            "the coordinator has roster version {theirs}, this folder the later version {mine}: \
             the coordinator lost records. Restore its newest backup before anything is changed"
        );
    }
    if theirs == mine {
        bail!(
            "two different rosters of version {mine} were signed, one here and one at the coordinator: \
             two operators admitted sites at the same time, or the consortium's key is in other hands. \
             Compare with the other operators"
        );
    }
    if mine.checked_add(1) == Some(theirs) {
        known.follow(offered)?;
    }
    // Versions in between are not at hand, and need not be: each roster is signed with the consortium's key.
    Ok(true)
}

/// A call that failed, in words that say what to do.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct CallFailed {
    text: String,
    lost: bool,
}

/// Explains a refused or lost call.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
pub fn refused(status: Status) -> CallFailed {
    use std::error::Error as _;
    let said = plain(status.message());
    // What the coordinator says has no cause on this side; a broken connection has.
    let lost = status.source().is_some()
        && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
    let text = match status.code() {
        _ if lost => {
            "the connection to the coordinator broke off. Run the command again; the same act twice is \
                      harmless"
                .to_owned()
        }
        Code::PermissionDenied | Code::Unauthenticated => format!("the coordinator refuses this: {said}"),
        Code::Unimplemented => {
            "the coordinator does not know this call: it is older than this program".to_owned()
        }
        Code::Unavailable => format!("the coordinator cannot do this now: {said}"),
        code if said.is_empty() => format!("the coordinator gives no other reason than \"{code}\""),
        _ => said,
    };
    CallFailed { text, lost }
}

/// Whether an error may pass by itself: the coordinator is away, or the network is.
pub fn may_pass(error: &anyhow::Error) -> bool {
    if let Some(call) = error.downcast_ref::<CallFailed>() {
        return call.lost;
    }
    matches!(
        error.downcast_ref(),
        Some(
            DialError::Unreachable { .. }
                | DialError::TooSlow { .. }
                | DialError::Closed { .. }
                | DialError::Broken { .. }
        )
    )
}

/// Text from elsewhere, safe to show on a terminal.
pub fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// A hash from the wire.
pub fn hash(bytes: &[u8]) -> anyhow::Result<Hash> {
    let bytes = <[u8; 32]>::try_from(bytes).ok().context("the coordinator sent a hash that is none")?;
    Ok(Hash::from_bytes(bytes))
}

/// A moment from the wire, as people and programs read it; none for zero.
pub fn moment(milliseconds: u64) -> Option<String> {
    let milliseconds = i64::try_from(milliseconds).ok().filter(|&milliseconds| milliseconds > 0)?;
    Timestamp::from_millisecond(milliseconds).ok().map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Runs a command that talks to the coordinator.
pub fn run<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // A second thread answers the coordinator's pings while a person is asked something.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(command)
}

/// Shows on a terminal how far a transfer is.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    label: Option<&'static str>,
}

impl Meter {
    /// Shows nothing.
    pub const fn quiet() -> Self {
        Self { label: None }
    }

    /// Shows what a person at a terminal may see.
    pub fn new(output: Output, label: &'static str) -> Self {
        Self { label: output.is_live().then_some(label) }
    }

    fn show(self, done: u64, whole: u64) {
        let Some(label) = self.label else { return };
        eprint!("\r\x1b[K{label} {} of {}", bytes(done), bytes(whole));
    }

    fn clear(self) {
        if self.label.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
    use consilium_identity::{ConsortiumKey, TlsKey};
    use consilium_study::sign::SigningKey;

    fn key() -> Hash {
        TlsKey::generate().public_key().hash()
    }

    fn first() -> Roster {
        let signing_key = || SigningKey::generate().verifying_key();
        Roster::first(
            ConsortiumKey::generate("north".parse().unwrap()).anchor().name,
            CoordinatorEntry { signing_key: signing_key(), tls_key: key(), issuing_key: key() },
            PersonEntry { name: "ann".parse().unwrap(), signing_key: signing_key(), tls_key: key() },
        )
        .unwrap()
    }

    fn with(roster: &Roster, site: &str) -> Roster {
        let signing_key = SigningKey::generate().verifying_key();
        roster
            .with_site(SiteEntry { name: site.parse().unwrap(), signing_key, tls_key: key(), test: false })
            .unwrap()
    }

    #[test]
    fn only_a_later_roster_of_the_same_history_is_taken() {
        let one = first();
        let two = with(&one, "a");
        let three = with(&two, "b");
        assert!(!is_newer(&one, &one).unwrap());
        assert!(is_newer(&one, &two).unwrap() && is_newer(&one, &three).unwrap());
        assert!(is_newer(&two, &one).unwrap_err().to_string().contains("lost records"));
        assert!(is_newer(&two, &with(&one, "c")).unwrap_err().to_string().contains("two different rosters"));
        assert!(is_newer(&one, &with(&first(), "a")).is_err(), "another history");
    }

    #[test]
    fn refusals_say_what_to_do_and_carry_no_control_characters() {
        let text = |status| refused(status).to_string();
        assert_eq!(text(Status::not_found("there is no study x\x1b[2J")), "there is no study x[2J");
        assert_eq!(text(Status::permission_denied("revoked")), "the coordinator refuses this: revoked");
        assert!(text(Status::unimplemented("")).contains("older"));
        assert!(text(Status::new(Code::Aborted, "")).contains("no other reason"));
        let lost = Status::from_error(Box::new(std::io::Error::other("gone")));
        let lost = refused(lost);
        assert!(lost.to_string().contains("again"), "{lost}");
        assert!(may_pass(&lost.into()));
        assert!(!may_pass(&refused(Status::unavailable("stopping")).into()));
        assert!(!may_pass(&anyhow::anyhow!("anything else")));
    }

    #[test]
    fn moments_are_utc_and_zero_is_none() {
        assert_eq!(moment(0), None);
        assert_eq!(moment(1_700_000_000_123).as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(moment(u64::MAX), None);
    }
}
