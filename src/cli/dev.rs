//! `dev`: everything at once, to see it work: an embedded broker, the relay, sample webhooks,
//! their events.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use actix_web::rt::System;
use clap::Args;
use clickpesa_relay::{
    app::{HttpListener, Listeners},
    config::{Settings, Written},
    event::kind::Kind,
    http::WEBHOOKS,
    kafka::{
        Properties,
        embedded::EmbeddedBroker,
        reader::{From, ReadError, Reader, StoredRecord},
        topics::REJECTED,
    },
    webhook::{
        checksum::{Key, Placement},
        signing,
    },
};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{
    Failure, print,
    send::{SAMPLES, agent, post},
    serve::{bind_tcp, serve, start_log},
    show,
};

/// The checksum key of the relay that `dev` runs.
const KEY: &str = "dev-checksum-key";

/// Partitions of the embedded broker's topics.
const PARTITIONS: i32 = 3;

/// How long one look for an event takes.
const LOOK: Duration = Duration::from_millis(100);

/// How long the relay may take to be ready, and how often it is asked.
const READY_WITHIN: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(5);

/// How long the events of the samples may take to be seen.
const SAMPLES_WITHIN: Duration = Duration::from_secs(30);

/// Runs everything at once, to see it work.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// End once the events of the samples were seen
    #[arg(long)]
    once: bool,
    /// Print events as JSON, one object a line
    #[arg(long)]
    json: bool,
    /// A Kafka that is there, instead of the embedded broker
    #[arg(long, value_name = "HOST:PORT,…")]
    bootstrap_servers: Option<String>,
    /// Where webhooks are taken; port 0 is a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: String,
    /// Where the admin pages are; port 0 is a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    admin_listen: String,
}

impl Dev {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let embedded = match self.bootstrap_servers {
            Some(_) => None,
            None => Some(start_broker()?),
        };
        let broker = self
            .bootstrap_servers
            .or_else(|| embedded.as_ref().map(EmbeddedBroker::bootstrap_servers))
            .unwrap_or_default();
        let settings = settings(&broker, embedded.is_none())?;
        start_log(&settings.log)?;
        let (http, http_address) = bind_tcp("http.listen", &self.listen)?;
        let (admin, admin_address) = bind_tcp("admin.listen", &self.admin_listen)?;
        let demonstration = Demonstration {
            webhooks: format!("http://{http_address}{WEBHOOKS}"),
            admin: format!("http://{admin_address}"),
            broker,
            topics: Kind::ALL.map(|kind| settings.kafka.topics.names.name(kind).to_owned()).into(),
            properties: settings.kafka.properties.clone(),
            json: self.json,
            once: self.once,
        };
        demonstration.introduce(embedded.is_some());
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            // Where the relay has ended, nobody waits for this.
            end.send(demonstration.show()).ok();
        });
        let listeners = Listeners { http: HttpListener::Tcp(http), admin };
        let mut shown = Ok(());
        let until_shown = async {
            if let Ok(outcome) = ended.await {
                shown = outcome;
            }
        };
        System::new().block_on(serve(settings, listeners, None, until_shown))?;
        shown.map(|()| ExitCode::SUCCESS)
    }
}

fn start_broker() -> Result<EmbeddedBroker, Failure> {
    let failed = |error| Failure::failed("cannot start the embedded broker", error);
    let broker = EmbeddedBroker::start().map_err(failed)?;
    for suffix in Kind::ALL.map(Kind::suffix).into_iter().chain([REJECTED]) {
        broker.create_topic(&format!("clickpesa.{suffix}"), PARTITIONS).map_err(failed)?;
    }
    Ok(broker)
}

/// The defaults, and what `dev` says in their place.
fn settings(bootstrap_servers: &str, create_topics: bool) -> Result<Settings, Failure> {
    let instead = [
        ("LOG__LEVEL", "warn,librdkafka=error"),
        // Whoever tries it sends the same sample again, and wants to see it land.
        ("DELIVERY__RECENT_MAX", "0"),
        ("KAFKA__BOOTSTRAP_SERVERS", bootstrap_servers),
        ("KAFKA__TOPICS__CREATE", if create_topics { "true" } else { "false" }),
        ("APPLICATIONS__DEFAULT__CHECKSUM_KEYS__DEV", KEY),
    ];
    let environment: HashMap<_, _> =
        instead.map(|(name, value)| (format!("CLICKPESA_RELAY__{name}"), value.to_owned())).into();
    Ok(Written::read(None, Some(environment))?.understand()?)
}

/// What is shown beside the relay.
struct Demonstration {
    webhooks: String,
    admin: String,
    broker: String,
    topics: Vec<String>,
    properties: Properties,
    json: bool,
    once: bool,
}

impl Demonstration {
    /// Posts the samples and prints the events; ends after those where it is to run once.
    fn show(self) -> Result<(), Failure> {
        self.wait_until_ready()?;
        let failed = |error: ReadError| Failure::Failed(error.to_string());
        let mut reader = Reader::open(&self.properties, &self.topics, From::End).map_err(failed)?;
        let mut awaited = self.post_samples()?;
        let deadline = Instant::now() + SAMPLES_WITHIN;
        while !(awaited.is_empty() && self.once) {
            if !awaited.is_empty() && Instant::now() > deadline {
                return Err(Failure::Failed("the events of the samples did not arrive".to_owned()));
            }
            let Some(record) = reader.next(LOOK).map_err(failed)? else { continue };
            print(&if self.json { show::as_json(&record) } else { show::as_line(&record) })?;
            let StoredRecord { topic, partition, offset, .. } = record;
            let is_last = awaited.remove(&Place { topic, partition, offset }) && awaited.is_empty();
            if is_last && !self.once {
                self.say_what_next();
            }
        }
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<(), Failure> {
        let url = format!("{}/ready", self.admin);
        let deadline = Instant::now() + READY_WITHIN;
        let agent = agent();
        loop {
            let ready = agent.get(&url).call();
            if ready.as_ref().is_ok_and(|response| response.status() == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let act = format!("the relay is not ready for Kafka at {}", self.broker);
                let answer = ready.and_then(|mut response| response.body_mut().read_to_string());
                return Err(Failure::failed(
                    &act,
                    answer.unwrap_or_else(|error| error.to_string()),
                ));
            }
            thread::sleep(READY_POLL);
        }
    }

    /// Posts every sample, signed; gives where their events stand.
    fn post_samples(&self) -> Result<HashSet<Place>, Failure> {
        let key = Key::new("dev", KEY);
        let mut places = HashSet::new();
        for (name, body) in SAMPLES {
            let failed = |cause: &str| Failure::Failed(format!("cannot post {name}: {cause}"));
            let signed = signing::sign(body.as_bytes(), &key, Placement::Root)
                .map_err(|error| failed(&error.to_string()))?;
            let (status, answer) = post(&self.webhooks, None, &signed)?;
            let answer: Published = serde_json::from_str(&answer)
                .map_err(|_other_answer| failed(&format!("{status} {answer}")))?;
            places.extend(answer.events);
        }
        Ok(places)
    }

    fn introduce(&self, is_embedded: bool) {
        let broker = if is_embedded {
            "an embedded toy, in memory, gone at the end"
        } else {
            "yours: the samples stay there"
        };
        say(&format!(
            "clickpesa-relay, for trying it out\n\n  webhooks  {}\n  key       {KEY}\n  \
             admin     {}\n  Kafka     {} ({broker})\n",
            self.webhooks, self.admin, self.broker
        ));
    }

    fn say_what_next(&self) {
        let Self { webhooks, admin, broker, .. } = self;
        let relay = std::env::current_exe()
            .map_or_else(|_| "clickpesa-relay".to_owned(), |path| path.display().to_string());
        say(&format!(
            "\nIn another terminal:\n\n  \
             {relay} send --sample payment.received --key {KEY} --url {webhooks}\n  \
             {relay} send --sample payment.received --key {KEY} --url {webhooks} --tamper\n  \
             echo '{{\"event\":\"PAYMENT FAILED\",\"data\":{{\"id\":\"X1\",\"status\":\"FAILED\"}}}}' | \
             {relay} sign --key {KEY} --embed | curl --data-binary @- {webhooks}\n  \
             {relay} tail --from start --bootstrap-servers {broker}\n  \
             kcat -b {broker} -C -t clickpesa.payment.received -o beginning -e\n  \
             curl {admin}/metrics\n\n\
             Ctrl-C ends it. Events are printed here as they come."
        ));
    }
}

/// What the relay answers to a sample.
#[derive(Deserialize)]
struct Published {
    events: Vec<Place>,
}

/// Where an event stands.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Place {
    topic: String,
    partition: i32,
    offset: i64,
}

/// For people: beside the output.
fn say(text: &str) {
    anstream::eprintln!("{text}");
}
