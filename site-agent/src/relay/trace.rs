//! Spans of relay and vault, sent to the collector that `site.toml` names, and nowhere else.
//!
//! The vault has no network, so its finished spans come through the pipe: a name out of a closed list,
//! two times, an attempt. Nothing about patients fits into that. Without a configured endpoint no
//! connection is tried.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consilium_study::name::SiteName;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::pipe::message::Span;

/// Longest wait for the collector when the relay stops.
const FLUSH: Duration = Duration::from_millis(700);

/// Where spans go: to a collector, or nowhere.
#[derive(Clone)]
pub(super) struct Traces(Option<Collector>);

#[derive(Clone)]
struct Collector {
    relay: (SdkTracerProvider, SdkTracer),
    vault: (SdkTracerProvider, SdkTracer),
}

impl Traces {
    /// Sends spans to `endpoint`, if there is one. To be called inside the runtime.
    pub(super) fn start(endpoint: Option<&str>, site: &SiteName) -> Result<Self, ExporterBuildError> {
        let Some(endpoint) = endpoint else { return Ok(Self(None)) };
        let service = |name: &'static str| {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            let resource = Resource::builder_empty()
                .with_attributes([
                    KeyValue::new("service.name", name),
                    KeyValue::new("fl.site", site.to_string()),
                ])
                .build();
            let provider =
                SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
            let tracer = provider.tracer("consilium");
            Ok((provider, tracer))
        };
        Ok(Self(Some(Collector { relay: service("consilium-relay")?, vault: service("consilium-vault")? })))
    }

    /// A finished piece of the relay's own work, if it belongs to a round that is traced.
    pub(super) fn relay(&self, name: &'static str, parent: &str, start: SystemTime, end: SystemTime) {
        if let Some(Collector { relay: (_, tracer), .. }) = &self.0 {
            export(tracer, name, SpanKind::Client, parent, (start, end), Vec::new());
        }
    }

    /// A finished piece of the vault's work.
    pub(super) fn vault(&self, span: &Span) {
        if let Some(Collector { vault: (_, tracer), .. }) = &self.0 {
            let time = |nanos| UNIX_EPOCH + Duration::from_nanos(nanos);
            let attempt = KeyValue::new("fl.attempt", i64::from(span.attempt));
            let times = (time(span.start_ns), time(span.end_ns));
            export(tracer, span.work.name(), SpanKind::Internal, &span.parent, times, vec![attempt]);
        }
    }

    /// Sends what is left. Blocks for a moment.
    pub(super) fn finish(&self) {
        if let Some(Collector { relay, vault }) = &self.0 {
            for (provider, _) in [relay, vault] {
                if let Err(error) = provider.shutdown_with_timeout(FLUSH) {
                    tracing::warn!(%error, "some spans did not reach the collector");
                }
            }
        }
    }
}

fn export(
    tracer: &SdkTracer,
    name: &'static str,
    kind: SpanKind,
    parent: &str,
    (start, end): (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
) {
    let carrier = HashMap::from([("traceparent".to_owned(), parent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    if !context.span().span_context().is_valid() {
        return;
    }
    let builder =
        SpanBuilder::from_name(name).with_kind(kind).with_start_time(start).with_attributes(attributes);
    tracer.build_with_context(builder, &context).end_with_timestamp(end);
}
