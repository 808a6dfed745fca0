//! Arguments, printing and exit codes; what owns the process is here: sockets, signals, the log.

mod check_config;
mod connection;
mod dev;
mod keys;
mod rejected;
mod send;
mod serve;
mod show;
mod sign;
mod spool;
mod tail;
mod topics;
mod verify;

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use clickpesa_relay::{
    config::{Mistakes, Settings, Written},
    event::Data,
    telemetry,
};

/// The exit code for settings that cannot be used, `EX_CONFIG` of sysexits.h.
const EXIT_CONFIGURATION: u8 = 78;

/// ClickPesa's webhooks on Kafka: verified, normalised, acknowledged only once Kafka has them
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    /// File with settings, on top of which the environment counts
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take webhooks and publish them
    Serve,
    /// Try everything: a relay with an embedded broker, sample webhooks, their events
    Dev(dev::Dev),
    /// Sign a webhook and post it
    Send(send::Send),
    /// Print the checksum of a body, or the body with its checksum
    Sign(sign::Sign),
    /// Say whether a body's checksum holds, and if not, why
    Verify(verify::Verify),
    /// Say whether the settings can be used
    CheckConfig(check_config::CheckConfig),
    /// List, create or verify the topics
    Topics(topics::TopicsCommand),
    /// Print the events of the topics as they come
    Tail(tail::Tail),
    /// Look at what was rejected, and publish what holds after all
    Rejected(rejected::RejectedCommand),
    /// Look at the events that wait for Kafka, or get back those of a damaged file
    Spool(spool::SpoolCommand),
    /// Print the JSON Schema of an event's data
    Schema,
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Settings(#[from] Mistakes),
    #[error("{0}\nno key was given: `--key` or `--key-file` does without the settings")]
    SettingsOfKeys(Mistakes),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl Failure {
    fn failed(act: &str, cause: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{act}: {cause}"))
    }
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    let config = config.as_deref();
    let done = match command {
        Command::Serve => serve::run(config),
        Command::Dev(_) if config.is_some() => Err(Failure::Usage(
            "`dev` has settings of its own: leave out `--config`, or use `serve`".to_owned(),
        )),
        Command::Dev(dev) => dev.run(),
        Command::Send(send) => send.run(config),
        Command::Sign(sign) => sign.run(config),
        Command::Verify(verify) => verify.run(config),
        Command::CheckConfig(check) => check.run(config),
        Command::Topics(topics) => topics.run(config),
        Command::Tail(tail) => tail.run(config),
        Command::Rejected(rejected) => rejected.run(config),
        Command::Spool(spool) => spool.run(config),
        Command::Schema => schema(),
        Command::Completions { shell } => completions(shell),
    };
    telemetry::flush();
    done.unwrap_or_else(|failure| {
        let code = match failure {
            // The reader of our output has seen enough, as `head` does.
            Failure::Print(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Failure::Settings(_) | Failure::SettingsOfKeys(_) => EXIT_CONFIGURATION,
            Failure::Usage(_) => 2,
            Failure::Failed(_) | Failure::Print(_) => 1,
        };
        complain(&failure);
        ExitCode::from(code)
    })
}

fn complain(failure: &Failure) {
    for line in failure.to_string().lines() {
        anstream::eprintln!("{RED}error{RED:#}: {line}");
    }
}

const RED: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();

fn schema() -> Result<ExitCode, Failure> {
    let schema = schemars::schema_for!(Data<'static>);
    print(&serde_json::to_string_pretty(&schema).map_err(io::Error::from)?)
}

fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Not to the output itself: it would panic where nobody reads that to the end.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    // For bash, the hyphen of our name is escaped in two ways (clap-rs/clap#6421), so that
    // nothing would be offered behind a subcommand.
    let script =
        String::from_utf8_lossy(&script).replace("clickpesa__subcmd__relay", "clickpesa__relay");
    print(&script)
}

/// Prints a line of output.
fn print(line: &str) -> Result<ExitCode, Failure> {
    writeln!(anstream::stdout(), "{line}")?;
    Ok(ExitCode::SUCCESS)
}

/// The settings in force.
fn settings(config: Option<&Path>) -> Result<Settings, Failure> {
    Ok(Written::read(config, None)?.understand()?)
}

/// The whole of a file, or of standard input for `-`.
fn read_input(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| Failure::failed(&format!("cannot read `{}`", path.display()), error))
}
