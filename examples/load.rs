//! Posts signed webhooks as fast as they are answered: for `scripts/measure-spool`.
//!
//! `load ADDRESS CLIENTS SECONDS SECRET` prints, as JSON, how many answers of each status came and
//! how long they took. Every webhook is new, each client has one connection, and every key has
//! one webhook.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process, thread,
    time::{Duration, Instant},
};

use clickpesa_relay::{
    http::WEBHOOKS,
    webhook::{
        checksum::{Key, Placement},
        signing::sign,
    },
};
use serde_json::json;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, clients, seconds, secret] = &arguments[..] else {
        return Err("usage: load ADDRESS CLIENTS SECONDS SECRET".into());
    };
    let (clients, lasts): (usize, _) =
        (clients.parse()?, Duration::from_secs_f64(seconds.parse()?));
    let started = Instant::now();
    let answers = thread::scope(|scope| {
        let post = |client| move || post_until(started + lasts, client, address, secret);
        let clients: Vec<_> = (0..clients).map(|client| scope.spawn(post(client))).collect();
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    });
    let answers: Result<Vec<Vec<(u16, Duration)>>, Failure> = answers;
    let answers = answers?.concat();
    let elapsed = started.elapsed().as_secs_f64();

    let mut statuses = BTreeMap::<u16, usize>::new();
    answers.iter().for_each(|(status, _)| *statuses.entry(*status).or_default() += 1);
    let mut times: Vec<_> = answers.iter().map(|(_, took)| took.as_secs_f64() * 1e3).collect();
    times.sort_unstable_by(f64::total_cmp);
    let percentile = |percent| times.get(times.len() * percent / 100);
    let per_second = times.len() as f64 / elapsed;
    let (p50, p99) = (percentile(50), percentile(99));
    println!(
        "{}",
        json!({"statuses": statuses, "per_second": per_second, "p50_ms": p50, "p99_ms": p99})
    );
    Ok(())
}

/// Posts over one connection; gives the status of every answer and how long it took.
fn post_until(
    end: Instant,
    client: usize,
    address: &str,
    secret: &str,
) -> Result<Vec<(u16, Duration)>, Failure> {
    let key = Key::new("main", secret);
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let mut answers = Vec::new();
    for number in 0.. {
        let request = request(&format!("{}-{client}-{number}", process::id()), &key)?;
        let started = Instant::now();
        if started >= end {
            break;
        }
        stream.write_all(&request)?;
        let status = read_status(&mut replies)?;
        answers.push((status, started.elapsed()));
    }
    Ok(answers)
}

/// A webhook of about the size of ClickPesa's.
fn request(reference: &str, key: &Key) -> Result<Vec<u8>, Failure> {
    let notes = "n".repeat(300);
    let body = json!({"event": "PAYMENT RECEIVED", "data": {
        "id": reference, "status": "SUCCESS", "orderReference": reference, "message": notes,
        "collectedAmount": "1500.50", "collectedCurrency": "TZS",
        "updatedAt": "2026-01-05T09:30:00.000Z",
        "customer": {"customerName": "A", "customerPhoneNumber": "255700000000"},
    }});
    let body =
        sign(body.to_string().as_bytes(), key, Placement::Root).map_err(|e| format!("{e:?}"))?;
    let head = format!(
        "POST {WEBHOOKS} HTTP/1.1\r\nhost: relay\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Ok([head.as_bytes(), &body].concat())
}

fn read_status(replies: &mut impl BufRead) -> Result<u16, Failure> {
    let mut line = String::new();
    replies.read_line(&mut line)?;
    let status = line.split(' ').nth(1).ok_or("no answer")?.parse()?;
    let mut length = 0;
    while line.trim_end() != "" {
        line.clear();
        replies.read_line(&mut line)?;
        if let Some(given) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = given.trim().parse()?;
        }
    }
    replies.read_exact(&mut vec![0; length])?;
    Ok(status)
}
