//! Dates as text, in UTC, in the forms that mail has.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// `2026-11-21T22:30:01.123Z`, as the log and the spool have it (RFC 3339).
pub(crate) fn iso(time: SystemTime) -> String {
    format!("{:.3}", timestamp(time))
}

/// `Sat, 21 Nov 2026 22:30:01 +0000`, as a `Received:` line has it (RFC 5322 section 3.3).
pub(crate) fn received(time: SystemTime) -> String {
    civil(time)
        .strftime("%a, %d %b %Y %H:%M:%S +0000")
        .to_string()
}

/// `21-NOV-26 22:30:01-UT`, as a `Mail-From:` line has it (RFC 788 section 4.1.2).
pub(crate) fn mail_from(time: SystemTime) -> String {
    civil(time).strftime("%d-%^b-%y %H:%M:%S-UT").to_string()
}

/// `Sat Nov 21 22:30:01 2026`, the day padded with a space, as an mbox has it (asctime(3)).
pub(crate) fn asctime(time: SystemTime) -> String {
    civil(time).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

fn civil(time: SystemTime) -> DateTime {
    TimeZone::UTC.to_datetime(timestamp(time))
}

/// A clock beyond the year 9999 is no reason to fail: it reads 1970.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_form_reads_as_mail_has_it() {
        let rows = [
            (
                1_795_300_201,
                "2026-11-21T22:30:01.000Z",
                "Sat, 21 Nov 2026 22:30:01 +0000",
                "21-NOV-26 22:30:01-UT",
                "Sat Nov 21 22:30:01 2026",
            ),
            (
                951_782_400,
                "2000-02-29T00:00:00.000Z",
                "Tue, 29 Feb 2000 00:00:00 +0000",
                "29-FEB-00 00:00:00-UT",
                "Tue Feb 29 00:00:00 2000",
            ),
            (
                4_107_542_399,
                "2100-02-28T23:59:59.000Z",
                "Sun, 28 Feb 2100 23:59:59 +0000",
                "28-FEB-00 23:59:59-UT",
                "Sun Feb 28 23:59:59 2100",
            ),
            // A clock that has no year reads 1970; the day is padded in an mbox.
            (
                400_000_000_000,
                "1970-01-01T00:00:00.000Z",
                "Thu, 01 Jan 1970 00:00:00 +0000",
                "01-JAN-70 00:00:00-UT",
                "Thu Jan  1 00:00:00 1970",
            ),
        ];
        for (seconds, as_iso, as_received, as_mail_from, as_asctime) in rows {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(iso(time), as_iso);
            assert_eq!(received(time), as_received);
            assert_eq!(mail_from(time), as_mail_from);
            assert_eq!(asctime(time), as_asctime);
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_millis(1);
        assert_eq!(iso(before_1970), "1969-12-31T23:59:59.999Z");
    }
}
