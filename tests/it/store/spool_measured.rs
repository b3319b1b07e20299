//! Measurements of the spool, printed; nothing is asserted about time.

use smtpd788::message::{Body, Id};
use smtpd788::smtp::address::ForwardPath;
use smtpd788::spool::{self, NewEntry, Origin, Spool};
use std::fs;
use std::time::{Instant, SystemTime};

fn accept(spool: &Spool, id: Id, body: &Body) {
    let (from, to) = (
        "<john@example.org>".parse().unwrap(),
        ["<mary@example.net>".parse::<ForwardPath>().unwrap().into()],
    );
    let (received, next_try) = (SystemTime::now(), SystemTime::now());
    let heading = b"Received: from a ([192.0.2.1]) by b with SMTP id x; now\n";
    spool
        .accept(&NewEntry {
            id,
            of: None,
            from: &from,
            received,
            origin: Origin::Inside,
            to: &to,
            heading,
            body,
            next_try,
        })
        .unwrap();
}

/// `cargo test --release --test spool_measured -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_messages() {
    let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let whole = {
        let spool = Spool::open(temp.path()).unwrap();
        let id = Id::new();
        accept(
            &spool,
            id,
            &Body::from_bytes(b"Subject: x\n\ntext\n".to_vec()),
        );
        let path = spool.dir().join(id.to_string());
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        bytes
    };
    for n in 0..100_000u64 {
        fs::write(temp.path().join(format!("{:016x}", n << 20)), &whole).unwrap();
    }
    let start = Instant::now();
    let spool = Spool::open(temp.path()).unwrap();
    println!("open:  {:?}", start.elapsed());
    let start = Instant::now();
    let mut found = 0;
    spool.scan(&mut |_, _| found += 1).unwrap();
    println!("scan:  {:?}", start.elapsed());
    assert_eq!(found, 100_000);
    let start = Instant::now();
    let table = spool::table(temp.path()).unwrap().unwrap();
    println!("table: {:?}, {} octets", start.elapsed(), table.len());
}

/// What the record of a last recipient costs, while 20 threads accept and 5 finish. In short turns, since what
/// else the machine does changes much more than that; the best of each is the one least disturbed.
#[test]
#[ignore = "a measurement"]
fn in_and_out_at_once() {
    const MESSAGES: usize = 1_000;
    let ways = ["remove", "record, remove"];
    let mut rates = [const { Vec::new() }; 2];
    for _ in 0..25 {
        for (how, rates) in rates.iter_mut().enumerate() {
            let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let spool = Spool::open(temp.path()).unwrap();
            let (give, take) = std::sync::mpsc::channel::<Id>();
            let take = std::sync::Mutex::new(take);
            let body = Body::from_bytes(vec![b'x'; 1_000]);
            let next = || take.lock().unwrap().recv();
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..20 {
                    let give = give.clone();
                    let (spool, body) = (&spool, &body);
                    scope.spawn(move || {
                        for _ in 0..MESSAGES / 20 {
                            let id = Id::new();
                            accept(spool, id, body);
                            give.send(id).unwrap();
                        }
                    });
                }
                drop(give);
                for _ in 0..5 {
                    scope.spawn(|| {
                        while let Ok(id) = next() {
                            let mut queued = spool.load(id).unwrap().unwrap();
                            match how {
                                0 => queued.remove().unwrap(),
                                _ => {
                                    queued.finish_recipient(0, "250 OK").unwrap();
                                    queued.remove().unwrap();
                                }
                            }
                        }
                    });
                }
            });
            rates.push(MESSAGES as f64 / start.elapsed().as_secs_f64());
            // Only the lock is left.
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        }
    }
    for (way, mut rates) in ways.into_iter().zip(rates) {
        rates.sort_by(f64::total_cmp);
        let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
        println!("median {median:5.0}, best {best:5.0} messages/s: {way}");
    }
}
