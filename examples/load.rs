//! Posts signed webhooks, each a new one: for `scripts/bench` and `scripts/measure-spool`.
//!
//! `load ADDRESS CLIENTS SECONDS SECRET [RATE] [KIND]` prints, as JSON, how many answers of each
//! status came and how long they took, in milliseconds. Without a rate each client posts as soon
//! as it is answered. With one, in webhooks a second, each is due at its time and timed from it,
//! whenever a client is free to post it: so what waits for a slow answer counts as slow too.
//!
//! KIND is `new` (the default), `same` for one webhook again and again, `false` for a wrong
//! checksum, or `slow`: each client sends a byte of a head in a second, and begins again when it is
//! cut off, which counts as status 0.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::{
    cell::Cell,
    collections::BTreeMap,
    env,
    error::Error,
    io::{self, ErrorKind},
    iter, process,
    time::{Duration, Instant},
};

use clickpesa_relay::{http::WEBHOOKS, webhook::checksum::Key};
use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, sleep_until, timeout},
};

type Failure = Box<dyn Error>;

/// Between two bytes of a slow client.
const SLOW_EVERY: Duration = Duration::from_secs(1);

/// Within which the slow clients begin.
const SLOW_SPREAD: Duration = Duration::from_secs(5);

/// Status and time of each answer.
type Answers = Vec<(u16, Duration)>;

/// What is posted.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    New,
    Same,
    False,
    Slow,
}

struct Load<'a> {
    address: &'a str,
    key: Key,
    kind: Kind,
    started: Instant,
    ends: Instant,
    /// Between two webhooks, if there is a rate.
    interval: Option<Duration>,
    count: Cell<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, clients, seconds, secret, more @ ..] = &arguments[..] else {
        return Err(
            "usage: load ADDRESS CLIENTS SECONDS SECRET [RATE] [new|same|false|slow]".into()
        );
    };
    let rate: f64 = more.first().map_or(Ok(0.0), |rate| rate.parse())?;
    let kind = match more.get(1).map_or("new", String::as_str) {
        "new" => Kind::New,
        "same" => Kind::Same,
        "false" => Kind::False,
        "slow" => Kind::Slow,
        other => return Err(format!("no kind of webhook: {other}").into()),
    };
    let started = Instant::now();
    let load = Load {
        address,
        key: Key::new("main", secret),
        kind,
        started,
        ends: started + Duration::from_secs_f64(seconds.parse()?),
        interval: (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate)),
        count: Cell::new(0),
    };
    let clients: usize = clients.parse()?;
    let answers = match kind {
        Kind::Slow => {
            // Begun one after the other, so that the load is the same at any time.
            let after = |client: usize| SLOW_SPREAD.mul_f64(client as f64 / clients as f64);
            join_all((0..clients).map(|client| load.slow_client(after(client)))).await
        }
        Kind::New | Kind::Same | Kind::False => {
            try_join_all((0..clients).map(|_| load.client())).await?
        }
    };
    let answers = answers.concat();
    let elapsed = started.elapsed().as_secs_f64();

    let mut of_status = BTreeMap::<String, Vec<f64>>::new();
    for (status, took) in answers {
        of_status.entry(status.to_string()).or_default().push(took.as_secs_f64() * 1e3);
    }
    let statuses: BTreeMap<_, _> = of_status.iter().map(|(s, times)| (s, times.len())).collect();
    let per_second = statuses.values().sum::<usize>() as f64 / elapsed;
    let mut all = figures(of_status.values().flatten().copied().collect());
    all["statuses"] = json!(statuses);
    all["per_second"] = json!(per_second);
    all["of_status"] = of_status.into_iter().map(|(s, times)| (s, figures(times))).collect();
    println!("{all}");
    Ok(())
}

fn figures(mut times: Vec<f64>) -> Value {
    times.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize);
    json!({
        "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "p999_ms": at(0.999),
        "max_ms": times.last(),
    })
}

impl Load<'_> {
    /// Posts over one connection until it is time to end.
    async fn client(&self) -> Result<Answers, Failure> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut answers, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
        while let Some((number, due)) = self.next() {
            let request = self.request(number);
            if let Some(due) = due {
                sleep_until(due.into()).await;
            }
            // Without a rate, it is due as soon as it is made.
            let due = due.unwrap_or_else(Instant::now);
            stream.write_all(&request).await?;
            let (status, ends) = read_answer(&mut stream, &mut buffer).await?;
            answers.push((status, due.elapsed()));
            if ends {
                stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
            }
        }
        Ok(answers)
    }

    /// Sends a byte of a head in a second, over a connection after another.
    async fn slow_client(&self, after: Duration) -> Answers {
        sleep(after).await;
        let mut cut_off = Answers::new();
        while Instant::now() < self.ends {
            let begun = Instant::now();
            if self.drip().await.is_err() {
                // No answer, no port left, or no file.
                sleep(SLOW_EVERY).await;
            }
            cut_off.push((0, begun.elapsed()));
        }
        cut_off
    }

    async fn drip(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let head = format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: ").into_bytes();
        for byte in head.iter().chain(iter::repeat(&b'a')) {
            stream.write_all(&[*byte]).await?;
            let ended = timeout(SLOW_EVERY, stream.read(&mut [0; 512])).await;
            if ended.is_ok() || Instant::now() >= self.ends {
                break;
            }
        }
        Ok(())
    }

    /// The number of the next webhook and, where there is a rate, when it is due.
    fn next(&self) -> Option<(u32, Option<Instant>)> {
        let number = self.count.replace(self.count.get() + 1);
        let due = self.interval.map(|interval| self.started + interval * number);
        (due.unwrap_or_else(Instant::now) < self.ends).then_some((number, due))
    }

    /// A webhook as ClickPesa sends them, of a new payment.
    fn request(&self, number: u32) -> Vec<u8> {
        let number = if self.kind == Kind::Same { 0 } else { number };
        let reference = format!("{}-{number}", process::id());
        // In the order in which members are signed, so that what is signed can be sent.
        let signed = format!(
            r#"{{"data":{{"channel":"AIRTEL-MONEY","collectedAmount":"1500.50","collectedCurrency":"TZS","createdAt":"2026-01-05T09:29:00.123Z","customer":{{"customerEmail":"zuhura@example.com","customerName":"Zuhura Mwakyusa","customerPhoneNumber":"255712000001"}},"id":"SHULE{reference}LCP","message":"success","orderReference":"SHULE{reference}","paymentReference":"MP260521.1357.{reference}","status":"SUCCESS","updatedAt":"2026-01-05T09:30:00.456Z"}},"event":"PAYMENT RECEIVED"}}"#
        );
        let checksum = match self.kind {
            Kind::New | Kind::Same | Kind::Slow => self.key.sign(signed.as_bytes()),
            Kind::False => "0".repeat(64),
        };
        let members = signed.strip_prefix('{').unwrap_or_default();
        let length = members.len() + r#"{"checksum":"","#.len() + checksum.len();
        format!(
            "POST {WEBHOOKS} HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{{\"checksum\":\"{checksum}\",{members}"
        )
        .into_bytes()
    }
}

/// Reads an answer; gives its status, and whether the connection ends with it.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<(u16, bool)> {
    let no_answer = || io::Error::from(ErrorKind::InvalidData);
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..]).await?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        have += read;
        let text = String::from_utf8_lossy(&buffer[..have]);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(Ok(0), str::parse).map_err(|_no_number| no_answer())? {
            return Ok((status.ok_or_else(no_answer)?, head.contains("connection: close")));
        }
    }
}
