//! Traces go to the collector that the configuration names, joined across processes, and nowhere else.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consilium_tests::{Lab, Programs, Study, wait_until};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use tonic::{Request, Response, Status};

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_secs(90);

/// Services and names of the spans of each trace.
type Traces = BTreeMap<Vec<u8>, BTreeSet<(String, String)>>;

/// A collector that keeps what it receives.
#[derive(Clone, Default)]
struct Collector {
    traces: Arc<Mutex<Traces>>,
    /// Counters, with the outcome that one may be of.
    counters: Arc<Mutex<BTreeMap<(String, String), i64>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut traces = self.traces.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|pair| pair.key == "service.name");
            let Some(Value::StringValue(service)) = service.and_then(|pair| pair.value?.value) else {
                continue;
            };
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                traces.entry(span.trace_id).or_default().insert((service.clone(), span.name));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut counters = self.counters.lock().unwrap();
        let scopes =
            request.into_inner().resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        for metric in scopes.flat_map(|scope| scope.metrics) {
            let Some(metric::Data::Sum(sum)) = metric.data else { continue };
            for point in sum.data_points {
                let outcome = point.attributes.into_iter().find(|pair| pair.key == "outcome");
                let outcome = match outcome.and_then(|pair| pair.value?.value) {
                    Some(Value::StringValue(outcome)) => outcome,
                    _ => String::new(),
                };
                let Some(number_data_point::Value::AsInt(value)) = point.value else { continue };
                counters.insert((metric.name.clone(), outcome), value);
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Starts a collector; it runs until the test ends.
fn collector() -> (String, Collector) {
    let collector = Collector::default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (traces, metrics) = (collector.clone(), collector.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(traces))
                .add_service(MetricsServiceServer::new(metrics))
                .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener))
                .await
        })
    });
    (endpoint, collector)
}

fn append(file: &Path, text: &str) {
    std::fs::File::options().append(true).open(file).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn one_trace_of_a_round_joins_coordinator_relay_and_vault() {
    let (endpoint, collector) = collector();
    let mut lab = Lab::new(PROGRAMS, 3).unwrap();
    lab.kill_coordinator().unwrap();
    let telemetry = format!("\n[telemetry]\notlp = \"{endpoint}\"\n");
    append(&lab.path().join("coordinator/coordinator.toml"), &telemetry);
    for site in lab.sites() {
        append(&lab.site_folder(site).join("site.toml"), &telemetry);
    }
    lab.start_coordinator(&[]).unwrap();
    lab.start_agents().unwrap();
    lab.launch(&Study { rounds: 2, ..Study::default() }).unwrap();
    lab.released("lungs", PATIENCE).unwrap();

    let joined = wait_until(Duration::from_secs(20), || {
        let traces = collector.traces.lock().unwrap();
        let whole = traces.values().filter(|spans| {
            let services: BTreeSet<&str> = spans.iter().map(|(service, _)| service.as_str()).collect();
            ["consilium-coordinator", "consilium-relay", "consilium-vault"]
                .iter()
                .all(|service| services.contains(service))
                && spans.contains(&("consilium-coordinator".to_owned(), "round".to_owned()))
        });
        whole.count() == 2
    });
    assert!(joined, "each round has one trace of all parts: {:?}", collector.traces.lock().unwrap());

    // What has not happened is counted too: a dashboard cannot tell a counter that is missing from a broken one.
    lab.coordinator.as_mut().unwrap().stop().unwrap();
    let counters = collector.counters.lock().unwrap();
    let count = |name: &str, outcome: &str| counters.get(&(name.to_owned(), outcome.to_owned())).copied();
    let rounds =
        ["adopted", "refused", "unevaluated", "abandoned"].map(|outcome| count("fl.rounds", outcome));
    assert_eq!(rounds, [Some(2), Some(0), Some(0), Some(0)], "{counters:?}");
    assert!(
        count("fl.messages.refused", "").is_some() && count("fl.upload.bytes", "") > Some(0),
        "{counters:?}"
    );
}

#[test]
fn without_an_endpoint_nobody_is_called() {
    // Where OpenTelemetry would go by itself, if it were asked to.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &endpoint),
    ];
    let mut lab = Lab::new(PROGRAMS, 3).unwrap();
    lab.kill_coordinator().unwrap();
    lab.start_coordinator(&variables).unwrap();
    for site in lab.sites().to_vec() {
        lab.start_agent(&site, &variables).unwrap();
    }
    lab.launch(&Study { rounds: 1, ..Study::default() }).unwrap();
    lab.released("lungs", PATIENCE).unwrap();
    lab.coordinator.as_mut().unwrap().stop().unwrap();
    assert!(listener.accept().is_err(), "somebody called the collector");
}
