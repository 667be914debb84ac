//! Logs always, traces and metrics where somebody asked for them.
//!
//! `CONSILIUM_LOG` filters the log (`info` by default), `CONSILIUM_LOG_FORMAT=json` writes one object a line.
//! Traces and metrics go to the OTLP endpoint of the configuration; without one no connection is tried. One
//! trace per round: its context travels with each directive, so the spans of relays and vaults join it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::metrics::{Counter, Meter, MeterProvider as _};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use consilium_study::hash::Hash;

/// Longest wait for the collector when the coordinator stops.
const FLUSH: Duration = Duration::from_secs(2);

/// Starts logging to standard error. A second start is ignored: a larger program may have started it.
pub fn start_logging() {
    let filter = EnvFilter::try_from_env("CONSILIUM_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,opentelemetry=warn,opentelemetry_sdk=warn"));
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let layer = if std::env::var("CONSILIUM_LOG_FORMAT").is_ok_and(|format| format == "json") {
        layer.json().with_filter(filter).boxed()
    } else {
        layer.with_target(false).with_filter(filter).boxed()
    };
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// Where traces and metrics go: to a collector, or nowhere.
pub struct Telemetry {
    collector: Option<Collector>,
    /// What is counted. Without a collector the counters count for nobody.
    pub counters: Counters,
}

struct Collector {
    ids: Arc<RoundIds>,
    traces: SdkTracerProvider,
    tracer: SdkTracer,
    metrics: SdkMeterProvider,
}

/// Counters of a coordinator. Labels come from closed lists, and every counter is born at zero for each.
pub struct Counters {
    /// `fl.rounds`, by outcome.
    rounds: Counter<u64>,
    /// `fl.messages.refused`.
    refused: Counter<u64>,
    /// `fl.upload.bytes`.
    upload_bytes: Counter<u64>,
}

impl Counters {
    /// Outcomes that rounds are counted by.
    pub const OUTCOMES: [&'static str; 4] = ["adopted", "refused", "unevaluated", "abandoned"];

    fn new(meter: &Meter) -> Self {
        let counters = Self {
            rounds: meter.u64_counter("fl.rounds").with_unit("{round}").build(),
            refused: meter.u64_counter("fl.messages.refused").with_unit("{message}").build(),
            upload_bytes: meter.u64_counter("fl.upload.bytes").with_unit("By").build(),
        };
        for outcome in Self::OUTCOMES {
            counters.rounds.add(0, &[KeyValue::new("outcome", outcome)]);
        }
        counters.refused.add(0, &[]);
        counters.upload_bytes.add(0, &[]);
        counters
    }

    /// A round has ended. Outcomes outside of [`Counters::OUTCOMES`] are not counted.
    pub fn round(&self, outcome: &str) {
        if let Some(outcome) = Self::OUTCOMES.into_iter().find(|known| *known == outcome) {
            self.rounds.add(1, &[KeyValue::new("outcome", outcome)]);
        }
    }

    /// A site's message was refused.
    pub fn message_refused(&self) {
        self.refused.add(1, &[]);
    }

    /// Bytes of a masked vector have arrived.
    pub fn uploaded(&self, bytes: u64) {
        self.upload_bytes.add(bytes, &[]);
    }
}

impl Telemetry {
    /// Sends traces and metrics to `endpoint`, if there is one. To be called inside the runtime.
    pub fn start(endpoint: Option<&str>) -> Result<Self, ExporterBuildError> {
        let Some(endpoint) = endpoint else {
            let unread = SdkMeterProvider::builder().build();
            return Ok(Self { collector: None, counters: Counters::new(&unread.meter("consilium")) });
        };
        let resource = Resource::builder_empty()
            .with_attributes([KeyValue::new("service.name", "consilium-coordinator")])
            .build();
        let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let ids = Arc::new(RoundIds::default());
        let traces = SdkTracerProvider::builder()
            .with_id_generator(GivenIds(Arc::clone(&ids)))
            .with_batch_exporter(spans)
            .with_resource(resource.clone())
            .build();
        let points = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let metrics =
            SdkMeterProvider::builder().with_periodic_exporter(points).with_resource(resource).build();
        let counters = Counters::new(&metrics.meter("consilium"));
        let tracer = traces.tracer("consilium");
        Ok(Self { collector: Some(Collector { ids, traces, tracer, metrics }), counters })
    }

    /// The trace context that travels with the directives of a round; empty where nobody collects traces.
    pub fn traceparent(&self, study: &Hash, round: u64) -> String {
        match &self.collector {
            None => String::new(),
            Some(_) => {
                let (trace, span) = round_ids(study, round);
                format!("00-{trace}-{span}-01")
            }
        }
    }

    /// A finished phase of a round.
    pub fn phase(&self, study: &Hash, round: u64, name: &'static str, times: (SystemTime, SystemTime)) {
        let Some(collector) = &self.collector else { return };
        let (trace, span) = round_ids(study, round);
        let parent = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE);
        let context = Context::new().with_remote_span_context(parent);
        let _turn = collector.ids.next(None);
        collector
            .tracer
            .build_with_context(span_of(name, round, times.0), &context)
            .end_with_timestamp(times.1);
    }

    /// A finished round: the root of its trace.
    pub fn round(&self, study: &Hash, round: u64, times: (SystemTime, SystemTime)) {
        let Some(collector) = &self.collector else { return };
        let _turn = collector.ids.next(Some(round_ids(study, round)));
        collector
            .tracer
            .build_with_context(span_of("round", round, times.0), &Context::new())
            .end_with_timestamp(times.1);
    }

    /// Sends what is left. Blocks for a moment.
    pub fn finish(&self) {
        let Some(collector) = &self.collector else { return };
        let ends =
            [collector.traces.shutdown_with_timeout(FLUSH), collector.metrics.shutdown_with_timeout(FLUSH)];
        for error in ends.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "some telemetry did not reach the collector");
        }
    }
}

fn span_of(name: &'static str, round: u64, began: SystemTime) -> SpanBuilder {
    SpanBuilder::from_name(name)
        .with_kind(SpanKind::Internal)
        .with_start_time(began)
        .with_attributes([KeyValue::new("fl.round", i64::try_from(round).unwrap_or(i64::MAX))])
}

/// The ids of the span that is made next, where they are not left to chance. One span is made at a time.
#[derive(Debug, Default)]
struct RoundIds {
    turn: Mutex<()>,
    given: Mutex<Option<(TraceId, SpanId)>>,
}

impl RoundIds {
    /// Whoever holds what this returns makes the next span.
    fn next(&self, ids: Option<(TraceId, SpanId)>) -> MutexGuard<'_, ()> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = ids;
        turn
    }

    fn given(&self) -> Option<(TraceId, SpanId)> {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the root span of a round the ids that its children were told, and all others random ones.
#[derive(Debug)]
struct GivenIds(Arc<RoundIds>);

impl IdGenerator for GivenIds {
    fn new_trace_id(&self) -> TraceId {
        self.0.given().map_or_else(|| RandomIdGenerator::default().new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        self.0.given().map_or_else(|| RandomIdGenerator::default().new_span_id(), |(_, span)| span)
    }
}

/// Trace and root span of a round follow from study and round, so that a coordinator that was killed goes on
/// with the same trace.
fn round_ids(study: &Hash, round: u64) -> (TraceId, SpanId) {
    let mut input = study.as_bytes().to_vec();
    input.extend_from_slice(&round.to_be_bytes());
    let hash = Hash::labelled("trace", &input);
    let (trace, rest) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
    let span = rest.first_chunk::<8>().expect("16 bytes are left");
    (TraceId::from_bytes(*trace), SpanId::from_bytes(*span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_endpoint_nothing_is_announced() {
        let telemetry = Telemetry::start(None).unwrap();
        assert_eq!(telemetry.traceparent(&Hash::of_bytes(b"s"), 1), "");
        telemetry.counters.round("adopted");
        telemetry.finish();
    }

    #[test]
    fn a_round_has_one_trace() {
        let study = Hash::of_bytes(b"s");
        assert_eq!(round_ids(&study, 3), round_ids(&study, 3));
        assert_ne!(round_ids(&study, 3), round_ids(&study, 4));
    }
}
