//! Dates as text, in UTC, in the forms that mail has. By hand: every message needs several, and a format string costs
//! more than all the rest of its lines.

use std::time::SystemTime;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A moment in UTC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Utc(DateTime);

impl Utc {
    /// A clock beyond the year 9999 is no reason to fail: it reads 1970.
    pub(crate) fn at(time: SystemTime) -> Utc {
        let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Utc(TimeZone::UTC.to_datetime(time))
    }

    /// `2026-11-21T22:30:01.123Z`: the log's.
    pub(crate) fn push_iso(self, out: &mut String) {
        self.push_year(out);
        out.push('-');
        push_digits(out, self.0.month(), 2);
        out.push('-');
        push_digits(out, self.0.day(), 2);
        out.push('T');
        self.push_time(out);
        out.push('.');
        push_digits(out, self.0.millisecond(), 3);
        out.push('Z');
    }

    /// `Sat, 21 Nov 2026 22:30:01 +0000`: a `Received:` line's (RFC 5322 section 3.3).
    pub(crate) fn push_received(self, out: &mut String) {
        out.push_str(self.day_name());
        out.push_str(", ");
        push_digits(out, self.0.day(), 2);
        out.push(' ');
        out.push_str(self.month_name());
        out.push(' ');
        self.push_year(out);
        out.push(' ');
        self.push_time(out);
        out.push_str(" +0000");
    }

    /// `21-NOV-26 22:30:01-UT`: a `Mail-From:` line's (RFC 788 section 4.1.2).
    pub(crate) fn push_mail_from(self, out: &mut String) {
        push_digits(out, self.0.day(), 2);
        out.push('-');
        let month = self.month_name().chars();
        out.extend(month.map(|letter| letter.to_ascii_uppercase()));
        out.push('-');
        push_digits(out, self.0.year(), 2);
        out.push(' ');
        self.push_time(out);
        out.push_str("-UT");
    }

    /// `Sat Nov 21 22:30:01 2026`, the day padded with a space: an mbox's (asctime(3)).
    pub(crate) fn push_asctime(self, out: &mut String) {
        out.push_str(self.day_name());
        out.push(' ');
        out.push_str(self.month_name());
        out.push_str(if self.0.day() < 10 { "  " } else { " " });
        push_digits(out, self.0.day(), if self.0.day() < 10 { 1 } else { 2 });
        out.push(' ');
        self.push_time(out);
        out.push(' ');
        self.push_year(out);
    }

    fn push_year(self, out: &mut String) {
        push_digits(out, self.0.year(), 4);
    }

    fn push_time(self, out: &mut String) {
        push_digits(out, self.0.hour(), 2);
        out.push(':');
        push_digits(out, self.0.minute(), 2);
        out.push(':');
        push_digits(out, self.0.second(), 2);
    }

    fn day_name(self) -> &'static str {
        let day = self.0.weekday().to_sunday_zero_offset();
        DAYS[usize::from(day.unsigned_abs()) % 7]
    }

    fn month_name(self) -> &'static str {
        MONTHS[usize::from(self.0.month().unsigned_abs().saturating_sub(1)) % 12]
    }
}

/// The last `width` digits of a number; its sign is lost.
fn push_digits(out: &mut String, number: impl Into<i32>, width: u32) {
    let number = number.into().unsigned_abs();
    for place in (0..width).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        out.push(char::from(b'0' + digit as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Form = fn(Utc, &mut String);

    fn text(seconds: u64, form: Form) -> String {
        let mut text = String::new();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        form(Utc::at(time), &mut text);
        text
    }

    #[test]
    fn each_form_is_what_jiff_writes_of_every_day_and_hour() {
        let forms: [(Form, &str); 4] = [
            (Utc::push_iso, "%Y-%m-%dT%H:%M:%S.000Z"),
            (Utc::push_received, "%a, %d %b %Y %H:%M:%S +0000"),
            (Utc::push_mail_from, "%d-%^b-%y %H:%M:%S-UT"),
            (Utc::push_asctime, "%a %b %e %H:%M:%S %Y"),
        ];
        // A step of a day, an hour, a minute and a second, over 100 years.
        for seconds in (0..36_600).map(|step| step * 90_061) {
            let at = jiff::Timestamp::from_second(seconds).unwrap();
            for (form, format) in forms {
                assert_eq!(
                    text(seconds.unsigned_abs(), form),
                    at.strftime(format).to_string()
                );
            }
        }
    }

    #[test]
    fn a_clock_that_has_no_year_reads_1970() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(400_000_000_000);
        let mut text = String::new();
        Utc::at(far).push_asctime(&mut text);
        assert_eq!(text, "Thu Jan  1 00:00:00 1970");
    }
}
