//! The least that a bridge from HTTP to Kafka can do: the floor that `scripts/bench` measures by.
//!
//! `floor BOOTSTRAP_SERVERS ADDRESS TOPIC WORKERS` hands the body of each POST to Kafka as it is,
//! and answers once all in-sync replicas have it. Nothing is read, proven, named, counted or
//! logged.

use std::{env, error::Error};

use actix_web::{App, HttpResponse, HttpServer, rt::System, web};
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;

struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<bool>>;

    fn delivery(&self, result: &DeliveryResult<'_>, report_to: Self::DeliveryOpaque) {
        report_to.send(result.is_ok()).ok();
    }
}

type Shared = web::Data<(ThreadedProducer<Reports>, String)>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [bootstrap_servers, address, topic, workers] = &arguments[..] else {
        return Err("usage: floor BOOTSTRAP_SERVERS ADDRESS TOPIC WORKERS".into());
    };
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("enable.idempotence", "true");
    config.set("acks", "all").set("linger.ms", "0");
    let producer = ThreadedProducer::from_config_and_context(&config, Reports)?;
    let shared = web::Data::new((producer, topic.clone()));
    let app = move || App::new().app_data(shared.clone()).default_service(web::to(publish));
    let server = HttpServer::new(app).workers(workers.parse()?).disable_signals();
    System::new().block_on(async { server.bind(address)?.run().await })?;
    Ok(())
}

async fn publish(body: web::Bytes, shared: Shared) -> HttpResponse {
    let (producer, topic) = shared.get_ref();
    let (report_to, report) = oneshot::channel();
    let record = BaseRecord::<(), _, _>::with_opaque_to(topic, Box::new(report_to));
    match producer.send(record.payload(&body[..])) {
        Ok(()) if report.await == Ok(true) => HttpResponse::Ok().finish(),
        _ => HttpResponse::ServiceUnavailable().finish(),
    }
}
