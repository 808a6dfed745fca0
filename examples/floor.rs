//! The least that a bridge from HTTP to Kafka can do: the floor that `scripts/bench` measures by.
//!
//! `floor BOOTSTRAP_SERVERS ADDRESS TOPIC WORKERS [record]` hands the body of each POST to Kafka as
//! it is, and answers once all in-sync replicas have it. Nothing is read, proven, named, counted or
//! logged. With `record` it hands over, for any body, a record like those of the relay, with a key,
//! headers and a value of their size: what is left then is what the relay computes.

use std::{
    env,
    error::Error,
    sync::atomic::{AtomicUsize, Ordering},
};

use actix_web::{App, HttpResponse, HttpServer, rt::System, web};
use clickpesa_relay::{
    event::normalise::{Circumstances, normalise},
    record::{EventFormat, Record},
    webhook::{Unverified, checksum::Policy},
};
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    message::{Header, OwnedHeaders},
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

struct Floor {
    producer: ThreadedProducer<Reports>,
    topic: String,
    like: Option<Record>,
    count: AtomicUsize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [bootstrap_servers, address, topic, workers, what @ ..] = &arguments[..] else {
        return Err("usage: floor BOOTSTRAP_SERVERS ADDRESS TOPIC WORKERS [record]".into());
    };
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("enable.idempotence", "true");
    config.set("acks", "all").set("linger.ms", "0");
    let producer = ThreadedProducer::from_config_and_context(&config, Reports)?;
    let like = if what == ["record"] { Some(record_of_the_relay()?) } else { None };
    let count = AtomicUsize::new(0);
    let floor = web::Data::new(Floor { producer, topic: topic.clone(), like, count });
    let app = move || App::new().app_data(floor.clone()).default_service(web::to(publish));
    let server = HttpServer::new(app).workers(workers.parse()?).disable_signals();
    System::new().block_on(async { server.bind(address)?.run().await })?;
    Ok(())
}

fn record_of_the_relay() -> Result<Record, Box<dyn Error>> {
    let body = include_bytes!("../tests/samples/payment_received_current.json");
    let webhook = Unverified::parse(body, 16)?.authenticate(&Policy::None, |_| None)?;
    let received = "2026-01-05T09:30:00.123Z";
    let circumstances =
        Circumstances { application: "default", source: "/clickpesa/default", received };
    let events = normalise(&webhook, circumstances);
    Ok(Record::new(&events[0], EventFormat::Structured, "", 0))
}

async fn publish(body: web::Bytes, floor: web::Data<Floor>) -> HttpResponse {
    let (report_to, report) = oneshot::channel();
    let record = BaseRecord::<str, [u8], _>::with_opaque_to(&floor.topic, Box::new(report_to));
    let key;
    let record = match &floor.like {
        None => record.payload(&body[..]),
        Some(like) => {
            key = floor.count.fetch_add(1, Ordering::Relaxed).to_string();
            let empty = OwnedHeaders::new_with_capacity(like.headers.len());
            let headers = like
                .headers
                .iter()
                .fold(empty, |all, (key, value)| all.insert(Header { key, value: Some(&**value) }));
            record.key(key.as_str()).headers(headers).payload(&like.value[..])
        }
    };
    match floor.producer.send(record) {
        Ok(()) if report.await == Ok(true) => HttpResponse::Ok().finish(),
        _ => HttpResponse::ServiceUnavailable().finish(),
    }
}
