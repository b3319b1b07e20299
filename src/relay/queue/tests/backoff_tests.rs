use super::*;

const HOURS: BackOff = BackOff {
    min: Duration::from_secs(300),
    max: Duration::from_secs(14_400),
};

#[test]
fn it_doubles_up_to_the_longest() {
    let rows = [(0, 300), (1, 300), (2, 600), (3, 1_200), (6, 9_600)];
    for (failures, seconds) in rows {
        assert_eq!(HOURS.wait(failures, 0).as_secs(), seconds, "{failures}");
    }
    for failures in [7, 8, 31, 32, 33, 64, u32::MAX] {
        assert_eq!(HOURS.wait(failures, 0).as_secs(), 14_400, "{failures}");
        assert_eq!(HOURS.wait(failures, 1_000).as_secs(), 11_520, "{failures}");
    }
}

#[test]
fn jitter_only_lengthens() {
    for jitter in 0..2_000 {
        let wait = HOURS.wait(1, jitter);
        assert!(wait >= HOURS.min, "{wait:?}");
        assert!(wait <= HOURS.min + HOURS.min / 5, "{wait:?}");
        assert!(HOURS.wait(6, jitter) <= HOURS.max);
        assert!(HOURS.wait(6, jitter) >= HOURS.min * 32);
        // The longest is all there is: no earlier than the first.
        let steady = BackOff {
            max: HOURS.min,
            ..HOURS
        };
        assert_eq!(steady.wait(1, jitter), HOURS.min);
    }
    assert_ne!(HOURS.wait(3, 1), HOURS.wait(3, 900));
}

#[test]
fn odd_settings_are_no_trouble() {
    let zero = BackOff {
        min: Duration::ZERO,
        max: Duration::ZERO,
    };
    assert_eq!(zero.wait(9, u64::MAX), Duration::ZERO);
    let upside_down = BackOff {
        min: Duration::from_secs(60),
        max: Duration::from_secs(10),
    };
    assert!(upside_down.wait(1, 1_000) <= Duration::from_secs(10));
    let huge = BackOff {
        min: Duration::MAX,
        max: Duration::MAX,
    };
    assert!(huge.wait(40, 1_000) <= Duration::MAX);
}

#[test]
fn the_clock_goes_on() {
    let before = now();
    std::thread::sleep(Duration::from_millis(3));
    assert!(now() >= before + 2);
}
