//! `coordinator serve`: from a configuration to a running coordinator, and its orderly end.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use consilium_proto::v1::DESCRIPTORS;
use consilium_proto::v1::enrolment_server::EnrolmentServer;
use consilium_proto::v1::operator_server::OperatorServer;
use consilium_proto::v1::site_server::SiteServer;
use tokio::net::TcpListener;
use tonic_health::ServingStatus;

use crate::config::Config;
use crate::hub::Hub;
use crate::listener::{self, Limits};
use crate::service::Services;
use crate::telemetry;

/// Calls that are under way when the coordinator is told to stop get so long to end.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or Ctrl-C. Prints one line when it is ready.
pub async fn serve(config: &Path) -> anyhow::Result<()> {
    telemetry::start_logging();
    let config = Config::load(config)?;
    let tcp = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: is another coordinator running, or is the port reserved?",
            config.listen
        )
    })?;
    let address = tcp.local_addr()?;
    let (hub, certificate) = Hub::open(&config)?;
    let hub = Arc::new(hub);
    hub.resume()?;
    let doors = listener::listen(tcp, certificate.tls(), Limits::default());
    tokio::spawn(certificate.keep(Arc::clone(&hub)));
    let _ = hub.connections.set(doors.connections);
    let services = Services::new(Arc::clone(&hub));
    let limit = consilium_proto::MAX_MESSAGE;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .context("the descriptors of the services cannot be read")?;
    let stopped = || hub.stop.clone().cancelled_owned();
    let members = listener::http2()
        .add_service(SiteServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(OperatorServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(doors.members, stopped());
    let newcomers = listener::http2()
        .add_service(EnrolmentServer::new(services).max_decoding_message_size(limit))
        .serve_with_incoming_shutdown(doors.newcomers, stopped());
    let ready =
        serde_json::json!({"event": "ready", "address": address.to_string(), "pid": std::process::id()});
    // Whether anybody reads this line or not, sites are served.
    let _ = writeln!(std::io::stdout(), "{ready}");
    tracing::info!(%address, "coordinator ready");
    tokio::spawn(stop_on_signal(Arc::clone(&hub)));
    let serving = async { tokio::try_join!(members, newcomers) };
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = async { hub.stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(((), ())),
    };
    hub.parts.telemetry.finish();
    outcome?;
    tracing::info!("coordinator stopped");
    Ok(())
}

/// Everything is committed before it is said, so stopping needs no clean-up: it only lets calls end.
async fn stop_on_signal(hub: Arc<Hub>) {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let Ok(mut terminate) = terminate else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    hub.stop.cancel();
}
