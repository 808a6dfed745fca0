//! Limits of connections, heads, bodies, and requests under way: where they end, who is told, and
//! that the others go on.

use std::{
    io::Read,
    thread,
    time::{Duration, Instant},
};

use clickpesa_relay::{
    http::{
        WEBHOOKS,
        connections::{REJECTION_WAITS, REJECTIONS_MAX},
    },
    kafka::embedded::EmbeddedBroker,
};

use crate::harness::{
    Answer, App, Connection, KEY, PATIENCE, Process, Setup, ask, eventually, payment, request,
    signed,
};

fn post(reference: &str) -> Vec<u8> {
    request("POST", WEBHOOKS, &[], &signed(&payment(reference)))
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.json()["type"], format!("urn:clickpesa-relay:problem:{reason}"));
}

/// Sends the same again and again, until the other side has closed the connection.
#[track_caller]
fn send_until_refused(connection: &mut Connection, bytes: &[u8]) {
    let started = Instant::now();
    while connection.send(bytes) {
        assert!(started.elapsed() < PATIENCE, "it is still listened to");
    }
}

/// Waits until the other side has closed the connection, and gives what came before.
#[track_caller]
fn read_to_end(connection: &mut Connection) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    connection.0.read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

// --- Heads ----------------------------------------------------------------------------

#[test]
fn a_head_over_the_limit_is_431() {
    let app = Setup::new().set("http.head_max_bytes", "1000").spawn();
    let body = signed(&payment("REF-1"));
    let padded = |bytes: usize| {
        let padding = "x".repeat(bytes);
        app.ask("POST", WEBHOOKS, &[("padding", &padding)], &body)
    };
    assert_eq!(padded(800).status, 200);
    assert_problem(&padded(1000), 431, "head_too_large");
    let target = format!("{WEBHOOKS}?{}", "x".repeat(1000));
    assert_problem(&app.ask("POST", &target, &[], &body), 431, "head_too_large");
    let many: Vec<_> = (0..80).map(|number| (format!("header-{number:02}"), "xxxx")).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_problem(&app.ask("POST", WEBHOOKS, &many, &body), 431, "head_too_large");
    assert_eq!(app.samples().ended("rejected", "head_too_large"), 3.0);
}

#[test]
fn a_head_that_never_ends_is_ended() {
    let app = App::spawn();
    for endless in ["GET / HTTP/1.1\r\nendless: ", "GET /", "GET / HTTP/1.1\r\na: b\r\n"] {
        let mut connection = Connection::open(app.http);
        connection.send(endless.as_bytes());
        let more = if endless.ends_with('\n') { "c: d\r\n" } else { "xxxxxx" }.repeat(1000);
        send_until_refused(&mut connection, more.as_bytes());
        assert!(!read_to_end(&mut connection).contains("200"));
    }
    eventually("they are counted", || {
        (app.samples().sum("connections_unused_total", &[]) >= 3.0).then_some(())
    });
    assert_eq!(app.post_signed(&payment("REF-1")).status, 200);
}

#[test]
fn a_head_that_drips_is_ended_in_time() {
    let app = Setup::new().set("http.head_within", "1s").spawn();
    let mut connection = Connection::open(app.http);
    let started = Instant::now();
    let head = post("REF-1");
    for byte in &head {
        if !connection.send(&[*byte]) || connection.is_answered(Duration::from_millis(100)) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "it is still listened to");
    }
    let said = read_to_end(&mut connection);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{said}");
    // The server's clock turns twice a second.
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    eventually("it is counted", || {
        (app.samples().sum("connections_unused_total", &[]) == 1.0).then_some(())
    });
}

#[test]
fn a_connection_without_a_request_is_ended_in_time() {
    let app = Setup::new().set("http.head_within", "500ms").set("http.keep_alive", "700ms").spawn();
    let mut silent = Connection::open(app.http);
    let mut used = Connection::open(app.http);
    used.send(&post("REF-1"));
    assert_eq!(used.answer().status, 200);
    let started = Instant::now();
    read_to_end(&mut silent);
    read_to_end(&mut used);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    eventually("none is left", || (app.samples().sum("connections", &[]) == 0.0).then_some(()));
}

#[test]
fn connections_leave_files_for_kafka() {
    let process = Process::serve_with_files(&Setup::new(), 400);
    let lowered = process.await_line("the log warns", |line| {
        line["message"].as_str().is_some_and(|said| said.contains("`ulimit -n`"))
    });
    assert_eq!((&lowered["limit"], &lowered["connections_max"]), (&400.into(), &200.into()));
    let address = process.address("http.listen");
    let mut open: Vec<_> = (0..500).map(|_| Connection::open(address)).collect();
    eventually("those that are too many are refused", || {
        (process.samples().sum("connections_refused_total", &[]) >= 300.0).then_some(())
    });
    // The first one opens the connections to Kafka.
    open[0].send(&post("REF-1"));
    assert_eq!(open[0].answer().status, 200);
}

/// Fewer files than even that needs.
#[test]
fn running_out_of_files_is_survived() {
    let process = Process::serve_with_files(&Setup::new(), 60);
    let address = process.address("http.listen");
    process.await_line("the log says ready", |line| line["message"] == "ready");
    assert_eq!(ask(address, &post("REF-1")).status, 200);
    let mut open: Vec<_> = (0..60).map(|_| Connection::open(address)).collect();
    process.await_line("the log says why none is accepted", |line| {
        line["message"].as_str().is_some_and(|said| said.contains("Too many open files"))
    });
    // It waits, rather than to try again and again.
    let (before, started) = (process.cpu_time(), Instant::now());
    thread::sleep(Duration::from_secs(1));
    let busy = (process.cpu_time() - before).as_secs_f64() / started.elapsed().as_secs_f64();
    assert!(busy < 0.3, "{busy} of a core, for nothing");
    // Those that it has are served, and all others when there is room.
    open[0].send(&post("REF-2"));
    assert_eq!(open[0].answer().status, 200);
    drop(open);
    assert_eq!(ask(address, &post("REF-3")).status, 200);
}

// --- Bodies ---------------------------------------------------------------------------

#[test]
fn a_body_that_never_ends_is_ended() {
    let app = Setup::new().set("http.body_max_bytes", "100000").spawn();
    let mut connection = Connection::open(app.http);
    let head = format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n");
    connection.send(head.as_bytes());
    let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
    send_until_refused(&mut connection, chunk.as_bytes());
    let said = read_to_end(&mut connection);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 413 "), "{said}");
    assert_eq!(app.samples().ended("rejected", "body_too_large"), 1.0);
}

#[test]
fn large_bodies_under_way_leave_room_for_small_ones() {
    let app = Setup::new()
        .set("http.bodies_max_bytes", "1048576")
        .set("http.body_max_bytes", "1000000")
        .spawn();
    // Of two, all but the end: the second has no memory left.
    let large = |reference| {
        let body = [" ".repeat(700_000).into_bytes(), signed(&payment(reference))].concat();
        let mut whole = request("POST", WEBHOOKS, &[], &body);
        let end = whole.split_off(whole.len() - 10);
        (whole, end)
    };
    let ((first, end), (second, _)) = (large("REF-1"), large("REF-2"));
    let mut holding = Connection::open(app.http);
    holding.send(&first);
    app.await_in_flight(1);
    let mut refused = Connection::open(app.http);
    refused.send(&second);
    assert_problem(&refused.answer(), 503, "bodies_too_many");
    for number in 0..5 {
        assert_eq!(app.post_signed(&payment(&format!("REF-S{number}"))).status, 200);
    }
    holding.send(&end);
    assert_eq!(holding.answer().status, 200);
    // What one has held is there for the next.
    let (third, end) = large("REF-3");
    let mut connection = Connection::open(app.http);
    connection.send(&[third, end].concat());
    assert_eq!(connection.answer().status, 200);
    app.samples().assert_balanced();
}

#[test]
fn bodies_that_drip_take_no_room() {
    let app = Setup::new().set("http.in_flight_max", "4").spawn();
    let dripping: Vec<_> = (0..20)
        .map(|number| {
            let whole = post(&format!("REF-{number}"));
            let mut connection = Connection::open(app.http);
            connection.send(&whole[..whole.len() - 1]);
            connection
        })
        .collect();
    app.await_in_flight(20);
    assert_eq!(app.post_signed(&payment("REF-X")).status, 200);
    for (mut connection, number) in dripping.into_iter().zip(0..) {
        let whole = post(&format!("REF-{number}"));
        connection.send(&whole[whole.len() - 1..]);
        assert_eq!(connection.answer().status, 200);
    }
}

// --- Connections ----------------------------------------------------------------------

#[test]
fn a_connection_that_is_one_too_many_is_closed() {
    for (key, of) in [("connections_max", "all"), ("connections_per_address_max", "address")] {
        let app = Setup::new().set(&format!("http.{key}"), "3").spawn();
        // Each with a request, so that it is known that it was counted.
        let mut open: Vec<_> = (0..3)
            .map(|number| {
                let mut connection = Connection::open(app.http);
                connection.send(&post(&format!("REF-{number}")));
                assert_eq!(connection.answer().status, 200);
                connection
            })
            .collect();
        let mut excess = Connection::open(app.http);
        excess.send(&post("REF-X"));
        assert_eq!(read_to_end(&mut excess), "", "{key}");
        let samples = app.samples();
        let label = format!("of=\"{of}\"");
        assert_eq!(samples.sum("connections_refused_total", &[&label]), 1.0, "{key}");
        assert_eq!(samples.sum("connections_unused_total", &[]), 0.0, "it may have wanted to");
        // Those that were there go on, and one that ends makes way.
        for connection in &mut open {
            connection.send(&post("REF-Y"));
            assert_eq!(connection.answer().status, 200);
        }
        drop(open.pop());
        let answer = eventually("there is a place", || {
            let mut connection = Connection::open(app.http);
            connection.send(&post("REF-Z"));
            connection.try_answer(true)
        });
        assert_eq!(answer.status, 200, "{key}");
        app.samples().assert_balanced();
    }
}

// --- Requests under way ---------------------------------------------------------------

#[test]
fn a_flood_of_one_application_leaves_the_others_their_share() {
    let broker = EmbeddedBroker::start().unwrap();
    let mut setup = Setup::on(&broker).set("http.in_flight_max", "4");
    for name in ["shop", "till"] {
        setup = setup.set(&format!("applications.{name}.checksum_keys.main"), KEY);
    }
    let setup = setup.set("applications.till.in_flight_max", "1");
    let app = setup.spawn();
    broker.mock().broker_round_trip_time(-1, Duration::from_millis(700)).unwrap();
    let send = |application: &str, number: usize| {
        let path = format!("{WEBHOOKS}{application}");
        let body = signed(&payment(&format!("REF{application}-{number}")));
        let mut connection = Connection::open(app.http);
        connection.send(&request("POST", &path, &[], &body));
        connection
    };
    // Alone, it may take all there is.
    let mut under_way: Vec<_> = (0..4).map(|number| send("", number)).collect();
    app.await_in_flight(4);
    assert_problem(&send("", 4).answer(), 503, "busy");
    // Three share four places: two each, rounded up, whatever the others take.
    under_way.extend([send("/shop", 0), send("/shop", 1)]);
    app.await_in_flight(6);
    assert_problem(&send("/shop", 2).answer(), 503, "busy");
    // One has a limit of its own.
    under_way.push(send("/till", 0));
    app.await_in_flight(7);
    assert_problem(&send("/till", 1).answer(), 503, "busy");
    for connection in &mut under_way {
        let answer = connection.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    broker.mock().broker_round_trip_time(-1, Duration::ZERO).unwrap();
    assert_eq!(send("/till", 2).answer().status, 200, "the place is free again");
    let samples = app.samples();
    assert_eq!(samples.ended("failed", "busy"), 3.0);
    samples.assert_balanced();
}

#[test]
fn rejections_above_their_rate_wait_for_their_turn() {
    let app = Setup::new().set("http.rejections_per_second", "20").spawn();
    let started = Instant::now();
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let http = app.http;
            thread::spawn(move || {
                let mut connection = Connection::open(http);
                for body in [&b"{}"[..], b"no JSON"].repeat(3) {
                    connection.send(&request("POST", WEBHOOKS, &[], body));
                    let status = connection.answer().status;
                    assert!([400, 401].contains(&status), "{status}");
                }
            })
        })
        .collect();
    eventually("some are held back", || {
        (app.samples().sum("rejections_held_total", &[]) >= 3.0).then_some(())
    });
    // Others do not wait with them.
    let others = Instant::now();
    assert_eq!(app.post_signed(&payment("REF-1")).status, 200);
    assert!(others.elapsed() < Duration::from_millis(800), "{:?}", others.elapsed());
    flood.into_iter().for_each(|client| client.join().unwrap());
    // 24 of them, two of which may come at once.
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    let samples = app.samples();
    assert_eq!(samples.sum("outcomes_total", &["outcome=\"rejected\""]), 24.0);
    samples.assert_balanced();
}

// --- Applications ---------------------------------------------------------------------

#[test]
fn an_application_can_have_topics_of_its_own() {
    let setup = Setup::new();
    let own = setup.topic("shop.");
    let app = setup
        .set("applications.shop.checksum_keys.main", KEY)
        .set("applications.shop.topics_prefix", &own)
        .spawn();
    for (application, topic) in [("", "payment.received"), ("/shop", "shop.payment.received")] {
        let path = format!("{WEBHOOKS}{application}");
        let answer = app.ask("POST", &path, &[], &signed(&payment("REF-1")));
        assert_eq!(answer.events()[0]["topic"], app.topic(topic));
        assert_eq!(app.records(topic).len(), 1);
    }
}

#[test]
fn five_hundred_applications_cost_next_to_nothing() {
    let mut setup = Setup::new();
    for number in 0..500 {
        let application = format!("applications.app{number}");
        setup = setup.set(&format!("{application}.checksum_keys.main"), &format!("key-{number}"));
    }
    let app = setup.spawn();
    let post = |number: usize, key: &str| {
        let body = crate::harness::signed_with(key, &payment(&format!("REF-{number}")));
        app.post_to(&format!("app{number}"), body).status
    };
    for number in [0, 250, 499] {
        assert_eq!(post(number, &format!("key-{number}")), 200);
        assert_eq!(post(number, "key-1"), 401, "each has its own key");
    }
    // A series is there for what was used, not for what might be.
    let page = app.get("/metrics").body;
    assert!(page.lines().count() < 500, "{} lines", page.lines().count());
}

// --- Answers and lines that nobody reads ----------------------------------------------

/// Or else the answers pile up in the memory of the relay.
#[test]
fn who_sends_without_reading_is_slowed_down() {
    let app = App::spawn();
    let mut connection = Connection::open(app.http);
    connection.send(&request("GET", "/", &[], b"").repeat(1000));
    let ended = || app.samples().ended("rejected", "unknown_path");
    let enough = f64::from(REJECTIONS_MAX);
    eventually("it has had enough", || (ended() >= enough).then_some(()));
    thread::sleep(2 * REJECTION_WAITS);
    assert!(ended() <= enough + 4.0, "{}", ended());
    let answers: Vec<_> = (0..REJECTIONS_MAX).map(|_| connection.answer()).collect();
    let told: Vec<_> = answers.iter().map(|answer| answer.header("connection")).collect();
    let (last, before) = told.split_last().unwrap();
    assert!(before.iter().all(Option::is_none), "{answers:?}");
    assert_eq!(*last, Some("close"));
    drop(connection);
    eventually("it is let go", || (app.samples().sum("connections", &[]) == 0.0).then_some(()));

    // New webhooks are taken over one connection for as long as they come.
    let mut connection = Connection::open(app.http);
    for number in 0..2 * REJECTIONS_MAX {
        connection.send(&post(&format!("REF-{number}")));
        assert_eq!(connection.answer().status, 200, "{number}");
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut process =
        Process::serve_ready(&Setup::new().set("http.rejections_per_second", "1000000"));
    let address = process.address("http.listen");
    let get = |count| {
        for _ in 0..count {
            assert_eq!(ask(address, &request("GET", "/", &[], b"")).status, 404);
        }
    };
    let unread = process.read_nothing();
    // More than the pipe takes, and what may wait.
    get(8000);
    drop(unread);
    process.await_text("lines of the log were lost");

    let unread = process.read_nothing();
    get(600);
    process.signal("TERM");
    let ended = eventually("it ends", || Some(process_has_ended(process.id())).filter(|it| *it));
    drop(unread);
    assert!(ended && process.end().success());
}

/// Also one that its parent has not yet asked for its status.
fn process_has_ended(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    status.rsplit_once(") ").unwrap().1.starts_with('Z')
}
