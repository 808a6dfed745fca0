//! What one webhook costs, in allocations: fails when the hot path has grown by more than a tenth.
//!
//! Counted on the thread of the handler, from the request as actix hands it over to the response:
//! parse, checksum, event, record, metrics, books. A count that has fallen fails as well, so that
//! what was won is written down.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{sync::Arc, time::Duration};

use actix_web::{
    App,
    rt::System,
    test::{self, TestRequest},
    web::{self, Data},
};
use allocation_counter::AllocationInfo;
use clickpesa_relay::{
    application::{
        Application, Applications,
        networks::{ForwardedHeader, Networks},
    },
    delivery::{Delivery, recent::Recent},
    event::kind::Kind,
    http::{Limits, Relay, WEBHOOKS, receive::receive},
    kafka::{Properties, embedded::EmbeddedBroker, publisher::Publisher, topics::TopicNames},
    metrics::Metrics,
    record::EventFormat,
    webhook::{
        checksum::{Key, Placement, Policy},
        json::Json,
        signing::sign,
    },
};
use jiff::Timestamp;

/// Webhooks of which the mean is taken: now and then a map grows.
const COUNT: usize = 500;

/// Allocations of one webhook, as last measured.
const ALLOCATIONS: f64 = 60.0;

/// By how much they may differ.
const TOLERANCE: f64 = 0.1;

/// Bytes that a byte of a body may take when it is read, whoever sent it.
const BYTES_A_BYTE: usize = 64;

#[test]
fn a_body_of_many_objects_takes_no_more_than_its_share() {
    let body = format!("[{}]", [r#"{"":{}}"#; 10_000].join(","));
    let info = allocation_counter::measure(|| drop(Json::parse(body.as_bytes(), 16).unwrap()));
    let share = info.bytes_max as usize / body.len();
    assert!(share <= BYTES_A_BYTE, "{share} bytes of memory for each byte of the body");
}

#[test]
fn one_webhook_allocates_no_more_than_it_did() {
    let broker = EmbeddedBroker::start().unwrap();
    let topics = TopicNames::with_prefix("clickpesa.", false);
    for kind in Kind::ALL {
        broker.create_topic(topics.name(kind), 1).unwrap();
    }
    let key = Key::new("main", "a secret");
    let relay = Data::new(relay(&broker.bootstrap_servers(), topics, key.clone()));
    let published = Arc::clone(&relay.metrics);

    let allocated = System::new().block_on(async {
        let app = App::new().app_data(relay).default_service(web::to(receive));
        let app = test::init_service(app).await;
        let mut allocated = 0;
        // The first ones make what stays.
        for number in 0..2 * COUNT {
            let body = body(number, &key);
            let request = || TestRequest::post().uri(WEBHOOKS).set_payload(body);
            let request = request().to_request();
            let (response, info) = measured(test::call_service(&app, request)).await;
            assert_eq!(response.status(), 200);
            if number >= COUNT {
                allocated += info.count_total;
            }
        }
        allocated as f64 / COUNT as f64
    });
    let on_kafka = published.published_events.with_label_values(&["clickpesa.payout.reversed"]);
    assert_eq!(on_kafka.get() as usize, 2 * COUNT, "each is a webhook of its own");
    let ratio = allocated / ALLOCATIONS;
    assert!(
        (ratio - 1.0).abs() <= TOLERANCE,
        "{allocated:.1} allocations a webhook, {ALLOCATIONS} were measured before: find out what \
         allocates, or write the new figure down"
    );
}

/// Counts what each poll of a future allocates on this thread.
async fn measured<F: Future>(future: F) -> (F::Output, AllocationInfo) {
    let mut future = Box::pin(future);
    let mut sum = AllocationInfo::default();
    let output = std::future::poll_fn(|context| {
        let mut polled = None;
        sum += allocation_counter::measure(|| polled = Some(future.as_mut().poll(context)));
        polled.unwrap()
    });
    (output.await, sum)
}

fn body(number: usize, key: &Key) -> Vec<u8> {
    let payout = include_str!("samples/payout_reversed.json");
    let own = format!(r#"{{"number": {number},"#);
    sign(payout.replacen('{', &own, 1).as_bytes(), key, Placement::Root).unwrap()
}

fn relay(bootstrap_servers: &str, topics: TopicNames, key: Key) -> Relay {
    let metrics = Arc::new(Metrics::default());
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let properties = Properties([setting("bootstrap.servers", bootstrap_servers)].into());
    let names = Kind::ALL.map(|kind| topics.name(kind).to_owned());
    let publisher = Publisher::new(&properties, names, Arc::clone(&metrics), 20).unwrap();
    let delivery = Delivery {
        publisher: Arc::new(publisher),
        format: EventFormat::Structured,
        recent: Recent::new(10_000),
        spool: None,
        patience: Duration::from_secs(5),
        metrics: Arc::clone(&metrics),
    };
    let application = Application {
        name: "default".to_owned(),
        source: "/clickpesa/default".to_owned(),
        policy: Policy::Checksum {
            keys: vec![key],
            placement: None,
            headers: Vec::new(),
            legacy: false,
        },
        networks: Networks {
            allow_from: Vec::new(),
            trusted_proxies: Vec::new(),
            header: ForwardedHeader::XForwardedFor,
        },
        topics,
        in_flight_max: usize::MAX,
        in_flight: Arc::default(),
    };
    let limits = Limits {
        answer_within: Duration::from_secs(8),
        body_within: Duration::from_secs(5),
        body_max_bytes: 1 << 18,
        body_depth_max: 16,
        head_max_bytes: 1 << 14,
        events_max: 100,
        connections_max: 1,
        connections_per_address_max: 1,
        bodies_max_bytes: 1 << 20,
        in_flight_max: 1,
        rejections_per_second: 1,
    };
    Relay::new(Applications::new([application]), delivery, None, metrics, limits, Timestamp::now)
}
