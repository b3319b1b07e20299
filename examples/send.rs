//! Sends a file as one mail: `cargo run --example send ADDR:PORT FROM TO FILE`.

use std::error::Error;
use std::io::{self, Read};
use std::process::ExitCode;
use std::{env, fs};

use smtpd788::send::{self, Fate, Mailer};

const USAGE: &str = "Usage: send ADDR:PORT FROM TO FILE

Sends FILE (- is standard input), headers and all, to the server at ADDR:PORT.
FROM and TO are user@host; FROM may be <>. Lines may end in LF or CR LF.
Exit status: 0 taken, 64 wrong usage, 69 refused for good, 75 try again later,
1 anything else.";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match &arguments[..] {
        [help] if help == "-h" || help == "--help" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [addr, from, to, file] => send(addr, from, to, file),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    let (status, said) = match result {
        Ok(Fate::Delivered(said)) => (0, said),
        Ok(Fate::Never(said)) => (69, said),
        Ok(Fate::Later(said)) => (75, said),
        Err(error) => (1, error.to_string()),
    };
    eprintln!("{said}");
    ExitCode::from(status)
}

fn send(addr: &str, from: &str, to: &str, file: &str) -> Result<Fate, Box<dyn Error>> {
    let mut text = Vec::new();
    match file {
        "-" => io::stdin().read_to_end(&mut text)?,
        file => fs::File::open(file)?.read_to_end(&mut text)?,
    };
    let path = |address: &str| format!("<{}>", address.trim_matches(['<', '>']));
    let mailer = Mailer::new("localhost".parse()?);
    let (from, to) = (path(from).parse()?, [path(to).parse()?]);
    let mut fates = mailer.to_host(addr, &from, &to, &send::content(text)?)?;
    Ok(fates.remove(0))
}
